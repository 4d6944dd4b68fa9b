"""`icl-loop sample`: print a sample, or a whole conversation, as a model sees it."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from typer import Argument, Option, echo

from icl_loop.cli import options
from icl_loop.core.errors import InputError, reason_of
from icl_loop.core.messages import Image
from icl_loop.experiment.experiment_file import parse_with
from icl_loop.experiment.shipped import shipped
from icl_loop.tasks.datasets import Dataset, open_dataset
from icl_loop.tasks.encodings import ENCODINGS, encodings_for, get_encoding, prepare_sample
from icl_loop.terminal.console import err, print_text


def sample(
    dataset: Annotated[
        str,
        Argument(
            metavar="DATASET|EXPERIMENT",
            help="digits, mnist:test, folder:DIR, iris, csv:FILE, hf:NAME:SPLIT, …; or a TOML file or"
            " shipped experiment, of which the conversation is printed.",
        ),
    ],
    index: Annotated[int | None, Option(min=0, help="Index of the sample; default: 0.")] = None,
    encoding_name: Annotated[
        str | None,
        Option("--encoding", help=f"One of {', '.join(ENCODINGS)}. Default for pictures: grid."),
    ] = None,
    size: Annotated[
        int | None, Option(min=1, help="Width and height of pictures; default: 20.")
    ] = None,
    turns: Annotated[
        int | None,
        Option(
            min=0,
            help="Print the whole conversation as a model sees it after this many turns; default for"
            " an experiment: 3.",
        ),
    ] = None,
    arm: Annotated[
        str | None, Option(help="Arm of the conversation; default: the one of most interest.")
    ] = None,
    overrides: options.Overrides = None,
    file: Annotated[
        Path | None, Option("-o", "--output", help="File to write instead of printing.")
    ] = None,
) -> None:
    """Print a sample, or a whole conversation, as a model sees it.

    No model is asked: a reference learner gives the replies of a conversation.
    """
    is_experiment = dataset.endswith(".toml") or dataset in shipped()
    if not (is_experiment or arm or overrides) and turns is None:
        _print_sample(dataset, index or 0, encoding_name, size or 20, file)
        return
    from icl_loop.planning.trial_sessions import conversation  # noqa: PLC0415  loads slowly
    from icl_loop.terminal.endpoint_tables import message_text  # noqa: PLC0415  as above

    given = {"--index": index, "--encoding": encoding_name, "--size": size}
    turns = 3 if turns is None else turns
    if is_experiment:
        experiment = options.load_experiment(Path(dataset), overrides, None, None)
    else:
        task = {
            "dataset": dataset,
            "encoding": given.pop("--encoding"),
            "size": given.pop("--size"),
        }
        own = {key: value for key, value in task.items() if value is not None}
        table = {"name": "sample", "turns": turns + 1, "streams": 2, "task": own}
        experiment = parse_with(overrides or [], table, dataset)
    for option in (name for name, value in given.items() if value is not None):
        raise InputError(f"{option} is for a single sample; use --set to change an experiment")
    chosen = arm or (experiment.analysis.primary or list(experiment.arms))[0]
    messages, replier = asyncio.run(conversation(experiment, chosen, turns))
    text = "\n\n".join(f"[{each.role}]\n{message_text(each)}" for each in messages)
    if file is None:
        print_text(text)
    else:
        _write(file, text.encode() + b"\n")
    if sys.stderr.isatty():
        print_text(f"arm {chosen}; the replies are those of {replier}", err, "dim")


def _print_sample(
    name: str, index: int, encoding_name: str | None, size: int, file: Path | None
) -> None:
    opened = open_dataset(name)
    chosen = opened[index]
    default = "grid" if chosen.modality == "picture" else encodings_for(chosen.modality)[0]
    encoding = get_encoding(default if encoding_name is None else encoding_name)
    shown = encoding.encode(prepare_sample(chosen, encoding, size))
    if file is not None:
        _write(file, shown.png if isinstance(shown, Image) else shown.encode() + b"\n")
    elif isinstance(shown, str):
        echo(shown)
    elif sys.stdout.isatty():
        echo(f"a PNG of {len(shown.png):,} bytes, {size} x {size} pixels; save it with -o")
    else:
        echo(shown.png, nl=False)
    if sys.stderr.isatty():
        print_text(f"{chosen.id}, label {chosen.label}", err, "dim")
        print_text(_summary(opened), err, "dim")


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {reason_of(error)}") from None


def _summary(dataset: Dataset) -> str:
    """Return the sizes of a data set and where its samples were found."""
    sizes = np.bincount(dataset.classes, minlength=len(dataset.labels))
    even = (
        f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
    )
    counts = f"{len(dataset):,} samples of {len(dataset.labels):,} classes, {even} of each"
    return f"{counts}; {dataset.origin}" if dataset.origin else counts
