"""Arguments and options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import TypeAdapter
from typer import Argument, Option

from icl_loop.analysis.baseline import LEARNER
from icl_loop.core.errors import InputError
from icl_loop.experiment import Experiment, PriceSettings, load
from icl_loop.experiment.settings import Count
from icl_loop.experiment.validation import validated
from icl_loop.terminal.chart_baseline import MAX_TURNS
from icl_loop.terminal.console import err, print_text

Transcripts = Annotated[list[Path], Argument(help="Transcripts, or folders of transcripts.")]
TranscriptsOrExports = Annotated[
    list[Path], Argument(help="Transcripts, Parquet exports of them, or folders of either.")
]
ExperimentFile = Annotated[
    Path, Argument(help="TOML file, or the name of a shipped experiment: quickstart.")
]
Overrides = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting (task.encoding=grid, or arms.NAME.feedback.kind=none for one arm);"
        " repeatable.",
    ),
]
Streams = Annotated[int | None, Option(help="Streams that each arm plays.")]
Turns = Annotated[int | None, Option(help="Turns per session.")]
Repeats = Annotated[int | None, Option(help="Times that each arm plays each stream.")]
NewParent = Annotated[
    Path | None,
    Option("--out", help="Parent folder of the new transcripts; default: that of PATHS."),
]
MaxUsd = Annotated[
    float | None,
    Option(
        min=0,
        help="Budget in US dollars for the whole experiment, including sessions already saved.",
    ),
]
MaxTokens = Annotated[
    int | None,
    Option(
        min=1,
        help="Budget in tokens for the whole experiment; estimated locally (an upper bound) if the"
        " endpoint reports none.",
    ),
]
Concurrency = Annotated[int, Option(min=1, help="Sessions to play at the same time.")]
DefaultConcurrency = Annotated[
    int | None,
    Option(
        min=1,
        help="Sessions to play at the same time. Default: the slots of a llama.cpp server, else 32.",
    ),
]
Primary = Annotated[
    str | None,
    Option(metavar="ARM,ARM", help="Arms of the primary contrast, if not the recorded ones."),
]
ChartBaseline = Annotated[
    str | None,
    Option(
        "--baseline",
        metavar="LEARNER",
        help="Reference learner for the baseline, which sees exactly what the model saw. Default:"
        f" {LEARNER} for up to {MAX_TURNS:,} turns, otherwise none.",
    ),
]
NoBaseline = Annotated[bool, Option("--no-baseline", help="Draw no baseline.")]
Window = Annotated[int, Option(min=1, help="Turns per window of the chart.")]
Price = Annotated[
    str | None,
    Option(metavar="IN,OUT[,CACHED]", help="US dollars per million tokens; default: list price."),
]
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]


def load_experiment(
    file: Path,
    overrides: list[str] | None,
    streams: int | None,
    turns: int | None,
    repeats: int | None = None,
) -> Experiment:
    """Return the experiment of a file with the overrides of `--set`, `--streams` and the like."""
    counts = {"streams": streams, "turns": turns, "repeats": repeats}
    given = [
        f"{key}={validated(TypeAdapter(Count), value, f'--{key}')}"
        for key, value in counts.items()
        if value is not None
    ]
    return load(file, [*(overrides or []), *given], lambda text: print_text(f"note: {text}", err))


def relative_to_here(path: Path) -> Path:
    """Return a path relative to the current folder if it is inside it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def check_writable(file: Path) -> None:
    """Raise InputError if a file cannot be created, before any work is done for it."""
    if file.is_dir():
        raise InputError(f"{file} cannot be written: it is a folder")
    if not file.parent.is_dir():
        raise InputError(f"{file} cannot be written: there is no folder {file.parent}")


def check_parent_folder(folder: Path) -> None:
    """Raise InputError if a folder given with `--out` can have no folder of transcripts in it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise InputError(f"--out {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--out {folder}: the folder {existing} does not allow new files")


def parse_price(text: str | None) -> PriceSettings | None:
    """Return the price of `--price`, or None if it was not given."""
    if text is None:
        return None
    try:
        prompt, reply, *cached = map(float, text.split(","))
        return PriceSettings(input=prompt, output=reply, cached=cached[0] if cached else None)
    except ValueError:
        raise InputError(
            "--price takes US dollars per million tokens, such as 2.5,10 or 2.5,10,0.25, not"
            f" {text!r}"
        ) from None


def pair_of_arms(text: str | None) -> tuple[str, str] | None:
    """Return the two arms of `--primary`, or None if it was not given."""
    if text is None:
        return None
    first, _, second = (part.strip() for part in text.partition(","))
    if not first or not second or "," in second:
        raise InputError(f"--primary takes two arms, such as feedback,yoked, not {text!r}")
    return first, second
