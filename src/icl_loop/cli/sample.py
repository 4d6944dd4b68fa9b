"""The command that prints a sample as a model would be shown it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Image
from icl_loop.tasks.datasets import open_dataset
from icl_loop.tasks.encodings import ENCODINGS, encodings_for, get_encoding, prepare_sample
from icl_loop.terminal.console import err
from icl_loop.terminal.formatting import printable


def sample(
    dataset: Annotated[
        str, typer.Argument(help="digits, mnist:test, folder:DIR, iris, wine, csv:FILE, …")
    ],
    index: Annotated[int, typer.Option(min=0, help="Which sample.")] = 0,
    encoding_name: Annotated[
        str | None,
        typer.Option(
            "--encoding",
            help=f"One of {', '.join(ENCODINGS)}; grid for pictures if none is named.",
        ),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Side of a picture in pixels.")] = 20,
    file: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to, if not to the terminal.")
    ] = None,
) -> None:
    """Print a sample as a model would be shown it, and nothing else."""
    chosen = open_dataset(dataset)[index]
    usual = "grid" if chosen.modality == "picture" else encodings_for(chosen.modality)[0]
    how = get_encoding(usual if encoding_name is None else encoding_name)
    shown = how.encode(prepare_sample(chosen, how, size))
    if file is not None:
        _keep(shown, file)
    elif isinstance(shown, str):
        typer.echo(shown)
    elif sys.stdout.isatty():
        typer.echo(f"a PNG file of {len(shown.png):,} bytes, {size} x {size} pixels; -o keeps it")
    else:
        typer.echo(shown.png, nl=False)
    if sys.stderr.isatty():
        told = printable(f"{chosen.id}, label {chosen.label}")
        err.print(told, style="dim", highlight=False, markup=False)


def _keep(shown: str | Image, file: Path) -> None:
    """Write what a model would be shown to a file."""
    data = shown.png if isinstance(shown, Image) else shown.encode() + b"\n"
    try:
        file.write_bytes(data)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from None
