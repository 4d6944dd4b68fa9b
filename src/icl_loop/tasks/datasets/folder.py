"""A folder of pictures, one sub-folder a class."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from icl_loop.core.errors import DatasetError

MAX_BYTES = 2**31
"""Most bytes that the pictures of a folder take together."""
MAX_PIXELS = 64_000_000
"""Largest picture that is opened; a larger one is refused by its header, before its pixels."""

BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's readers raise on broken files, as altering files byte by byte brought to light."""

Found = tuple[list[NDArray[np.uint8]], NDArray[np.intp], tuple[str, ...]]


def load(folder: Path) -> Found:
    """Return the pictures in `folder`, their classes and the names of the sub-folders.

    Classes and files are taken in the order of their names; hidden files are passed over.

    Raises:
        DatasetError: There is no such folder, a class is empty, or a file is not a picture.
    """
    classes = _in(folder, Path.is_dir)
    if not classes:
        raise DatasetError(
            f"{_shown(folder)} has no sub-folders; each class is a sub-folder of pictures"
        )
    images: list[NDArray[np.uint8]] = []
    numbers: list[int] = []
    size = 0
    for number, path in enumerate(classes):
        files = _in(path, Path.is_file)
        if not files:
            raise DatasetError(f"the class folder {_shown(path)} is empty")
        for file in files:
            images.append(read_image(file))
            size += images[-1].nbytes
            if size > MAX_BYTES:
                raise DatasetError(
                    f"{_shown(folder)}: the pictures take more than {MAX_BYTES // 2**20:,} MiB"
                )
        numbers += [number] * len(files)
    return images, np.array(numbers, dtype=np.intp), tuple(path.name for path in classes)


def _in(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """Return what is wanted of the things in `folder` that are not hidden, by name."""
    try:
        return sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and wanted(path)
        )
    except OSError as error:
        raise DatasetError(
            f"{_shown(folder)} is not a folder that can be read: {error.strerror}"
        ) from None


def _shown(path: Path) -> str:
    """Return `path` as text that can be printed, whatever bytes its name is made of."""
    return os.fsencode(path).decode(errors="backslashreplace")


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the picture at `path` as uint8: (height, width) if grey, else (height, width, 3).

    It is turned as its camera noted; transparency is laid over white; 16-bit grey is scaled.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow forgives, such as a torn EXIF note
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                _refuse_huge(picture)
                return _to_array(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise DatasetError(f"{_shown(path)} is not a picture that Pillow can read") from None
    except BROKEN as error:
        why = str(error) or type(error).__name__
        raise DatasetError(f"{_shown(path)} cannot be read as a picture: {why}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DatasetError(f"{_shown(path)} has more than {MAX_PIXELS:,} pixels") from None


def _refuse_huge(picture: Image.Image) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width} x {picture.height} pixels are more than {MAX_PIXELS:,}")


def _to_array(picture: Image.Image) -> NDArray[np.uint8]:
    if picture.mode == "F":
        raise ValueError("its values are fractions, and which of them is white is not known")
    if picture.mode.startswith("I"):
        return _from_16_bits(np.asarray(picture).astype(np.int64))
    grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(picture.convert("L" if grey else "RGB"))


def _from_16_bits(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError("its values do not fit into 16 bits")
    return (values // 257).astype(np.uint8)
