"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from icl_loop.core.errors import InputError

Paths = Annotated[list[Path], typer.Argument(help="Transcripts, or folders that hold them.")]
SavedPaths = Annotated[
    list[Path],
    typer.Argument(help="Transcripts, exports of them in Parquet, or folders that hold either."),
]
ExperimentFile = Annotated[Path, typer.Argument(help="The experiment's TOML file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a setting over the file; repeatable."),
]
Streams = Annotated[int | None, typer.Option(help="Sessions per arm.")]
Turns = Annotated[int | None, typer.Option(help="Turns per session.")]
OutFolder = Annotated[
    Path, typer.Option("--out", help="Folder that holds the experiments' own folders.")
]
MaxUsd = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Dollars the experiment may cost in all, saved sessions included; of the tokens that are"
        " reported, or else counted here.",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tokens it may take in all, prompts and replies; where an endpoint reports none they are"
        " counted here, from above. Models of this program take none.",
    ),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Sessions that play at once.")]


def laid_over(changes: list[str] | None, streams: int | None, turns: int | None) -> list[str]:
    """Return all changes of an experiment file as `--set` takes them."""
    laid_over = list(changes or [])
    laid_over += [f"streams={streams}"] if streams is not None else []
    laid_over += [f"turns={turns}"] if turns is not None else []
    return laid_over


def from_here(path: Path) -> Path:
    """Return a path as it is called from the current folder, if it is below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def check_folder(file: Path) -> None:
    """Refuse what cannot be a file to write, before any work is done for it."""
    if file.is_dir():
        raise InputError(f"{file} cannot be written: it is a folder")
    if not file.parent.is_dir():
        raise InputError(f"{file} cannot be written: there is no folder {file.parent}")


def pair_of_arms(text: str | None) -> tuple[str, str] | None:
    """Return the two arms of `--primary`, None if it was not given."""
    if text is None:
        return None
    arms = [arm.strip() for arm in text.split(",")]
    if len(arms) != 2 or not all(arms):
        raise InputError(f"--primary takes two arms such as feedback,yoked, got {text!r}")
    return arms[0], arms[1]
