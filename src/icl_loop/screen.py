"""What people see in a terminal: progress, tables, and a session turn by turn."""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
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

from icl_loop.analysis import ArmSummary, Estimate
from icl_loop.encodings import Pixels, encoding
from icl_loop.errors import EncodingError, InputError
from icl_loop.experiment import Experiment, Session
from icl_loop.records import Turn
from icl_loop.runner import Stop
from icl_loop.transcripts import Transcript
from icl_loop.wording import open_wording

RECENT = 20
"""Turns over which running accuracy is taken."""


def printable(text: str) -> str:
    """Return `text` with everything that could steer a terminal replaced by U+FFFD."""
    return "".join(mark if mark.isprintable() or mark == "\n" else "\ufffd" for mark in text)


@dataclass
class _Score:
    """Right answers of one arm, in all and in its latest turns."""

    played: int = 0
    recent: list[bool] = field(default_factory=list)

    def add(self, *, correct: bool, size: int) -> None:
        self.played += 1
        self.recent = [*self.recent[-(size - 1) :], correct] if size > 1 else [correct]

    @property
    def accuracy(self) -> float:
        return sum(self.recent) / len(self.recent) if self.recent else 0.0


class Watcher(Protocol):
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


def watch(experiment: Experiment, console: Console) -> Watcher:
    """Return a live display on a terminal, plain lines anywhere else."""
    return LiveProgress(experiment, console) if console.is_terminal else PlainProgress(experiment)


class LiveProgress:
    """A bar for each arm: turns, recent accuracy over its sessions, time left."""

    def __init__(self, experiment: Experiment, console: Console) -> None:
        """Make a bar for each arm of `experiment`."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("accuracy {task.fields[accuracy]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        total = experiment.turns * experiment.streams
        self._bars: dict[str, TaskID] = {
            arm: self._progress.add_task(arm, total=total, accuracy="    –")
            for arm in experiment.arms
        }
        self._scores = {arm: _Score() for arm in experiment.arms}
        self._size = RECENT * experiment.streams

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Leave the bars as they are."""
        self._progress.stop()

    def turn(self, session: Session, turn: Turn) -> None:
        """Move the bar of the session's arm."""
        score = self._scores[session.arm]
        score.add(correct=turn.feedback.correct, size=self._size)
        self._progress.update(self._bars[session.arm], advance=1, accuracy=f"{score.accuracy:5.1%}")

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(Text(text))


class PlainProgress:
    """A line at the start, one every few seconds, one at the end."""

    SECONDS = 5.0

    def __init__(self, experiment: Experiment) -> None:
        """Count the turns of all arms of `experiment`."""
        self._total = experiment.turns * experiment.streams * len(experiment.arms)
        self._scores = {arm: _Score() for arm in experiment.arms}
        self._size = RECENT * experiment.streams
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Self:
        self.say(f"playing {self._total} turns in arms {', '.join(self._scores)}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Print where it ended."""
        self.say(self._line())

    def turn(self, session: Session, turn: Turn) -> None:
        """Count a turn; print a line if it is time."""
        self._scores[session.arm].add(correct=turn.feedback.correct, size=self._size)
        if time.monotonic() - self._last >= self.SECONDS:
            self._last = time.monotonic()
            self.say(self._line())

    def say(self, text: str) -> None:
        """Print a line to standard error."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201  plain lines are for pipes and logs

    def _line(self) -> str:
        played = sum(score.played for score in self._scores.values())
        elapsed = time.monotonic() - self._start
        left = elapsed / played * (self._total - played) if played else 0.0
        arms = ", ".join(f"{arm} {score.accuracy:.1%}" for arm, score in self._scores.items())
        return f"{played}/{self._total} turns, {left:.0f} s left, recent accuracy: {arms}"


def summary_table(summaries: Iterable[ArmSummary]) -> Table:
    """Return the table of arms: early, late and windowed accuracy in percent."""
    rows = list(summaries)
    several = len({row.experiment for row in rows}) > 1
    table = Table(
        title="accuracy in %, ± half of its 95 % t interval over sessions",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("arm", no_wrap=True)
    for heading in ("sessions", "early", "late", "all"):
        table.add_column(heading, justify="right", no_wrap=True)
    longest = max((row.blocks for row in rows), key=len, default=())
    for block in longest:
        table.add_column(f"{block.first}-{block.last}", justify="right", no_wrap=True)
    table.add_column("not read", justify="right")
    for row in rows:
        unread = sum(count for outcome, count in row.outcomes.items() if outcome != "ok")
        blocks = [_percent(block.accuracy) for block in row.blocks]
        table.add_row(
            printable(f"{row.experiment} / {row.arm}" if several else row.arm),
            str(row.sessions),
            _percent(row.early),
            _percent(row.late),
            _percent(row.accuracy),
            *blocks,
            *[""] * (len(longest) - len(blocks)),
            str(unread),
        )
    return table


def _percent(estimate: Estimate) -> str:
    if estimate.mean is None:
        return "–"
    if estimate.interval is None:
        return f"{100 * estimate.mean:.1f}"
    half = (estimate.interval[1] - estimate.interval[0]) / 2
    return f"{100 * estimate.mean:.1f}±{100 * half:.1f}"


def stops_table(stops: Iterable[Stop]) -> Table:
    """Return the table of sessions that could not go on, and why."""
    table = Table(title="sessions that could not go on", title_justify="left")
    table.add_column("session", no_wrap=True)
    table.add_column("why")
    for stop in stops:
        table.add_row(
            f"{stop.session.arm}-{stop.session.stream}", Text(printable(str(stop.reason)))
        )
    return table


def draw(pixels: Pixels, *, colour: bool) -> Text:
    """Return a picture of shape (rows, columns) in half-blocks, two rows of pixels a line.

    Without colour a pixel is lit from half brightness on.
    """
    padded = np.vstack([pixels, np.zeros((len(pixels) % 2, pixels.shape[1]), np.float32)])
    picture = Text()
    for upper, lower in zip(padded[::2], padded[1::2], strict=True):
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            if colour:
                grey = [round(255 * value) for value in (top, bottom)]
                style = " on ".join(f"rgb({level},{level},{level})" for level in grey)
                picture.append("▀", style)
            else:
                picture.append(" ▀▄█"[(top >= 0.5) + 2 * (bottom >= 0.5)])
        picture.append("\n")
    return picture


class Replay:
    """Shows the turns of a saved session one by one."""

    def __init__(self, transcript: Transcript, *, colour: bool) -> None:
        """Take the way back from question to picture from the recorded settings, if it is known."""
        self._transcript = transcript
        self._colour = colour
        task = transcript.header.settings.get("task", {})
        try:
            self._wording = open_wording(str(task.get("wording")))
            self._encoding = encoding(str(task.get("encoding")))
        except InputError:
            self._wording = self._encoding = None  # type: ignore[assignment]  # shown as text then

    def heading(self) -> Text:
        """Return what the session is, in one line."""
        header = self._transcript.header
        model = header.settings.get("model", {}).get("name", "?")
        end = self._transcript.end
        return Text(
            printable(
                f"{header.experiment} / {header.arm}, stream {header.stream}: {model},"
                f" {header.dataset.name}, {len(self._transcript.turns)} of {header.turns} turns,"
                f" {end.status if end else 'unfinished'}"
            ),
            style="bold",
        )

    def turn(self, index: int) -> RenderableType:
        """Return the picture, the answer, the verdict and the running accuracy of a turn."""
        turn = self._transcript.turns[index]
        recent = self._transcript.turns[max(0, index + 1 - RECENT) : index + 1]
        right = sum(each.feedback.correct for each in recent)
        shown = sum(last - first + 1 for first, last in turn.kept)
        verdict = Text("right", "green") if turn.feedback.correct else Text("wrong", "red")
        answer = turn.answer if turn.answer is not None else f"none ({turn.outcome})"
        line = Text(printable(f"turn {index}: answered {answer}, it is {turn.label}: "))
        line.append_text(verdict)
        return Group(
            self._picture(turn),
            line,
            Text(printable(f"  reply: {_one_line(turn.reply.text)}"), style="dim"),
            Text(printable(f"  told: {turn.feedback.told}"), style="dim"),
            Text(
                f"  shown {shown} past turns; {right} of the last {len(recent)} right"
                f" ({right / len(recent):.0%})\n",
                style="dim",
            ),
        )

    def _picture(self, turn: Turn) -> Text:
        if self._wording is not None and self._encoding is not None:
            question = self._wording.hear_question(turn.question.text)
            try:
                if question is not None:
                    return draw(self._encoding.decode(question[1]), colour=self._colour)
            except EncodingError:
                pass  # a question that was edited is shown as it stands
        return Text(printable(turn.question.text))


def _one_line(text: str, limit: int = 200) -> str:
    line = " / ".join(part for part in text.splitlines() if part.strip())
    return line if len(line) <= limit else line[:limit] + " …"
