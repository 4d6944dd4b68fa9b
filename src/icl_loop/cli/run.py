"""The command that plays an experiment."""

import asyncio
import shlex
import signal
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from icl_loop.analysis import frame
from icl_loop.cli.options import (
    Changes,
    Concurrency,
    ExperimentFile,
    MaxTokens,
    MaxUsd,
    OutFolder,
    Streams,
    Turns,
    laid_over,
)
from icl_loop.core.errors import BudgetSpent, InputError, TranscriptError
from icl_loop.experiment import Experiment, load
from icl_loop.models import is_built_in
from icl_loop.runner.engines import Engine, local
from icl_loop.runner.engines.ray import WAIT_S, on_ray
from icl_loop.runner.run import DEFAULT_CONCURRENCY, Run, RunResult
from icl_loop.terminal import progress
from icl_loop.terminal.console import STOPPED_SHORT, err, say, this_command
from icl_loop.terminal.formatting import printable
from icl_loop.terminal.run_summary import measured_arms, print_summary
from icl_loop.terminal.work_progress import checking


class EngineName(StrEnum):
    """What `--engine` may be."""

    LOCAL = "local"
    RAY = "ray"


def run(
    experiment: ExperimentFile,
    out_dir: OutFolder = Path("transcripts"),
    changes: Changes = None,
    streams: Streams = None,
    turns: Turns = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    max_usd: MaxUsd = None,
    max_tokens: MaxTokens = None,
    stop_early: Annotated[
        bool,
        typer.Option(
            "--stop-early",
            help="Play no more streams once those played are evidence enough (e-process, E >= 20).",
        ),
    ] = False,
    engine: Annotated[
        EngineName, typer.Option(help="Where sessions play: in this process, or on a Ray cluster.")
    ] = EngineName.LOCAL,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="The Ray cluster, or auto for this machine's; one of its own if none is named.",
        ),
    ] = None,
    ray_wait: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help=f"How long to wait while the cluster has no worker for it; {WAIT_S:.0f} if not given.",
        ),
    ] = None,
) -> None:
    """Play an experiment, or go on with it: complete sessions are skipped, others resumed."""
    made = load(experiment, laid_over(changes, streams, turns))
    playing = Run(
        made,
        out_dir,
        concurrency,
        engine=_engine(engine, ray_address, ray_wait),
        max_usd=max_usd,
        max_tokens=max_tokens,
        stop_early=stop_early,
    )
    carry_out(playing)


def carry_out(playing: Run) -> None:
    """Check a run and play it, with its progress on the screen; print what came of it."""
    with checking(playing.experiment) as waiting:
        playing.check(waiting.step)
    if playing.budget.is_limited and not _is_charged(playing.experiment):
        err.print("note: the limit stops nothing: models of this program take no tokens, no money")
    with progress.watch(playing.experiment, err, playing.budget) as watcher:
        playing.on_turn = watcher.turn
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            result = runner.run(_until_interrupted(playing, watcher.say))
    _close(playing, result)


def _is_charged(experiment: Experiment) -> bool:
    """Whether a model of an experiment is asked at an endpoint."""
    models = (settings.model for settings in experiment.arms.values())
    return not all(is_built_in(model.name, model.base_url) for model in models)


def _engine(name: EngineName, ray_address: str | None, ray_wait: float | None) -> Engine:
    """Return the engine of this name.

    Raises:
        InputError: Ray is missing, or what is said of a cluster is said to an engine without one.
    """
    if name is EngineName.RAY:
        return on_ray(ray_address, WAIT_S if ray_wait is None else ray_wait)
    for option, value in (("--ray-address", ray_address), ("--ray-wait", ray_wait)):
        if value is not None:
            raise InputError(f"{option} goes with --engine ray")
    return local


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the faster event loop where the platform has it."""
    try:
        import uvloop  # noqa: PLC0415  it is not there on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _until_interrupted(playing: Run, say: Callable[[str], None]) -> RunResult | None:
    """Play; the first signal lets turns in flight finish, the second drops them (None)."""
    task = asyncio.ensure_future(playing.play())

    def interrupt() -> None:
        if playing.stopping:
            task.cancel()
        else:
            say("stopping: the turns in flight are finished and saved; once more drops them")
            playing.stop()

    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):  # on Windows, where Ctrl-C drops the turns in flight
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        return None


def _close(playing: Run, result: RunResult | None) -> None:
    """Print what came of the run; exit with 1 if it stopped short."""
    paths = list(result.paths) if result else []
    with suppress(TranscriptError):  # nothing was answered yet, so there is nothing to sum up
        turns = frame(paths)
        print_summary(turns, None, measured_arms(turns))
    if result is not None and result.stopped:
        err.print(progress.stops_table(result.stopped))
    if result is not None and result.early_stop is not None:
        say(
            f"stopped early: after {len(result.early_stop.differences)} streams the evidence that"
            f" {result.early_stop.primary[0]} is above {result.early_stop.primary[1]} is"
            f" E = {result.early_stop.evidence[-1]:.1f}, at least 20"
        )
    say(saved_in(playing.folder, result))
    if result is not None and result.complete:
        say(f"see it:      icl-loop plot {shlex.quote(str(playing.folder))}")
        return
    err.print(
        printable(f"stopped short; what is saved is kept. {_way_on(result)}"),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    raise typer.Exit(STOPPED_SHORT)


def saved_in(folder: Path, result: RunResult | None) -> str:
    """Return where the transcripts of a run are, and how many; of a dropped run nobody counts them."""
    counted = f" ({len(result.paths)} sessions)" if result is not None else ""
    return f"transcripts: {folder}{counted}"


def _way_on(result: RunResult | None) -> str:
    """Return how to go on; where a limit was reached the same command would stop at once."""
    stops = result.stopped if result else ()
    spent = any(isinstance(stop.reason, BudgetSpent) for stop in stops)
    return f"Go on {'under a higher limit ' if spent else ''}with: {this_command()}"
