"""`icl-loop sample`: print a sample as a model sees it."""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Argument, Option, echo

from icl_loop.core.errors import InputError, reason_of
from icl_loop.core.messages import Image
from icl_loop.tasks.datasets import Dataset, open_dataset
from icl_loop.tasks.encodings import ENCODINGS, encodings_for, get_encoding, prepare_sample
from icl_loop.terminal.console import err, print_text


def sample(
    dataset: Annotated[
        str, Argument(help="digits, mnist:test, folder:DIR, iris, csv:FILE, hf:NAME:SPLIT, …")
    ],
    index: Annotated[int, Option(min=0, help="Index of the sample.")] = 0,
    encoding_name: Annotated[
        str | None,
        Option("--encoding", help=f"One of {', '.join(ENCODINGS)}. Default for pictures: grid."),
    ] = None,
    size: Annotated[int, Option(min=1, help="Width and height of pictures.")] = 20,
    file: Annotated[
        Path | None, Option("-o", "--output", help="File to write instead of printing.")
    ] = None,
) -> None:
    """Print a sample as a model sees it."""
    opened = open_dataset(dataset)
    chosen = opened[index]
    default = "grid" if chosen.modality == "picture" else encodings_for(chosen.modality)[0]
    encoding = get_encoding(default if encoding_name is None else encoding_name)
    shown = encoding.encode(prepare_sample(chosen, encoding, size))
    if file is not None:
        try:
            file.write_bytes(shown.png if isinstance(shown, Image) else shown.encode() + b"\n")
        except OSError as error:
            raise InputError(f"{file} cannot be written: {reason_of(error)}") from None
    elif isinstance(shown, str):
        echo(shown)
    elif sys.stdout.isatty():
        echo(f"a PNG of {len(shown.png):,} bytes, {size} x {size} pixels; save it with -o")
    else:
        echo(shown.png, nl=False)
    if sys.stderr.isatty():
        print_text(f"{chosen.id}, label {chosen.label}", err, "dim")
        print_text(_summary(opened), err, "dim")


def _summary(dataset: Dataset) -> str:
    """Return the sizes of a data set and where its samples were found."""
    sizes = np.bincount(dataset.classes, minlength=len(dataset.labels))
    even = (
        f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
    )
    counts = f"{len(dataset):,} samples of {len(dataset.labels):,} classes, {even} of each"
    return f"{counts}; {dataset.origin}" if dataset.origin else counts
