"""`icl-loop run`: play or resume an experiment."""

import asyncio
import math
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from typer import Exit, Option

from icl_loop.analysis import frame
from icl_loop.cli import options
from icl_loop.core.errors import InputError, TranscriptError
from icl_loop.core.records import Turn
from icl_loop.experiment import Session
from icl_loop.models.limits import Budget
from icl_loop.runner.early_alarm import EarlyAlarm
from icl_loop.runner.engines import Engine, local
from icl_loop.runner.engines.ray import WAIT_S, on_ray
from icl_loop.runner.run import Run, RunResult
from icl_loop.terminal.console import STOPPED_SHORT, err, print_json, print_text, this_command
from icl_loop.terminal.formatting import duration
from icl_loop.terminal.progress import RunProgress, WorkProgress, turn_line
from icl_loop.terminal.results_json import results_fields
from icl_loop.terminal.results_tables import print_results, stops_table
from icl_loop.transcripts.schema import now


def run(
    experiment: options.ExperimentFile,
    out_dir: Annotated[
        Path, Option("--out", help="Parent folder; the transcripts go into OUT/NAME.")
    ] = Path("transcripts"),
    overrides: options.Overrides = None,
    streams: options.Streams = None,
    turns: options.Turns = None,
    repeats: options.Repeats = None,
    concurrency: options.DefaultConcurrency = None,
    max_usd: options.MaxUsd = None,
    max_tokens: options.MaxTokens = None,
    stop_early: Annotated[
        bool, Option("--stop-early", help="Stop once the primary contrast has an e-value of 20.")
    ] = False,
    stop_unreadable: Annotated[
        bool,
        Option("--stop-unreadable", help="Stop if the first ten replies of an arm are unusable."),
    ] = False,
    engine: Annotated[
        Literal["local", "ray"], Option(help="Play in this process or on a Ray cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        Option(
            metavar="HOST:PORT", help="Ray cluster, or auto for a local one; started if omitted."
        ),
    ] = None,
    ray_wait: Annotated[
        float | None,
        Option(metavar="SECONDS", min=0, help=f"Time to wait for a worker; default: {WAIT_S:.0f}."),
    ] = None,
    json: options.AsJson = False,
    quiet: Annotated[bool, Option("-q", "--quiet", help="Show no progress.")] = False,
    verbose: Annotated[
        bool, Option("-v", "--verbose", help="Print a line for every turn that is played.")
    ] = False,
) -> None:
    """Play an experiment, or resume it: complete sessions are skipped."""
    if quiet and verbose:
        raise InputError("--quiet and --verbose exclude each other")
    play_and_report(
        Run(
            options.load_experiment(experiment, overrides, streams, turns, repeats),
            out_dir,
            concurrency,
            engine=_engine(engine, ray_address, ray_wait),
            max_usd=max_usd,
            max_tokens=max_tokens,
            stop_early=stop_early,
        ),
        stop_unreadable=stop_unreadable,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )


def _engine(name: str, ray_address: str | None, ray_wait: float | None) -> Engine:
    """Return the engine of this name.

    Raises:
        InputError: Ray is not installed, or a Ray option was given without `--engine ray`.
    """
    if name == "ray":
        return on_ray(ray_address, WAIT_S if ray_wait is None else ray_wait)
    if ray_address is not None or ray_wait is not None:
        raise InputError(f"--ray-{'wait' if ray_address is None else 'address'} needs --engine ray")
    return local


def play_and_report(
    run: Run,
    *,
    stop_unreadable: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Check a run and play it with progress, print the results, and exit with 1 if it stopped.

    With `json`, the results are JSON; with `quiet`, there is no progress; with `verbose`, a line is
    printed for every turn that is played, but not for saved ones.

    Problems of the first answers of an arm are printed at once, and with `stop_unreadable` they end
    the run if the replies are unusable.
    """
    options.check_parent_folder(run.out)
    built_in = all(settings.model.is_built_in for settings in run.experiment.arms.values())
    if not built_in:
        asyncio.run(run.ask_endpoints())
    shown_on = Console(stderr=True, quiet=True) if quiet else err
    with WorkProgress(shown_on, "checking", "sessions", run.experiment.count()) as checking:
        run.check(checking.add)
    for remark in run.remarks:
        print_text(f"note: {remark}", err)
    if run.budget.is_limited and built_in:
        print_text("note: the budget has no effect, because built-in models use no tokens", err)
    began = now()
    progress = RunProgress(run.experiment, shown_on, run.budget)
    alarm = EarlyAlarm(run.experiment, lambda text: print_text(f"note: {text}", err, "yellow"))

    def on_turn(session: Session, turn: Turn) -> None:
        progress.turn(session, turn)
        if verbose and (turn.reply.at or "") >= began:
            print_text(turn_line(session, turn), err)
        alarm.turn(session, turn)
        if stop_unreadable and alarm.unusable:
            run.stop()

    run.on_turn = on_turn
    with ExitStack() as shown, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        run.on_ready = partial(shown.enter_context, progress)
        result = runner.run(_play_until_interrupted(run))
    if result and result.complete and run.budget.passed:
        print_text(f"note: {run.budget.passed}", err)
    unusable = alarm.unusable if stop_unreadable else ()
    report_result(run.folder, result, _raised(run.budget), unusable, json=json)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop's event loops, or None where there is no uvloop."""
    try:
        import uvloop  # noqa: PLC0415  not available on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _play_until_interrupted(run: Run) -> RunResult | None:
    """Play a run; return None if it was interrupted twice.

    The first SIGINT or SIGTERM lets the turns in flight finish, the second drops them.
    """
    task = asyncio.ensure_future(run.play())

    def interrupt() -> None:
        if run.stopping:
            task.cancel()
        else:
            print_text(
                f"stopping after the turns in flight{_patience(run)}; press Ctrl-C again to drop them"
                " and stop at once",
                err,
            )
            run.stop()

    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):  # on Windows, where Ctrl-C drops the turns in flight
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        return None


def _patience(run: Run) -> str:
    """Return how long the requests in flight may take; "" if there are none."""
    limits = run.experiment.limits
    if not (run.budget.in_flight or run.budget.waits):
        return ""
    return (
        f". A reply may take {duration(limits.timeout_s)} (limits.timeout_s), and failed requests are"
        f" repeated for up to {duration(limits.allowance_s)} (limits.allowance_s)"
    )


def _raised(budget: Budget) -> dict[str, str]:
    """Return the options that make room for the requests that the budget did not allow."""
    raised = {}
    if budget.refused_tokens:
        raised["--max-tokens"] = str(2 * budget.refused_tokens)
    if budget.refused_usd:
        raised["--max-usd"] = f"{math.ceil(200 * budget.refused_usd) / 100:.2f}"
    return raised


def report_result(
    folder: Path,
    result: RunResult | None,
    raised: Mapping[str, str] | None = None,
    unusable: Sequence[str] = (),
    *,
    json: bool = False,
) -> None:
    """Print the results of a run, as JSON if asked; exit with 1 if it stopped short.

    `raised` are the options with which it can be resumed, `unusable` the arms whose replies ended it.
    """
    if json:
        print_json(_result_fields(folder, result))
        if result and result.complete:
            return
    elif result is None:
        print_text(f"transcripts: {folder}")
    else:
        _print_result(result)
        print_text(f"transcripts: {folder} ({len(result.paths)} sessions)")
        if result.complete:
            print_text(f"next:        icl-loop plot {shlex.quote(str(folder))}")
            return
    if unusable:
        print_text(
            f"stopped because the replies of {', '.join(map(repr, unusable))} are unusable. Changed"
            " settings need another --set name=... or --out",
            err,
        )
    how = "with a higher budget" if raised else "unchanged with" if unusable else "with"
    command = this_command(raised, without="--stop-unreadable" if unusable else None)
    print_text(f"stopped short; saved turns are kept. Resume {how}: {command}", err)
    raise Exit(STOPPED_SHORT)


def _result_fields(folder: Path, result: RunResult | None) -> dict[str, Any]:
    """Return the outcome of a run, and its results as `analyze --json` has them, as JSON."""
    results: dict[str, Any] = {}
    with suppress(TranscriptError):  # raised if nothing was answered yet
        results = results_fields(frame(result.paths), result.paths) if result else {}
    stopped = [
        {"session": each.session.file_name.removesuffix(".jsonl"), "reason": str(each.reason)}
        for each in (result.stopped if result else ())
    ]
    return {
        "transcripts": str(folder),
        "complete": result is not None and result.complete,
        "stopped": stopped,
        "early_stop": asdict(result.early_stop) if result and result.early_stop else None,
        "results": results or None,
    }


def _print_result(result: RunResult) -> None:
    with suppress(TranscriptError):  # raised if nothing was answered yet
        print_results(frame(result.paths), result.paths)
    if result.stopped:
        err.print(stops_table(result.stopped))
    if early := result.early_stop:
        print_text(
            f"stopped early: after {len(early.differences)} streams, the e-value of"
            f" {early.primary[0]} > {early.primary[1]} is {early.evidence[-1]:.1f} (at least 20)"
        )
