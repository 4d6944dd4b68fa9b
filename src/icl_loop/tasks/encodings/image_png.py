"""Images shown as PNG files of the same resized grey levels that the texts show.

The file is written without compression, as the PNG specification (ISO 15948) and RFC 1950 and 1951
lay it out, so its bytes, and with them the fingerprint of a request, do not depend on the version of
zlib.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from icl_loop.core.messages import Image
from icl_loop.tasks.encodings.image_text import MAX_SIDE, PixelEncoding, Pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II5B")
_GREY_8_BIT = (8, 0, 0, 0, 0)
"""Bit depth, colour type, compression, filter and interlace method."""
_NO_FILTER = 0
_ZLIB_HEADER = b"\x78\x01"
_MAX_BLOCK = 65_535
"""Largest stored block, in bytes."""
_HEADER_OFFSET = len(_SIGNATURE) + 8
_DATA_OFFSET = _HEADER_OFFSET + _HEADER.size + 4 + 8
"""Each chunk is a length, a type, the contents and a checksum, of 4 bytes each but the contents."""


@dataclass(frozen=True)
class PngEncoding(PixelEncoding):
    """Shows pixels as an image of 256 grey levels."""

    name: str = "png"
    step: float = 1 / 255

    def encode(self, values: Pixels) -> Image:
        """Return the PNG file of `values`, shape (rows, columns), each between 0 and 1."""
        self.check_pixels(values)
        rows, columns = values.shape
        levels = np.rint(values * 255).astype(np.uint8)
        lines = np.pad(levels, ((0, 0), (1, 0)), constant_values=_NO_FILTER)
        header = _HEADER.pack(columns, rows, *_GREY_8_BIT)
        chunks = (b"IHDR", header), (b"IDAT", _stored(lines.tobytes())), (b"IEND", b"")
        return Image(_SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks))

    def parse(self, shown: Image) -> Pixels:
        """Return the pixels of an image, exact to 8 bits, from where `encode` puts them."""
        columns, rows, *_ = _HEADER.unpack_from(shown.png, _HEADER_OFFSET)
        if not (0 < columns <= MAX_SIDE and 0 < rows <= MAX_SIDE):
            raise ValueError(f"its size is {columns} x {rows} pixels")
        size = rows * (columns + 1)
        lines = zlib.decompressobj().decompress(shown.png[_DATA_OFFSET:], size)
        levels = np.frombuffer(lines, np.uint8).reshape(rows, columns + 1)[:, 1:]
        return levels.astype(np.float32) / np.float32(255)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _stored(data: bytes) -> bytes:
    """Return `data` as a zlib stream of stored blocks."""
    body = b""
    for start in range(0, len(data), _MAX_BLOCK):
        block = data[start : start + _MAX_BLOCK]
        last = start + _MAX_BLOCK >= len(data)
        body += struct.pack("<BHH", last, len(block), _MAX_BLOCK - len(block)) + block
    return _ZLIB_HEADER + body + struct.pack(">I", zlib.adler32(data))
