"""Progress of runs and other long work: live bars on a terminal, plain lines elsewhere."""

from collections import deque
from collections.abc import Callable, Iterator
from threading import Event, Thread
from types import TracebackType
from typing import Self

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
from icl_loop.terminal.formatting import RECENT, UNKNOWN, duration, printable


class ProgressDisplay:
    """Shows live bars on a terminal, and a line every few seconds elsewhere.

    With a delay, work that ends before it shows nothing, and the bars vanish at the end.
    """

    INTERVAL_S = 5.0

    def __init__(self, console: Console, *columns: ProgressColumn, delay_s: float = 0.0) -> None:
        self._bars = _BarsAndStatus(
            self.status,
            *columns,
            console=console,
            transient=delay_s > 0,
            disable=not console.is_terminal,
        )
        self._delay_s = delay_s
        self._over = Event()
        self._thread = Thread(target=self._report, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if not self._delay_s:
            self._start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._bars.stop()
        if not self._delay_s:
            self._print_line()

    def say(self, text: str) -> None:
        """Print a line of text, above the bars if there are any."""
        self._bars.console.print(Text(printable(text)), soft_wrap=True)

    def status(self) -> str:
        """Return a line for below the bars."""
        return ""

    def line(self) -> str:
        """Return the progress in one line."""
        raise NotImplementedError

    def _report(self) -> None:
        if self._delay_s and not self._over.wait(self._delay_s):
            self._start()
        while not self._over.wait(self.INTERVAL_S):
            self._print_line()

    def _start(self) -> None:
        self._bars.start()
        self._print_line()

    def _print_line(self) -> None:
        if self._bars.disable:
            self.say(self.line())


class _BarsAndStatus(Progress):
    """Bars with a line of text below them."""

    def __init__(
        self,
        status: Callable[[], str],
        *columns: ProgressColumn,
        console: Console,
        transient: bool,
        disable: bool,
    ) -> None:
        self._status = status
        super().__init__(
            *columns, console=console, refresh_per_second=4, transient=transient, disable=disable
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if status := self._status():
            yield Text(status, "dim", no_wrap=True, overflow="ellipsis")


class WorkProgress(ProgressDisplay):
    """The progress of work other than a run; shows nothing in the first two seconds."""

    def __init__(
        self, console: Console, task: str, unit: str, total: int | None = None, delay_s: float = 2.0
    ) -> None:
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
        super().__init__(console, *columns, TextColumn(unit), delay_s=delay_s)
        self._unit = unit
        self._bars.add_task(task, total=total)

    def advance(self, count: int = 1) -> None:
        """Count some more of the work as done."""
        self._bars.advance(self._bars.task_ids[0], count)

    def line(self) -> str:
        """Return how much of the work is done."""
        [task] = self._bars.tasks
        total = "" if task.total is None else f" of {task.total:,.0f}"
        return f"{task.description}: {task.completed:,.0f}{total} {self._unit}"


class RunProgress(ProgressDisplay):
    """The progress of a run: turns and recent accuracy of each arm, tokens, money, requests."""

    def __init__(self, experiment: Experiment, console: Console, budget: Budget) -> None:
        self._budget = budget
        super().__init__(
            console,
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("accuracy {task.fields[accuracy]:>6}"),
            TimeRemainingColumn(compact=True),
        )
        self._recent = {
            arm: deque[bool](maxlen=RECENT * experiment.streams) for arm in experiment.arms
        }
        self._task_ids = {
            arm: self._bars.add_task(
                printable(arm), total=experiment.turns * experiment.streams, accuracy=UNKNOWN
            )
            for arm in experiment.arms
        }

    def turn(self, session: Session, turn: Turn) -> None:
        """Count a turn that has been saved."""
        recent = self._recent[session.arm]
        recent.append(turn.feedback.correct)
        accuracy = f"{sum(recent) / len(recent):.1%}"
        self._bars.update(self._task_ids[session.arm], advance=1, accuracy=accuracy)

    def status(self) -> str:
        """Return tokens, money, requests in flight and retries; nothing if there were none."""
        spent, retries = self._budget.spent, self._budget.retries
        if not (spent.prompt or spent.completion or self._budget.in_flight or retries):
            return ""
        parts = [
            f"tokens: {spent.prompt:,} in ({spent.cached:,} cached), {spent.completion:,} out",
            *([f"${self._budget.usd:.4f}"] if self._budget.usd else []),
            f"{self._budget.in_flight} requests in flight",
            f"{retries.total()} retries",
        ]
        most_common = (f", {count} of them: {reason}" for reason, count in retries.most_common(1))
        return printable("; ".join(parts) + "".join(most_common))

    def line(self) -> str:
        """Return turns, time left, the recent accuracy of each arm, and the status."""
        tasks = self._bars.tasks
        done = sum(task.completed for task in tasks)
        total = sum(task.total or 0 for task in tasks)
        elapsed = max((task.elapsed or 0 for task in tasks), default=0)
        left = f", {duration(elapsed / done * (total - done))} left" if done else ""
        arms = ", ".join(f"{task.description} {task.fields['accuracy']}" for task in tasks)
        status = self.status()
        line = f"{done:,.0f} of {total:,.0f} turns{left}; recent accuracy: {arms}"
        return f"{line}; {status}" if status else line
