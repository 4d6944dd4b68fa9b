"""Data sets: bundled, downloaded, or in your own files."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from icl_loop.core.errors import DatasetError, nearest
from icl_loop.core.records import Modality
from icl_loop.tasks.datasets import (
    bundled,
    csv_file,
    folder,
    hugging_face,
    idx,
    published,
    row_files,
)
from icl_loop.tasks.datasets.columns import LoadedColumns
from icl_loop.tasks.datasets.dataset import Dataset, Draw, Loaded, Order, is_utf8
from icl_loop.tasks.datasets.hugging_face import HUB_DATASETS

__all__ = [
    "Dataset",
    "Draw",
    "Order",
    "is_available_locally",
    "modality_of",
    "open_dataset",
    "override_datasets",
]

_NAMES = (
    *bundled.DIGITS,
    *bundled.BUNDLED_TABLES,
    bundled.LIBRARY_DESK,
    *(f"{name}:{split}" for name in published.PUBLISHED_DATASETS for split in published.FILES),
    "idx:PREFIX",
    "folder:DIR",
    *(f"{name}:{split}" for name, known in HUB_DATASETS.items() for split in known.splits),
    "csv:FILE",
    "parquet:FILE",
    "jsonl:FILE",
    "hf:NAME:SPLIT",
)
_READERS: Mapping[str, Callable[[str], Loaded | LoadedColumns]] = {
    "idx": idx.load_prefix,
    "folder": lambda path: folder.load(Path(path)),
    "csv": csv_file.load,
    "parquet": row_files.load_parquet,
    "jsonl": row_files.load_jsonl,
    "hf": hugging_face.load,
}
"""Functions that read your own data, by the word before the colon."""
_ENDINGS = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    ".parquet": "parquet",
}
"""Kinds of files by the ends of their names."""

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

    Images: `digits`, and its halves `digits:train` and `digits:test`; `mnist:train` and
    `mnist:test`, likewise `fashion-mnist` and `kmnist`; `idx:PREFIX` for the files
    PREFIX-images-idx3-ubyte[.gz] and PREFIX-labels-idx1-ubyte[.gz]; `folder:DIR`. Tables: `iris`,
    `wine`, `breast_cancer`. Texts: `library_desk`; `banking77`, `clinc150`, `trec`, `trec-fine` and
    `nlu`, with a split. Tables and texts: `csv:FILE`, `parquet:FILE`, `jsonl:FILE` and
    `hf:NAME:SPLIT`, followed by `?label=NAME&text=NAME` to choose the columns.

    The last few data sets are cached, so later changes to their files have no effect.

    Raises:
        DatasetError: There is no such data set, or its files are invalid.
    """
    if not is_utf8(name):
        raise DatasetError(f"the name of a data set must be UTF-8 text, got {name!r}")
    if name in _OVERRIDES.get():
        return _OVERRIDES.get()[name]
    return _open(name, os.environ.get(published.DATA_VARIABLE), Path.cwd())


def modality_of(name: str) -> Modality:
    """Return the modality of the data set called `name`, without a download if its name tells.

    Raises:
        DatasetError: There is no such data set, or its file is invalid.
    """
    kind, _, split = name.partition(":")
    is_published = kind in published.PUBLISHED_DATASETS and split in published.FILES
    if name not in _OVERRIDES.get():
        if is_published or name in bundled.DIGITS or kind in ("idx", "folder"):
            return "picture"
        if kind in HUB_DATASETS and split in HUB_DATASETS[kind].splits:
            return "text"
    return open_dataset(name).modality


def is_available_locally(name: str) -> bool:
    """Return whether the data set called `name` can be opened without a download."""
    kind, _, split = name.partition(":")
    if kind in HUB_DATASETS or kind == "hf":
        return False  # `datasets` looks for a newer version even if it has one
    known = kind in published.PUBLISHED_DATASETS and split in published.FILES
    return not known or published.is_downloaded(kind, split)


@lru_cache(maxsize=4)
def _open(name: str, _data_folder: str | None, _working_folder: Path) -> Dataset:
    """Open a data set; the folders are part of the cache key."""
    kind, _, rest = name.partition(":")
    if name in bundled.DIGITS:
        return Dataset(name, *bundled.load_digits(name))
    if name in bundled.BUNDLED_TABLES:
        return Dataset(name, *bundled.load_table(name))
    if name == bundled.LIBRARY_DESK:
        return Dataset(name, *bundled.load_library_desk())
    if kind in published.PUBLISHED_DATASETS and rest in published.FILES:
        return Dataset(name, *published.load(kind, rest))
    if kind in HUB_DATASETS and rest in HUB_DATASETS[kind].splits:
        return Dataset(name, *hugging_face.load_named(kind, rest))
    if kind in _READERS and rest:
        return Dataset(name, *_READERS[kind](rest))
    if ending := _ENDINGS.get(Path(name.partition("?")[0]).suffix.lower()):
        raise DatasetError(f"unknown data set {name!r}: did you mean '{ending}:{name}'?")
    similar = name if len(name) <= max(map(len, _NAMES)) else f"{kind}:"  # without a long path
    raise DatasetError(f"unknown data set {name!r}: {nearest(similar, _NAMES)}")
