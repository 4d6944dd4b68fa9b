"""A folder of pictures, one sub-folder a class."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from icl_loop.errors import DatasetError

MAX_PIXELS = 64_000_000
"""Largest picture that is opened; a larger one is refused by its header, before its pixels."""

Found = tuple[list[NDArray[np.uint8]], NDArray[np.intp], tuple[str, ...]]


def load(folder: Path) -> Found:
    """Return the pictures in `folder`, their classes and the names of the sub-folders.

    Classes and files are taken in the order of their names; hidden files are passed over.

    Raises:
        DatasetError: There is no such folder, a class is empty, or a file is not a picture.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path))
    if not classes:
        raise DatasetError(f"{folder} has no sub-folders; each class is a sub-folder of pictures")
    images: list[NDArray[np.uint8]] = []
    numbers: list[int] = []
    for number, path in enumerate(classes):
        files = sorted(file for file in path.iterdir() if file.is_file() and not _hidden(file))
        if not files:
            raise DatasetError(f"the class folder {path} is empty")
        images += [read_picture(file) for file in files]
        numbers += [number] * len(files)
    return images, np.array(numbers, dtype=np.intp), tuple(path.name for path in classes)


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Return the picture at `path` as uint8: (height, width) if grey, else (height, width, 3).

    It is turned as its camera noted; transparency is laid over white; 16-bit grey is scaled.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                _refuse_huge(path, picture)
                return _to_array(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise DatasetError(f"{path} is not a picture that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DatasetError(f"{path} is corrupt or truncated: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DatasetError(f"{path} has more than {MAX_PIXELS:,} pixels") from None


def _refuse_huge(path: Path, picture: Image.Image) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise DatasetError(
            f"{path} has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}"
        )


def _to_array(picture: Image.Image) -> NDArray[np.uint8]:
    if picture.mode.startswith("I;16"):
        return (np.asarray(picture).astype(np.uint32) // 257).astype(np.uint8)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    grey = picture.mode in ("1", "L")
    return np.asarray(picture.convert("L" if grey else "RGB"))
