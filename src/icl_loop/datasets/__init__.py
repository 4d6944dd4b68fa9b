"""Data sets: `digits` is embedded, `mnist` and its cousins are downloaded, others are yours."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from icl_loop.datasets import folder, idx, published
from icl_loop.datasets.dataset import Dataset
from icl_loop.errors import DatasetError, nearest

__all__ = ["Dataset", "open_dataset"]

_NAMES = (
    "digits",
    *(f"{name}:{split}" for name in published.PUBLISHED for split in published.SPLITS),
    "idx:PREFIX",
    "folder:DIR",
)


@lru_cache(maxsize=4)
def open_dataset(name: str) -> Dataset:
    """Return the data set called `name`; the last few opened are kept in memory.

    Names are `digits`, `mnist:train`, `mnist:test`, the same for `fashion-mnist` and `kmnist`,
    `idx:PREFIX` for PREFIX-images-idx3-ubyte[.gz] with its labels, and `folder:DIR`.

    Raises:
        DatasetError: There is no such data set, or its files are not sound.
    """
    kind, _, rest = name.partition(":")
    if name == "digits":
        return _digits()
    if kind in published.PUBLISHED and rest in published.SPLITS:
        return _published(name, kind, rest)
    if kind == "idx" and rest:
        return Dataset(name, *idx.load_pair(*(_idx_path(rest, kind) for kind in published.KINDS)))
    if kind == "folder" and rest:
        return Dataset(name, *folder.load(Path(rest)))
    raise DatasetError(f"unknown data set {name!r}: {nearest(name, _NAMES)}")


def _digits() -> Dataset:
    """Return scikit-learn's copy of the UCI optical digits: 1,797 images of 8 x 8, 17 levels."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  it takes a second to import

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return Dataset("digits", images, bunch.target.astype(np.intp), tuple("0123456789"))


def _published(name: str, kind: str, split: str) -> Dataset:
    source = published.PUBLISHED[kind]
    images, classes, numbers = idx.load_pair(*published.find(kind, split, source))
    if numbers != tuple(str(number) for number in range(len(source.labels))):
        raise DatasetError(
            f"{name} should have labels 0 to {len(source.labels) - 1}, found {', '.join(numbers)}"
        )
    return Dataset(name, images, classes, source.labels)


def _idx_path(prefix: str, kind: str) -> Path:
    """Return the plain file if it exists, else the gzipped one, which the error will name."""
    plain = Path(f"{prefix}-{kind}-ubyte")
    return plain if plain.exists() else Path(f"{plain}.gz")
