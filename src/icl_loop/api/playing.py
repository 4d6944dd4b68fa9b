"""Play an experiment from Python."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

from icl_loop.api.arguments import Model, experiment_of
from icl_loop.api.saved_run import SavedRun
from icl_loop.context.policy import ContextPolicy
from icl_loop.core.errors import FolderLocked, IclLoopError, SettingsMismatch, StoppedShort
from icl_loop.core.records import Turn
from icl_loop.experiment import Session
from icl_loop.experiment.donors import DonorUnfinished
from icl_loop.runner.early_alarm import EarlyAlarm
from icl_loop.runner.run import Run, RunResult
from icl_loop.terminal.console import err, print_text
from icl_loop.terminal.progress import RunProgress


def run(
    experiment: str | Path | Mapping[str, Any],
    *,
    model: Model | None = None,
    policy: str | ContextPolicy | None = None,
    streams: int | None = None,
    turns: int | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path = "transcripts",
    concurrency: int | None = None,
    max_usd: float | None = None,
    max_tokens: int | None = None,
    stop_early: bool = False,
    progress: bool | None = None,
) -> SavedRun:
    """Play an experiment, or resume it, and return its saved sessions.

    Waits until all sessions have ended, also inside a notebook. Ctrl-C lets the turns in flight finish,
    a second one drops them; what is saved is resumed by the next call.

    Args:
        experiment: Name of a shipped experiment, path of a TOML file, or a dict like such a file.
        model: Name of a model, or a function that takes the messages of a conversation and returns
            the text of the reply. It may be asynchronous; otherwise it is called in threads, from
            several sessions at the same time unless `concurrency` is 1. It replaces the whole model
            table of the experiment. An object with a method `complete` is allowed too.
        policy: Context policy, such as `"last(50)"`, or a function that takes a `Past` and returns
            the indices of the past turns to show. In place of it, settings and dicts may hold such
            functions at `context.policy`, also those of one arm.
        streams: Sessions per arm.
        turns: Turns per session.
        name: Name of the experiment.
        settings: Further settings by key, such as `{"feedback.kind": "label"}`.
        out: Parent of the folder of the transcripts, which is called like the experiment.
        concurrency: How many sessions play at the same time; see `Run`.
        max_usd: Most US dollars that the experiment may cost, saved sessions included.
        max_tokens: Most tokens it may use, saved sessions included.
        stop_early: Stop once the primary contrast has an e-value of 20.
        progress: Show progress and notes on standard error; by default in terminals and notebooks.

    Raises:
        InputError: The experiment or the model is wrong; nothing was asked.
        StoppedShort: Sessions stopped, for example because the function raised an exception, which is
            then the cause. The message names the session and the turn. What is saved is kept.
    """
    try:
        own = {"name": name, "streams": streams, "turns": turns, "context.policy": policy}
        made, opened = experiment_of(experiment, model, {**own, **(settings or {})})
        playing = Run(
            made,
            Path(out),
            concurrency,
            open_model=None if opened is None else (lambda _: opened),
            max_usd=max_usd,
            max_tokens=max_tokens,
            stop_early=stop_early,
        )
        return _blocking(playing, progress=progress)
    except IclLoopError as error:
        raise _shortened(error) from error.__cause__


async def run_async(
    experiment: str | Path | Mapping[str, Any],
    *,
    model: Model | None = None,
    policy: str | ContextPolicy | None = None,
    streams: int | None = None,
    turns: int | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path = "transcripts",
    concurrency: int | None = None,
    max_usd: float | None = None,
    max_tokens: int | None = None,
    stop_early: bool = False,
    progress: bool | None = None,
) -> SavedRun:
    """Play an experiment in the running event loop; see `run`."""
    try:
        own = {"name": name, "streams": streams, "turns": turns, "context.policy": policy}
        made, opened = experiment_of(experiment, model, {**own, **(settings or {})})
        playing = Run(
            made,
            Path(out),
            concurrency,
            open_model=None if opened is None else (lambda _: opened),
            max_usd=max_usd,
            max_tokens=max_tokens,
            stop_early=stop_early,
        )
        return await _play(playing, progress=progress)
    except IclLoopError as error:
        raise _shortened(error) from error.__cause__


def _shortened(error: IclLoopError) -> IclLoopError:
    """Return an error without the frames of this package, which tell a person nothing."""
    if error.__cause__:
        error.__cause__.__traceback__ = _own_frames(error.__cause__.__traceback__)
    if isinstance(error, SettingsMismatch | FolderLocked):  # which name an option of the command
        error.args = (str(error).replace("--out", "out"),)
    return error.with_traceback(None)


def _own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback from the first frame that is not of this package."""
    while traceback and traceback.tb_frame.f_globals.get("__name__", "").startswith("icl_loop."):
        traceback = traceback.tb_next
    return traceback


async def _play(playing: Run, *, progress: bool | None) -> SavedRun:
    """Play a run, with progress if wanted, and return its sessions; see `run`."""
    shown = progress if progress is not None else err.is_terminal or err.is_jupyter
    bars = RunProgress(playing.experiment, err, playing.budget)
    alarm = EarlyAlarm(playing.experiment, lambda text: print_text(f"note: {text}", err))
    played = Counter[str]()

    def on_turn(session: Session, turn: Turn) -> None:
        played[session.file_name] += 1
        if shown:
            bars.turn(session, turn)
            alarm.turn(session, turn)

    playing.on_turn = on_turn
    with ExitStack() as stack:
        if shown:
            playing.on_ready = partial(stack.enter_context, bars)
        result = await playing.play()
    _check(result, played)
    return SavedRun.of(sorted(result.paths))  # as they are found in the folder


def _check(result: RunResult, played: Mapping[str, int]) -> None:
    """Raise StoppedShort if sessions stopped; `played` are the turns of each by its file name."""
    if not result.stopped:
        return
    # a session whose donor stopped is not the one to look at
    stop = min(result.stopped, key=lambda each: isinstance(each.reason, DonorUnfinished))
    session, others = stop.session, len(result.stopped) - 1
    repeat = f", repeat {session.repeat}" if session.repeat else ""
    turn = played.get(session.file_name, 0)
    also = f"; {others} other session{'s' if others > 1 else ''} stopped too" if others else ""
    raise StoppedShort(
        f"{stop.reason} (arm {session.arm!r}, stream {session.stream}{repeat}, turn {turn}){also}."
        f" Saved turns are kept in {result.folder}; the same call resumes them"
    ) from stop.reason.__cause__


def _blocking(playing: Run, *, progress: bool | None) -> SavedRun:
    """Play a run in the event loop of another thread, because a notebook has one running in this."""
    loop = asyncio.new_event_loop()
    ended: Future[SavedRun] = Future()

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                ended.set_result(runner.run(_play(playing, progress=progress)))
        except BaseException as error:  # noqa: BLE001  raised again in the other thread
            ended.set_exception(error)

    def in_loop(function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(function)

    Thread(target=copy_context().run, args=(work,), name="icl_loop", daemon=True).start()
    try:
        _wait(ended)
    except KeyboardInterrupt:
        in_loop(playing.stop)
        try:
            _wait(ended)
        except KeyboardInterrupt:
            in_loop(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        raise
    return ended.result()


def _wait(ended: Future[SavedRun]) -> None:
    while not ended.done():  # Ctrl-C does not end a wait without a time-out on every system
        wait([ended], timeout=0.2)
