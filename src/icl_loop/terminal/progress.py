"""Progress of runs and other long work: live bars on a terminal, plain lines elsewhere."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from threading import Event, Thread

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment, Session
from icl_loop.models.limits import Budget
from icl_loop.terminal.console import print_text
from icl_loop.terminal.formatting import RECENT, UNKNOWN, duration, printable


class ProgressDisplay(Progress, ABC):
    """Shows live bars on a terminal, and a line every few seconds elsewhere.

    With a delay, work that ends before it shows nothing, and the bars vanish at the end.
    """

    INTERVAL_S = 5.0

    def __init__(self, console: Console, *columns: ProgressColumn, delay_s: float = 0.0) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            *columns,
            console=console,
            refresh_per_second=4,
            transient=delay_s > 0,
            disable=not console.is_terminal,
        )
        self._delay_s = delay_s
        self._over = Event()
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
        if not self._delay_s:
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

    def _report(self) -> None:
        if self._delay_s and not self._over.wait(self._delay_s):
            self._show()
        while not self._over.wait(self.INTERVAL_S):
            self._print_line()

    def _show(self) -> None:
        super().start()
        self._print_line()

    def _print_line(self) -> None:
        if self.disable:
            print_text(self.line(), self.console)


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


class RunProgress(ProgressDisplay):
    """The progress of a run: turns and recent accuracy of each arm, tokens, money, requests."""

    def __init__(self, experiment: Experiment, console: Console, budget: Budget) -> None:
        accuracy = TextColumn("accuracy {task.fields[accuracy]:>6}")
        self._budget = budget  # the base class asks for the status
        super().__init__(console, accuracy, TimeRemainingColumn(compact=True))
        sessions = experiment.count() // len(experiment.arms)
        total, recent = experiment.turns * sessions, RECENT * sessions
        self._arms = {
            arm: (
                self.add_task(printable(arm), total=total, accuracy=UNKNOWN),
                deque[bool](maxlen=recent),
            )
            for arm in experiment.arms
        }

    def turn(self, session: Session, turn: Turn) -> None:
        """Count a turn that has been saved."""
        task, recent = self._arms[session.arm]
        recent.append(turn.feedback.correct)
        self.update(task, advance=1, accuracy=f"{sum(recent) / len(recent):.1%}")

    def status(self) -> str:
        """Return waits, tokens, money, requests in flight and retries; nothing if there were none."""
        spent, retries, in_flight = self._budget.spent, self._budget.retries, self._budget.in_flight
        if not (spent.prompt or spent.completion or in_flight or retries):
            return ""
        usd = f"; ${self._budget.usd:.4f}" if self._budget.usd else ""
        most_common = (f", {count} of them: {reason}" for reason, count in retries.most_common(1))
        return printable(
            f"{self._waiting()}tokens: {spent.prompt:,} in ({spent.cached:,} cached), {spent.completion:,} out{usd};"
            f" {in_flight} requests in flight; {retries.total()} retries{''.join(most_common)}"
        )

    def _waiting(self) -> str:
        """Return how long requests still wait at most, and why; "" if none waits."""
        now = time.monotonic()
        waits = [wait for wait in list(self._budget.waits.values()) if wait.until > now]
        if not waits:
            return ""
        longest = max(waits, key=lambda wait: wait.until)
        count = f" ({len(waits)} requests)" if len(waits) > 1 else ""
        return f"waiting {duration(longest.until - now)}{count} {longest.reason[:200]}; "

    def line(self) -> str:
        """Return turns, time left, the recent accuracy of each arm, and the status."""
        done = sum(task.completed for task in self.tasks)
        total = sum(task.total or 0 for task in self.tasks)
        elapsed = max((task.elapsed or 0 for task in self.tasks), default=0)
        left = f", {duration(elapsed / done * (total - done))} left" if done else ""
        arms = ", ".join(f"{task.description} {task.fields['accuracy']}" for task in self.tasks)
        line = f"{done:,.0f} of {total:,.0f} turns{left}; recent accuracy: {arms}"
        return "; ".join(filter(None, [line, self.status()]))
