"""Pictures that are seen: the same resized grey levels as in the texts, as a PNG file.

The file is written without compression, block by block, as the PNG specification (ISO 15948) and
RFC 1950 and 1951 lay it out. So its bytes, and with them the fingerprint of a request, are the same
on every machine, whichever version of zlib is there.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import EncodingError
from icl_loop.core.messages import Image
from icl_loop.tasks.encodings.image_text import MAX_SIDE, PixelEncoding, Pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II5B")
_GREY_OF_8_BITS = (8, 0, 0, 0, 0)
"""Bits, colour type, compression, filter and interlace, in the terms of the header."""
_NO_FILTER = 0
_STORED = b"\x78\x01"
"""The header of a zlib stream that makes no promise of compression."""
_BLOCK = 65_535
"""Most bytes of a stored block."""
_HEADER_AT = len(_SIGNATURE) + 8
_DATA_AT = _HEADER_AT + _HEADER.size + 4 + 8
"""Where the contents of the two first chunks begin: behind length and kind, and one checksum."""


@dataclass(frozen=True)
class PngEncoding(PixelEncoding):
    """Shows pixels as a picture of 256 grey levels."""

    name: str = "png"
    step: float = 1 / 255

    def encode(self, values: Pixels) -> Image:
        """Return the PNG file of `values`, shape (rows, columns), each between 0 and 1."""
        self.check_pixels(values)
        rows, columns = values.shape
        levels = np.rint(values * 255).astype(np.uint8)
        lines = np.pad(levels, ((0, 0), (1, 0)), constant_values=_NO_FILTER)
        header = _HEADER.pack(columns, rows, *_GREY_OF_8_BITS)
        chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", _stored(lines.tobytes())), _chunk(b"IEND")
        return Image(_SIGNATURE + b"".join(chunks))

    def decode(self, shown: Image) -> Pixels:
        """Return the pixels of a picture, exact to 8 bits.

        Raises:
            EncodingError: It is not a PNG file that `encode` writes.
        """
        try:
            values = _levels(shown.png).astype(np.float32) / np.float32(255)
        except (struct.error, zlib.error, ValueError) as error:
            raise EncodingError(f"not a picture of the png encoding: {error}") from None
        if self.encode(values) != shown:
            raise EncodingError("not a picture of the png encoding: it is written otherwise")
        return values


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _stored(data: bytes) -> bytes:
    """Return `data` as a zlib stream of stored blocks."""
    blocks = [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)]
    heads = [
        struct.pack("<BHH", number == len(blocks), len(block), _BLOCK - len(block))
        for number, block in enumerate(blocks, start=1)
    ]
    body = b"".join(head + block for head, block in zip(heads, blocks, strict=True))
    return _STORED + body + struct.pack(">I", zlib.adler32(data))


def _levels(png: bytes) -> NDArray[np.uint8]:
    """Return what stands where `encode` puts the grey levels, shape (rows, columns)."""
    columns, rows, *_ = _HEADER.unpack_from(png, _HEADER_AT)
    if not (0 < columns <= MAX_SIDE and 0 < rows <= MAX_SIDE):
        raise ValueError(f"its sides are {columns} x {rows} pixels")
    size = rows * (columns + 1)
    lines = zlib.decompressobj().decompress(png[_DATA_AT:], size)
    return np.frombuffer(lines, np.uint8).reshape(rows, columns + 1)[:, 1:]
