"""A folder of images, with one sub-folder per class."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from icl_loop.core.errors import DatasetError, reason_of
from icl_loop.core.regular_files import open_regular
from icl_loop.tasks.datasets.dataset import Loaded

MAX_BYTES = 2**31
"""Most bytes of all decoded images of a folder."""
MAX_FILE = 2**27
"""Most bytes of the file of an image."""
MAX_PIXELS = 16_000_000
"""Most pixels of an image; a larger one is rejected by its header, before it is decoded."""
FORMATS = (
    *("AVIF", "BMP", "DDS", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF"),
    "WEBP",
)
"""The formats that are read; Pillow would read others, such as EPS by starting Ghostscript."""

_PILLOW_ERRORS = (
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
"""What Pillow raises for broken files, found by altering files byte by byte."""


def load(folder: Path) -> Loaded:
    """Return the images in `folder`, the class of each image, and the names of the classes.

    Classes and files are sorted by name; hidden ones are skipped.

    Raises:
        DatasetError: The folder does not exist, a class is empty, or a file is not an image.
    """
    classes = _visible(folder, Path.is_dir)
    if not classes:
        raise DatasetError(
            f"{_printable(folder)} has no sub-folders; put the images of each class in one"
        )
    images: list[NDArray[np.uint8]] = []
    numbers: list[int] = []
    size = 0
    for number, path in enumerate(classes):
        files = _visible(path, lambda entry: not entry.is_dir())
        if not files:
            raise DatasetError(f"the class folder {_printable(path)} is empty")
        for file in files:
            images.append(read_image(file))
            size += images[-1].nbytes
            if size > MAX_BYTES:
                raise DatasetError(
                    f"{_printable(folder)}: the images take more than {MAX_BYTES // 2**20:,} MiB"
                )
        numbers += [number] * len(files)
    return images, np.array(numbers, dtype=np.intp), tuple(path.name for path in classes)


def _visible(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """Return the wanted entries of a folder that are not hidden, sorted by name."""
    try:
        return sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and wanted(path)
        )
    except OSError as error:
        raise DatasetError(
            f"{_printable(folder)} is not a readable folder: {reason_of(error)}"
        ) from None


def _printable(path: Path) -> str:
    """Return `path` with undecodable bytes escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image as uint8: (height, width) if grey, else (height, width, 3).

    The EXIF orientation is applied, transparent pixels are shown on white, and 16-bit grey levels
    are scaled to 8 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # recoverable faults, such as truncated EXIF data
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_regular(path, MAX_FILE) as file, Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError  # noqa: TRY301  as Pillow does
                return _to_array(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise DatasetError(f"{_printable(path)} is not an image of a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DatasetError(f"{_printable(path)} has more than {MAX_PIXELS:,} pixels") from None
    except _UnusableValues as error:
        raise DatasetError(f"{_printable(path)} cannot be read as an image: {error}") from None
    except _PILLOW_ERRORS as error:
        problem = "it is damaged or incomplete"
        if isinstance(error, OSError) and error.errno is not None:
            problem = reason_of(error)
        raise DatasetError(f"{_printable(path)} cannot be read as an image: {problem}") from None


class _UnusableValues(ValueError):
    """The values of pixels cannot be scaled to 8 bits."""


def _to_array(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise _UnusableValues("its values are floats, for which white is not defined")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise _UnusableValues("its values do not fit into 16 bits")
        return (values // 257).astype(np.uint8)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("L" if grey else "RGB"))
