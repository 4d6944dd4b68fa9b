"""Data sets of the Hugging Face Hub or in local folders, read by the library `datasets`."""

import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from icl_loop.core.errors import DatasetError
from icl_loop.core.web_addresses import check_web_address
from icl_loop.tasks.datasets.columns import COLUMN_OPTIONS, LoadedColumns, options_of
from icl_loop.tasks.datasets.published import DATA_VARIABLE
from icl_loop.tasks.datasets.row_files import check_size, of_rows
from icl_loop.tasks.datasets.source_file import translated

ENDPOINT_VARIABLE = "HF_ENDPOINT"
"""The environment variable with the address of a mirror of the Hub, which the library reads."""
_ADDRESS = re.compile(r"(.+):([^:\[\]]+(\[[^]]*\])?)")
"""A name and a split, which may have a slice such as `train[:500]`."""


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A text data set of the literature: its repository, splits and options."""

    repository: str
    splits: tuple[str, ...]
    query: str


HUB_DATASETS: Mapping[str, HubDataset] = {
    "banking77": HubDataset(
        "legacy-datasets/banking77", ("train", "test"), "text=text&label=label"
    ),
    "clinc150": HubDataset(
        "clinc/clinc_oos",
        ("train", "validation", "test"),
        "config=plus&text=text&label=intent",
    ),
    "trec": HubDataset(
        "SetFit/TREC-QC", ("train", "test"), "text=text&label=label_coarse_original"
    ),
    "trec-fine": HubDataset("SetFit/TREC-QC", ("train", "test"), "text=text&label=label_original"),
    "nlu": HubDataset(
        "xingkunliuxtracta/nlu_evaluation_data",
        ("train",),
        "revision=refs/convert/parquet&text=text&label=label",
    ),
}
"""Data sets by name. The repositories have data files, as `datasets` no longer runs scripts."""


def load_named(name: str, split: str) -> LoadedColumns:
    """Return a data set of the literature, from a folder of its name in $ICL_LOOP_DATA or the Hub.

    Raises:
        DatasetError: It cannot be found or downloaded; the message says where to put it.
    """
    known = HUB_DATASETS[name]
    folder = Path(os.environ.get(DATA_VARIABLE) or "", name)
    if os.environ.get(DATA_VARIABLE) and folder.is_dir():
        return load(f"{folder}:{split}?{known.query}")
    try:
        return load(f"{known.repository}:{split}?{known.query}")
    except DatasetError as error:
        raise DatasetError(
            f"{error}. To use {name} without a network, put the files of {known.repository} into a"
            f" folder {name} of the folder that {DATA_VARIABLE} names"
        ) from None


def load(source: str) -> LoadedColumns:
    """Return a split of a data set, given as `NAME:SPLIT` or `NAME:SPLIT?label=NAME&text=NAME`.

    NAME is a repository of the Hub or a local folder. SPLIT may be a part such as `train[:500]`. The
    options `config` and `revision` choose a configuration and a version of the repository.

    Raises:
        DatasetError: The library is not installed, or the data set cannot be found, downloaded or
            used.
    """
    address, _, query = source.partition("?")
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise DatasetError(
            f"hf:{address} has no split; write hf:NAME:SPLIT, as in hf:{address}:train"
        )
    name, split = parts[1], parts[2]
    _check_endpoint(address)
    try:
        import datasets  # noqa: PLC0415  an optional dependency
    except ImportError:
        raise DatasetError(
            f"{address} needs the library datasets; install it with pip install 'icl-loop[hf]', or"
            " use a downloaded file with parquet:FILE"
        ) from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports every retry
    with translated(f"hf:{address}"):
        options = options_of(query, (*COLUMN_OPTIONS, "config", "revision"))
        is_local = Path(name).is_dir()
        try:
            found = datasets.load_dataset(
                str(Path(name).resolve()) if is_local else name,
                options.pop("config", None),
                split=split,
                revision=options.pop("revision", None) if not is_local else None,
            )
        except Exception as error:  # noqa: BLE001  its HTTP library has errors of its own
            raise ValueError(_message(error)) from None
        kinds = datasets.Value, datasets.ClassLabel
        names = [each for each, kind in found.features.items() if isinstance(kind, kinds)]
        if not names:
            raise ValueError("there is no column of texts or numbers; for images, use folder:DIR")
        check_size(len(found), len(names))
        return of_rows(
            names,
            found.select_columns(names).to_polars().rows(),
            options,
            {
                each: kind.names
                for each, kind in found.features.items()
                if isinstance(kind, datasets.ClassLabel)
            },
        )


def _check_endpoint(address: str) -> None:
    """Raise DatasetError if HF_ENDPOINT is set to something other than a web address."""
    if (endpoint := os.environ.get(ENDPOINT_VARIABLE)) is None:
        return
    shown = re.sub(r"//[^/@]*@", "//", endpoint)  # without a password
    try:
        check_web_address(shown)
    except ValueError as error:
        raise DatasetError(
            f"hf:{address}: the environment variable {ENDPOINT_VARIABLE} is {shown!r}; it {error}. Correct"
            " it, or unset it to use the Hugging Face Hub itself"
        ) from None


def _message(error: Exception) -> str:
    """Return what is wrong, and what to do about it, in an error of `datasets`."""
    if isinstance(error, ConnectionError):
        return (
            "the Hugging Face Hub cannot be reached; check the network, or name a local folder, as in"
            " hf:FOLDER:train"
        )
    lines, advice = str(error).strip().splitlines(), ""
    message = lines[0].rstrip(".") if lines else type(error).__name__
    if "script" in message.lower():
        advice = "; try ?revision=refs/convert/parquet, the Hub's own conversion to data files"
    elif "config name is missing" in message.lower() or "builderconfig" in message.lower():
        advice = "; name a configuration, as in ?config=NAME"
    return message + advice
