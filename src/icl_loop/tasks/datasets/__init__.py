"""Data sets: bundled, downloaded, or in your own files."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from icl_loop.core.errors import DatasetError, nearest
from icl_loop.tasks.datasets import bundled, csv_file, folder, idx, published
from icl_loop.tasks.datasets.dataset import Dataset, is_utf8

__all__ = ["Dataset", "is_available_locally", "open_dataset", "override_datasets"]

_NAMES = (
    "digits",
    *bundled.BUNDLED_TABLES,
    *(f"{name}:{split}" for name in published.PUBLISHED_DATASETS for split in published.FILES),
    "idx:PREFIX",
    "folder:DIR",
    "csv:FILE",
)

_OVERRIDES: ContextVar[Mapping[str, Dataset]] = ContextVar("datasets", default=MappingProxyType({}))


@contextmanager
def override_datasets(datasets: Mapping[str, Dataset]) -> Iterator[None]:
    """Make `open_dataset` return these data sets for their names."""
    token = _OVERRIDES.set(datasets)
    try:
        yield
    finally:
        _OVERRIDES.reset(token)


def open_dataset(name: str) -> Dataset:
    """Return the data set called `name`.

    Images: `digits`; `mnist:train` and `mnist:test`, likewise `fashion-mnist` and `kmnist`;
    `idx:PREFIX` for the files PREFIX-images-idx3-ubyte[.gz] and PREFIX-labels-idx1-ubyte[.gz];
    `folder:DIR`. Tables: `iris`, `wine`, `breast_cancer`. Tables and texts: `csv:FILE`, or
    `csv:FILE?label=NAME&text=NAME` to choose the columns.

    The last few data sets are cached, so later changes to their files have no effect.

    Raises:
        DatasetError: There is no such data set, or its files are invalid.
    """
    if not is_utf8(name):
        raise DatasetError(f"the name of a data set must be UTF-8 text, got {name!r}")
    if name in _OVERRIDES.get():
        return _OVERRIDES.get()[name]
    return _open(name, os.environ.get(published.DATA_VARIABLE), Path.cwd())


def is_available_locally(name: str) -> bool:
    """Return whether the data set called `name` can be opened without a download."""
    kind, _, split = name.partition(":")
    known = kind in published.PUBLISHED_DATASETS and split in published.FILES
    return not known or published.is_downloaded(kind, split)


@lru_cache(maxsize=4)
def _open(name: str, _data_folder: str | None, _working_folder: Path) -> Dataset:
    """Open a data set; the folders are part of the cache key."""
    kind, _, rest = name.partition(":")
    if name == "digits":
        return Dataset(name, *bundled.load_digits())
    if name in bundled.BUNDLED_TABLES:
        return Dataset(name, *bundled.load_table(name))
    if kind in published.PUBLISHED_DATASETS and rest in published.FILES:
        return Dataset(name, *published.load(kind, rest))
    if kind == "idx" and rest:
        plain = [Path(f"{rest}-{each}-ubyte") for each in ("images-idx3", "labels-idx1")]
        images, labels = (p if idx.exists(p) else Path(f"{p}.gz") for p in plain)
        return Dataset(name, *idx.load_pair(images, labels))
    if kind == "folder" and rest:
        return Dataset(name, *folder.load(Path(rest)))
    if kind == "csv" and rest:
        return Dataset(name, *csv_file.load(rest))
    similar = name if len(name) <= max(map(len, _NAMES)) else f"{kind}:"  # without a long path
    raise DatasetError(f"unknown data set {name!r}: {nearest(similar, _NAMES)}")
