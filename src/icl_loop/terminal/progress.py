"""Progress of runs and other long work: live bars on a terminal and in notebooks, else plain lines."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from html import escape
from threading import Event, Thread
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.text import Text

from icl_loop.core.messages import Usage
from icl_loop.core.names import printable
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment, Session
from icl_loop.experiment.sessions import Place
from icl_loop.models.limits import Budget, Wait
from icl_loop.terminal.console import print_text
from icl_loop.terminal.formatting import RECENT, UNKNOWN, duration

if TYPE_CHECKING:
    from IPython.display import DisplayHandle


class ProgressDisplay(Progress, ABC):
    """Shows live bars on a terminal, and elsewhere a line when something changes, at most every 30 s.

    With a delay, work that ends before it shows nothing, and the bars vanish at the end. In a notebook,
    bars are drawn every second and vanish at the end.
    """

    INTERVAL_S = 30.0
    """Least seconds between two lines."""
    POLL_S = 1.0

    def __init__(self, console: Console, *columns: ProgressColumn, delay_s: float = 0.0) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            *columns,
            console=console,
            refresh_per_second=4,
            transient=delay_s > 0,
            disable=console.is_jupyter or not console.is_terminal,
        )
        self._delay_s = delay_s
        self._printed: Hashable = None
        self._printed_at = 0.0
        self._over = Event()
        self._notebook: DisplayHandle | None = None
        self._thread = Thread(target=self._report, name="progress", daemon=True)

    def start(self) -> None:
        """Show the progress from now on, or after the delay."""
        if not self._delay_s:
            self._show()
        self._thread.start()

    def stop(self) -> None:
        """Show the progress for the last time."""
        self._over.set()
        self._thread.join()
        super().stop()
        if self.console.is_jupyter:
            self._draw_in_notebook("")
        elif not self._delay_s:
            self._print_line()

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the bars, and the status below them."""
        yield self.make_tasks_table(self.tasks)
        if status := self.status():
            yield Text(status, "dim", no_wrap=True, overflow="ellipsis")

    def status(self) -> str:
        """Return a line for below the bars."""
        return ""

    @abstractmethod
    def line(self) -> str:
        """Return the progress in one line."""

    def state(self) -> Hashable:
        """Return what a new line is printed for when it changes."""
        return tuple(task.completed for task in self.tasks)

    def _report(self) -> None:
        if self._delay_s and not self._over.wait(self._delay_s):
            self._show()
        while not self._over.wait(self.POLL_S):
            interval_s = 0 if self.console.is_jupyter else self.INTERVAL_S
            due = time.monotonic() - self._printed_at >= interval_s
            if self.disable and self.state() != self._printed and due:
                self._print_line()

    def _show(self) -> None:
        super().start()
        self._print_line()

    def _print_line(self) -> None:
        self._printed, self._printed_at = self.state(), time.monotonic()
        if self.console.is_jupyter:
            self._draw_in_notebook(self._html())
        elif self.disable:
            print_text(self.line(), self.console)

    def _html(self) -> str:
        """Return a bar for each task, and the line below them, as HTML."""
        bars = "".join(
            f"<tr><td>{escape(task.description)}</td><td><progress max={task.total or 1:g}"
            f" value={task.completed:g}></progress></td></tr>"
            for task in self.tasks
            if task.total is not None
        )
        return f"<table>{bars}</table><p>{escape(self.line())}</p>"

    def _draw_in_notebook(self, html: str) -> None:
        """Draw HTML in place of what was drawn before."""
        from IPython.display import DisplayHandle  # noqa: PLC0415  only notebooks have it

        content = {"text/html": html, "text/plain": self.line() if html else ""}
        if self._notebook is None:
            self._notebook = DisplayHandle()
            self._notebook.display(content, raw=True)
        else:
            self._notebook.update(content, raw=True)


class WorkProgress(ProgressDisplay):
    """The progress of work other than a run; shows nothing in the first two seconds."""

    def __init__(
        self, console: Console, task: str, unit: str, total: int | None = None, delay_s: float = 2.0
    ) -> None:
        super().__init__(console, TextColumn(unit), delay_s=delay_s)
        self._unit = unit
        self._task = self.add_task(task, total=total)

    def add(self, count: int = 1) -> None:
        """Count some more of the work as done."""
        self.advance(self._task, count)

    def line(self) -> str:
        """Return how much of the work is done."""
        [task] = self.tasks
        total = "" if task.total is None else f" of {task.total:,.0f}"
        return f"{task.description}: {task.completed:,.0f}{total} {self._unit}"


class _TimeLeft(ProgressColumn):
    """The time left, from the turns since the start that were not saved before."""

    def render(self, task: Task) -> Text:
        """Return the time left, or a dash if it is unknown."""
        left = _seconds_left([task])
        return Text(f"{UNKNOWN if left is None else duration(left)} left")


def _seconds_left(tasks: Sequence[Task]) -> float | None:
    """Return the seconds left at the speed since the start; None if no turn was played since."""
    played = sum(task.fields["played"] for task in tasks)
    missing = sum(task.remaining or 0 for task in tasks)
    elapsed = max((task.elapsed or 0 for task in tasks), default=0)
    return elapsed / played * missing if played else None if missing else 0


def turn_line(session: Session, turn: Turn) -> str:
    """Return a turn in one line: session, index, answer, whether it is right, tokens and seconds."""
    answer = f"no answer ({turn.outcome})" if turn.answer is None else f"answered {turn.answer}"
    usage = turn.reply.usage
    tokens = f", {usage.prompt:,} tokens in, {usage.completion:,} out" if usage.prompt else ""
    return printable(
        f"{session.file_name.removesuffix('.jsonl')}, turn {turn.index}: {answer},"
        f" {'right' if turn.feedback.correct else f'wrong (label {turn.label})'}"
        f"{tokens}, {turn.reply.latency_s or 0:.1f} s"
    )


class RunProgress(ProgressDisplay):
    """The progress of a run: turns and recent accuracy of each arm, tokens, money, requests."""

    QUIET_S = 60
    """Seconds without a reply after which the progress says so."""

    def __init__(self, experiment: Experiment, console: Console, budget: Budget) -> None:
        accuracy = TextColumn("accuracy {task.fields[accuracy]:>6}")
        self._budget = budget  # the base class asks for the status
        self._replies: tuple[float, Usage] = (-1, budget.spent)
        self._replied_at = 0.0
        self._began_at = time.monotonic()
        self._latest: dict[Place, float] = {}
        super().__init__(console, accuracy, _TimeLeft())
        sessions = experiment.count() // len(experiment.arms)
        total, recent = experiment.turns * sessions, RECENT * sessions
        self._arms = {
            arm: (
                self.add_task(printable(arm), total=total, accuracy=UNKNOWN, played=0),
                deque[bool](maxlen=recent),
            )
            for arm in experiment.arms
        }

    def turn(self, session: Session, turn: Turn) -> None:
        """Count a turn that has been saved."""
        task, recent = self._arms[session.arm]
        if not session.is_chosen(turn.index):
            recent.append(turn.feedback.correct)
        self.update(
            task,
            advance=1,
            accuracy=f"{sum(recent) / len(recent):.1%}",
            played=self.tasks[task].fields["played"] + self._was_played_now(session, turn),
        )

    def _was_played_now(self, session: Session, turn: Turn) -> bool:
        """Return whether a turn was played since the last one; saved ones come faster than replies."""
        now, latency_s = time.monotonic(), turn.reply.latency_s or 0
        passed_s = now - self._latest.get(session.place, self._began_at)
        self._latest[session.place] = now
        return passed_s >= latency_s / 2

    def state(self) -> Hashable:
        """Return the turns, tokens and retries, and what is waited for."""
        waits = frozenset(wait.reason for wait in self._waits())
        retries = self._budget.retries.total()
        return super().state(), self._budget.spent, retries, waits, self._no_reply()

    def status(self) -> str:
        """Return waits, tokens, money, requests in flight and retries; nothing if there were none."""
        spent, retries, in_flight = self._budget.spent, self._budget.retries, self._budget.in_flight
        waiting = self._waiting() or self._no_reply()
        if not (spent.prompt or spent.completion or in_flight or retries):
            return waiting.removesuffix("; ")
        usd = f"; ${self._budget.usd:.4f}" if self._budget.usd else ""
        most_common = (f", {count} of them: {reason}" for reason, count in retries.most_common(1))
        return printable(
            f"{waiting}tokens: {spent.prompt:,} in ({spent.cached:,} cached),"
            f" {spent.completion:,} out{usd};"
            f" {in_flight} requests in flight; {retries.total()} retries{''.join(most_common)}"
        )

    def _waiting(self) -> str:
        """Return how long requests still wait at most, and why; "" if none waits."""
        if not (waits := self._waits()):
            return ""
        longest = max(waits, key=lambda wait: wait.until)
        count = f" ({len(waits)} requests)" if len(waits) > 1 else ""
        return (
            f"waiting {duration(longest.until - time.monotonic())}{count} {longest.reason[:200]}; "
        )

    def _waits(self) -> list[Wait]:
        now = time.monotonic()
        return [wait for wait in list(self._budget.waits.values()) if wait.until > now]

    def _no_reply(self) -> str:
        """Return for how many whole minutes there has been no reply; "" if for less than one."""
        done, now = sum(task.completed for task in self.tasks), time.monotonic()
        if self._replies != (done, self._budget.spent):
            self._replies, self._replied_at = (done, self._budget.spent), now
        quiet_s = int((now - self._replied_at) // self.QUIET_S) * self.QUIET_S
        if not quiet_s or self.finished:
            return ""
        return f"no reply for {f'{quiet_s} s' if quiet_s < 120 else duration(quiet_s)}; "

    def line(self) -> str:
        """Return turns, time left, the recent accuracy of each arm, and the status."""
        done = sum(task.completed for task in self.tasks)
        total = sum(task.total or 0 for task in self.tasks)
        seconds = _seconds_left(self.tasks)
        left = "" if seconds is None else f", {duration(seconds)} left"
        arms = ", ".join(f"{task.description} {task.fields['accuracy']}" for task in self.tasks)
        line = f"{done:,.0f} of {total:,.0f} turns{left}; recent accuracy: {arms}"
        return "; ".join(filter(None, [line, self.status()]))
