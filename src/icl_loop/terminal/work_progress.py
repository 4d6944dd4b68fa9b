"""Where a long piece of work is, said while it lasts."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, TextColumn

from icl_loop.experiment import Experiment
from icl_loop.terminal.console import err


def checking(experiment: Experiment) -> "Waiting":
    """Return what says how many sessions of an experiment are checked."""
    return Waiting(err, f"checking: {{:,}} of {experiment.count():,} sessions")


class Waiting:
    """Says how far a long piece of work is, once it has lasted for two seconds.

    In a terminal it is said in place and goes away in the end; elsewhere in a line now and then.
    """

    BETWEEN = 5.0
    """Seconds from a line to the next."""

    def __init__(self, console: Console, words: str, after_s: float = 2.0) -> None:
        """Say these words on `console`; in them `{:,}` stands for how much is done."""
        self._console, self._words = console, words
        self._in_place = console.is_terminal
        column = TextColumn("{task.description}", markup=False)
        self._progress = Progress(
            column, console=console, transient=True, disable=not self._in_place
        )
        self._task = self._progress.add_task("")
        self._due, self._done = time.monotonic() + after_s, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Leave nothing behind in a terminal."""
        if self._progress.live.is_started:
            self._progress.stop()

    def step(self, done: int = 1) -> None:
        """Count so many more as done; say so if it is time."""
        self._done += done
        if time.monotonic() >= self._due:
            self._say(self._words.format(self._done))

    def _say(self, words: str) -> None:
        if self._in_place:
            self._progress.start()
            self._progress.update(self._task, description=words)
            return
        self._console.print(words, markup=False, highlight=False, soft_wrap=True)
        self._due = time.monotonic() + self.BETWEEN
