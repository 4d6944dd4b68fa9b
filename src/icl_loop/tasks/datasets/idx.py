"""IDX files, plain or gzipped: the format of MNIST.

The layout, from the original MNIST page: two zero bytes, a type code (8 for unsigned bytes), the
number of dimensions, their sizes as big-endian 32-bit integers, the data.
"""

import gzip
import math
import os.path
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import DatasetError, reason_of
from icl_loop.core.regular_files import open_regular

MAX_BYTES = 2**31
_CONTENTS = {1: "labels", 3: "images"}
"""By number of dimensions."""


def load_prefix(prefix: str) -> tuple[NDArray[np.uint8], NDArray[np.intp], tuple[str, ...]]:
    """Return what `load_pair` does, from files named as those of MNIST, gzipped or not."""
    plain = [Path(f"{prefix}-{each}-ubyte") for each in ("images-idx3", "labels-idx1")]
    images, labels = (path if exists(path) else Path(f"{path}.gz") for path in plain)
    return load_pair(images, labels)


def load_pair(
    images: Path, labels: Path
) -> tuple[NDArray[np.uint8], NDArray[np.intp], tuple[str, ...]]:
    """Return images (count, height, width), classes (count,) and the names of the classes.

    Raises:
        DatasetError: A file is missing or corrupt, has the wrong dimensions, or the two files
            differ in length.
    """
    pixels = load(images, dimensions=3)
    numbers = load(labels, dimensions=1)
    if len(pixels) != len(numbers):
        raise DatasetError(
            f"{images} has {len(pixels)} images but {labels} has {len(numbers)} labels"
        )
    names, classes = np.unique(numbers, return_inverse=True)
    return pixels, classes.astype(np.intp), tuple(str(name) for name in names.tolist())


def load(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array in an IDX file, which must have this many dimensions."""
    try:
        with _open(path) as file:
            return _read(file, dimensions)
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DatasetError(f"{path} is corrupt or truncated") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {reason_of(error)}") from None
    except MemoryError:
        raise DatasetError(f"{path} does not fit in memory") from None
    except ValueError as error:
        raise DatasetError(f"{path} {error}") from None


def exists(path: Path) -> bool:
    """Return whether a path exists; False if this cannot be found out."""
    return os.path.exists(path)  # noqa: PTH110  Path.exists raises an error for some paths


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; unpack it while reading if it is gzipped."""
    with open_regular(path, MAX_BYTES + 2**20) as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if gzipped else file


def _read(file: IO[bytes], dimensions: int) -> NDArray[np.uint8]:
    header = file.read(4)
    if len(header) < 4 or header[:3] != b"\0\0\x08":
        raise ValueError(
            f"is not an IDX file of unsigned bytes: it starts with {header.hex(' ')}, not 00 00 08"
        )
    if header[3] != dimensions:
        found, wanted = (_CONTENTS.get(n, f"{n}-dimensional data") for n in (header[3], dimensions))
        raise ValueError(f"has {found}, not {wanted}")
    raw = file.read(4 * dimensions)
    if len(raw) < 4 * dimensions:
        raise ValueError("is truncated: it ends inside its header")
    sizes = struct.unpack(f">{dimensions}I", raw)
    count = math.prod(sizes)
    if not 0 < count <= MAX_BYTES:
        raise ValueError(f"has an impossible header: sizes {sizes}")
    data = bytearray()  # grows with the file: the header may claim more than there is
    while chunk := file.read(min(count + 1 - len(data), 2**20)):
        data += chunk
    if len(data) != count:
        found = f"more than {count}" if len(data) > count else str(len(data))
        raise ValueError(f"should have {count} values, found {found}")
    return np.frombuffer(memoryview(data).toreadonly(), dtype=np.uint8).reshape(sizes)
