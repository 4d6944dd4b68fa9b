"""The command that goes on with saved sessions under other settings."""

from pathlib import Path
from typing import Annotated

import typer

from icl_loop.analysis import find
from icl_loop.cli.options import Changes, Concurrency, MaxTokens, MaxUsd, Paths, from_here
from icl_loop.cli.run import carry_out
from icl_loop.core.errors import InputError
from icl_loop.replay.branching import branches
from icl_loop.runner.run import DEFAULT_CONCURRENCY, Run


def branch(
    paths: Paths,
    at: Annotated[
        int, typer.Option("--at", metavar="TURN", min=1, help="Turns shared with the parent.")
    ],
    changes: Changes = None,
    model: Annotated[str | None, typer.Option(help="Another model to go on with.")] = None,
    arm: Annotated[str | None, typer.Option(help="Name of the arm; made up if not given.")] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder that holds the experiments' own folders; the parents' if not given.",
        ),
    ] = None,
    turns: Annotated[int | None, typer.Option(min=2, help="Turns of the branch in all.")] = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    max_usd: MaxUsd = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Go on from a turn of saved sessions under other feedback, policy, prompt set or model.

    The parents are left as they are.
    Branches of an experiment NAME are saved in NAME-branches.
    The same command again goes on with those that are unfinished.
    """
    parents = find(paths)
    made = branches(parents, at, changes or [], model=model, arm=arm, turns=turns)
    out = out_dir or _home(parents)
    carry_out(Run(made, out, concurrency, max_usd=max_usd, max_tokens=max_tokens))


def _home(parents: list[Path]) -> Path:
    """Return the folder that holds the folder of the parents."""
    homes = {path.resolve().parent.parent for path in parents}
    if len(homes) > 1:
        raise InputError("the parents are in several places; name one for the branches with --out")
    return from_here(homes.pop())
