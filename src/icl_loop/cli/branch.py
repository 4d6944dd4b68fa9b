"""`icl-loop branch`: continue saved sessions under other settings."""

from typing import Annotated

from typer import Option

from icl_loop.cli import options
from icl_loop.cli.run import play_and_report
from icl_loop.core.errors import InputError
from icl_loop.replay.branching import branches
from icl_loop.runner.run import Run
from icl_loop.transcripts.files import find


def branch(
    paths: options.Transcripts,
    at: Annotated[int, Option("--at", metavar="TURN", min=1, help="Number of turns to keep.")],
    overrides: options.Overrides = None,
    model: Annotated[str | None, Option(help="Model to continue with.")] = None,
    arm: Annotated[str | None, Option(help="Name of the arm; generated if omitted.")] = None,
    out_dir: options.NewParent = None,
    turns: Annotated[
        int | None, Option(min=2, help="Total number of turns of each branch.")
    ] = None,
    concurrency: options.DefaultConcurrency = None,
    max_usd: options.MaxUsd = None,
    max_tokens: options.MaxTokens = None,
) -> None:
    """Continue saved sessions from a turn with other feedback, policy, prompt set or model.

    The saved sessions stay unchanged.
    Branches of experiment NAME are saved in NAME-branches.
    Run the same command again to resume unfinished branches.
    """
    parents = find(paths)
    experiment = branches(parents, at, overrides or [], model=model, arm=arm, turns=turns)
    folders = {path.resolve().parent.parent for path in parents}
    if out_dir is None and len(folders) > 1:
        raise InputError("the transcripts are in several folders; choose a folder with --out")
    out = out_dir or options.relative_to_here(folders.pop())
    play_and_report(Run(experiment, out, concurrency, max_usd=max_usd, max_tokens=max_tokens))
