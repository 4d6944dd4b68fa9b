"""IDX files, plain or gzipped: the format in which MNIST and its cousins are published.

The layout is the one described on the original MNIST page: two zero bytes, a type code (8 for
unsigned bytes), the number of dimensions, the sizes as big-endian 32-bit integers, the data.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import DatasetError

MAX_BYTES = 2**31
"""Largest payload that is read; a header that claims more is refused."""


def load_pair(
    images: Path, labels: Path
) -> tuple[NDArray[np.uint8], NDArray[np.intp], tuple[str, ...]]:
    """Return images (count, height, width), classes (count,) and the names of the classes.

    Raises:
        DatasetError: A file is missing, corrupt, truncated or the other kind, or the two differ
            in length.
    """
    pictures = load(images, dimensions=3)
    numbers = load(labels, dimensions=1)
    if len(pictures) != len(numbers):
        raise DatasetError(
            f"{images} holds {len(pictures)} images but {labels} holds {len(numbers)} labels"
        )
    names, classes = np.unique(numbers, return_inverse=True)
    return pictures, classes.astype(np.intp), tuple(str(name) for name in names.tolist())


def load(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array in the IDX file at `path`, which must have this many dimensions."""
    try:
        with _open(path) as file:
            return _read(file, path, dimensions)
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path} is corrupt or truncated: {error}") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    except MemoryError:
        raise DatasetError(f"{path} holds more than fits in memory") from None


def present(*paths: Path) -> Path | None:
    """Return the first of `paths` that is there and may be looked at, or None."""
    for path in paths:
        try:
            if path.exists():
                return path
        except OSError:
            continue  # a name too long, a folder closed to us: opening it says which
    return None


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path, "rb") if gzipped else path.open("rb"))


def _read(file: IO[bytes], path: Path, dimensions: int) -> NDArray[np.uint8]:
    header = file.read(4)
    if len(header) < 4 or header[:3] != b"\0\0\x08":
        raise DatasetError(f"{path} is not an IDX file of unsigned bytes: it starts {header!r}")
    if header[3] != dimensions:
        kinds = {1: "labels", 3: "images"}
        found, wanted = (kinds.get(n, f"{n}-dimensional data") for n in (header[3], dimensions))
        raise DatasetError(f"{path} holds {found}, not {wanted}")
    raw = file.read(4 * dimensions)
    if len(raw) < 4 * dimensions:
        raise DatasetError(f"{path} is truncated: it ends within its header")
    sizes = struct.unpack(f">{dimensions}I", raw)
    count = math.prod(sizes)
    if not 0 < count <= MAX_BYTES:
        raise DatasetError(f"{path} has an impossible header: sizes {sizes}")
    data = _read_up_to(count + 1, file)
    if len(data) != count:
        more = "more than " if len(data) > count else ""
        raise DatasetError(
            f"{path} should hold {count} values, found {more}{min(len(data), count)}"
        )
    return np.frombuffer(memoryview(data).toreadonly(), dtype=np.uint8).reshape(sizes)


def _read_up_to(count: int, file: IO[bytes]) -> bytearray:
    """Return the next `count` bytes or what there is; memory is taken as they come, not before."""
    data = bytearray()
    while chunk := file.read(min(count - len(data), 2**20)):
        data += chunk
    return data
