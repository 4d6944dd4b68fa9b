"""What people see in a terminal: progress, tables and pictures."""

import time
from collections import deque
from collections.abc import Iterable
from threading import Event, Thread
from types import TracebackType
from typing import Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from icl_loop.analysis import ArmSummary
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment, Session
from icl_loop.models.limits import Budget
from icl_loop.runner.run import Stop
from icl_loop.terminal.formatting import RECENT, percent, printable

_NAME_WIDTH = 24
"""Names of arms are kept whole in a narrow table if all are as short as this."""


class _Score:
    """Right answers of one arm in its latest turns, and how many turns there were in all."""

    def __init__(self, size: int) -> None:
        self.played = 0
        self._latest: deque[bool] = deque(maxlen=size)
        self._right = 0

    def add(self, *, correct: bool) -> None:
        if len(self._latest) == self._latest.maxlen:
            self._right -= self._latest[0]
        self._latest.append(correct)
        self._right += correct
        self.played += 1

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, None before the first turn."""
        return self._right / len(self._latest) if self._latest else None

    def __str__(self) -> str:
        return "–" if self.accuracy is None else f"{self.accuracy:.1%}"


class ProgressDisplay(Protocol):
    """Is shown a run as it goes."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...

    def turn(self, session: Session, turn: Turn) -> None:
        """Take note of a turn that is safe on the disk."""
        ...

    def say(self, text: str) -> None:
        """Print a line beside the progress."""
        ...


def _scores(experiment: Experiment) -> dict[str, _Score]:
    return {arm: _Score(RECENT * experiment.streams) for arm in experiment.arms}


def watch(experiment: Experiment, console: Console, meter: Budget | None = None) -> ProgressDisplay:
    """Return a live display on a terminal, plain lines anywhere else."""
    kind = LiveProgress if console.is_terminal else PlainProgress
    return kind(experiment, console, meter)


def meter_line(meter: Budget) -> str:
    """Return tokens, money, requests in flight and retries in a line; none if none were needed."""
    spent = meter.spent
    if not (spent.prompt or spent.completion or meter.in_flight or meter.retries):
        return ""
    tokens = (
        f"tokens: {spent.prompt:,} in, {spent.cached:,} of them cached, {spent.completion:,} out"
    )
    money = f"; ${meter.usd:.4f}" if meter.usd else ""
    line = f"{tokens}{money}; {meter.in_flight} in flight; {meter.retries.total()} retries"
    if not meter.retries:
        return line
    ((reason, count),) = meter.retries.most_common(1)
    return printable(f"{line}, {count} of them: {reason}")


class _MeterLine:
    """The line of a meter as it stands whenever it is drawn."""

    def __init__(self, meter: Budget) -> None:
        self._meter = meter

    def __rich__(self) -> Text:
        return Text(meter_line(self._meter), "dim", no_wrap=True, overflow="ellipsis")


class LiveProgress:
    """A bar for each arm: turns, recent accuracy over its sessions, time left; and the meter."""

    def __init__(
        self, experiment: Experiment, console: Console, meter: Budget | None = None
    ) -> None:
        """Make a bar for each arm of `experiment`."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("accuracy {task.fields[accuracy]:>6}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        total = experiment.turns * experiment.streams
        self._bars: dict[str, TaskID] = {
            arm: self._progress.add_task(arm, total=total, accuracy="–") for arm in experiment.arms
        }
        self._scores = _scores(experiment)
        self._live = Live(
            Group(self._progress, _MeterLine(meter or Budget())),
            console=console,
            refresh_per_second=4,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Leave the bars as they are."""
        self._live.stop()

    def turn(self, session: Session, turn: Turn) -> None:
        """Move the bar of the session's arm."""
        score = self._scores[session.arm]
        score.add(correct=turn.feedback.correct)
        self._progress.update(self._bars[session.arm], advance=1, accuracy=str(score))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._live.console.print(Text(text))


class PlainProgress:
    """A line at the start, one every few seconds, one at the end; also where all turns wait."""

    SECONDS = 5.0
    SILENCE = 10.0

    def __init__(
        self, experiment: Experiment, console: Console, meter: Budget | None = None
    ) -> None:
        """Count the turns of all arms of `experiment`."""
        self._console = console
        self._meter = meter or Budget()
        self._total = experiment.turns * experiment.streams * len(experiment.arms)
        self._scores = _scores(experiment)
        self._start = self._last = time.monotonic()
        self._over = Event()
        self._waiting = Thread(target=self._say_in_silence, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self.say(f"playing {self._total} turns in arms {', '.join(self._scores)}")
        self._waiting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Print where it ended."""
        self._over.set()
        self._waiting.join()
        self.say(self._line())

    def turn(self, session: Session, turn: Turn) -> None:
        """Count a turn; print a line if it is time."""
        self._scores[session.arm].add(correct=turn.feedback.correct)
        if time.monotonic() - self._last >= self.SECONDS:
            self._last = time.monotonic()
            self.say(self._line())

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(Text(text), soft_wrap=True)

    def _say_in_silence(self) -> None:
        while not self._over.wait(self.SILENCE):
            if time.monotonic() - self._last >= self.SILENCE:
                self._last = time.monotonic()
                self.say(self._line())

    def _line(self) -> str:
        played = sum(score.played for score in self._scores.values())
        elapsed = time.monotonic() - self._start
        left = f"{elapsed / played * (self._total - played):.0f}" if played else "–"
        arms = ", ".join(f"{arm} {score}" for arm, score in self._scores.items())
        line = f"{played}/{self._total} turns, {left} s left, recent accuracy: {arms}"
        used = meter_line(self._meter)
        return f"{line}; {used}" if used else line


def summary_table(summaries: Iterable[ArmSummary]) -> Table:
    """Return the table of arms: early, late and windowed accuracy in percent.

    In a narrow terminal the intervals stand below their means.
    """
    rows = list(summaries)
    several = len({row.experiment for row in rows}) > 1
    ends: dict[int, int] = {}
    for block in (block for row in rows for block in row.blocks):
        ends[block.first] = max(block.last, ends.get(block.first, 0))
    windows = [f"{first}-{last}" for first, last in sorted(ends.items())]
    table = Table(
        title="accuracy in %, ± half of its 95 % t interval over sessions",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    names = [printable(f"{row.experiment} / {row.arm}" if several else row.arm) for row in rows]
    short = max(map(cell_len, names), default=0) <= _NAME_WIDTH
    table.add_column("arm", overflow="fold", no_wrap=short)
    table.add_column("sessions", justify="right", no_wrap=True)
    for heading in ("early", "late", "all", *windows, "not read"):
        table.add_column(heading, justify="right", overflow="fold")
    for name, row in zip(names, rows, strict=True):
        estimates = {block.first: block.accuracy for block in row.blocks}
        table.add_row(
            Text(name),
            str(row.sessions),
            *map(percent, (row.early, row.late, row.accuracy)),
            *(percent(estimates[first]) if first in estimates else "" for first in sorted(ends)),
            str(row.turns - row.outcomes.get("ok", 0)),
        )
    return table


def stops_table(stops: Iterable[StoppedSession]) -> Table:
    """Return the table of sessions that could not go on, and why."""
    table = Table(title="sessions that could not go on", title_justify="left")
    table.add_column("session", overflow="fold")
    table.add_column("why", overflow="fold")
    for stop in stops:
        name = f"{stop.session.arm}-{stop.session.stream}"
        table.add_row(Text(printable(name)), Text(printable(str(stop.reason))))
    return table
