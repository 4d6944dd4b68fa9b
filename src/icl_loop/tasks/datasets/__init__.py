"""Data sets: some are embedded, `mnist` and its cousins are downloaded, others are yours."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from icl_loop.core.errors import DatasetError, nearest
from icl_loop.tasks.datasets import bundled, csv_file, folder, idx, published
from icl_loop.tasks.datasets.dataset import Dataset, is_text

__all__ = ["Dataset", "is_available_locally", "open_dataset", "override_datasets"]

_NAMES = (
    "digits",
    *bundled.TABLES,
    *(f"{name}:{split}" for name in published.PUBLISHED for split in published.SPLITS),
    "idx:PREFIX",
    "folder:DIR",
    "csv:FILE",
)


_GIVEN: ContextVar[Mapping[str, Dataset]] = ContextVar("datasets", default=MappingProxyType({}))


@contextmanager
def override_datasets(datasets: Mapping[str, Dataset]) -> Iterator[None]:
    """Within this, data sets of these names are those given, whatever files there are."""
    token = _GIVEN.set(datasets)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def open_dataset(name: str) -> Dataset:
    """Return the data set called `name`.

    The last few opened are kept in memory, so files that change meanwhile are not read again.
    Names of pictures are `digits`, `mnist:train`, `mnist:test`, the same for `fashion-mnist` and
    `kmnist`, `idx:PREFIX` for PREFIX-images-idx3-ubyte[.gz] with its labels, and `folder:DIR`; of
    tables `iris`, `wine` and `breast_cancer`; of tables and texts `csv:FILE`, whose columns are
    chosen as in `csv:FILE?label=NAME&text=NAME`.

    Raises:
        DatasetError: There is no such data set, or its files are not sound.
    """
    if not is_text(name):
        raise DatasetError(f"the name of a data set is UTF-8 text, got {name!r}")
    if name in _GIVEN.get():
        return _GIVEN.get()[name]
    return _open(name, os.environ.get(published.DATA_VARIABLE), Path.cwd())


def is_available_locally(name: str) -> bool:
    """Whether the data set called `name` is opened, or refused, without a download."""
    kind, _, split = name.partition(":")
    return not (kind in published.PUBLISHED and split in published.SPLITS) or published.is_here(
        kind, split
    )


@lru_cache(maxsize=4)
def _open(name: str, _data: str | None, _here: Path) -> Dataset:
    """Open the data set that `name` stands for with this data variable in this folder."""
    kind, _, rest = name.partition(":")
    if name == "digits":
        return _digits()
    if name in bundled.TABLES:
        return Dataset(name, *bundled.table(name))
    if kind in published.PUBLISHED and rest in published.SPLITS:
        return _published(name, kind, rest)
    if kind == "idx" and rest:
        return Dataset(name, *idx.load_pair(*(_idx_path(rest, kind) for kind in published.KINDS)))
    if kind == "folder" and rest:
        return Dataset(name, *folder.load(Path(rest)))
    if kind == "csv" and rest:
        return Dataset(name, *csv_file.load(rest))
    near = name if len(name) <= max(map(len, _NAMES)) else f"{kind}:"  # a long path is like no name
    raise DatasetError(f"unknown data set {name!r}: {nearest(near, _NAMES)}")


def _digits() -> Dataset:
    """Return scikit-learn's copy of the UCI optical digits: 1,797 images of 8 x 8, 17 levels."""
    table = bundled.digits()
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Dataset("digits", images, table[:, -1].astype(np.intp), tuple("0123456789"))


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
    return idx.present(Path(f"{prefix}-{kind}-ubyte")) or Path(f"{prefix}-{kind}-ubyte.gz")
