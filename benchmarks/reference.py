"""Check the accuracy of the reference learners on MNIST.

Plays 20 streams of 500 turns on mnist:test at 20x20, or 8 for rows without an expectation. Needs MNIST,
downloaded or below the folder that ICL_LOOP_DATA names. Exits with 1 if a row fails.

    python benchmarks/reference.py
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from icl_loop.core.messages import Message, Reply, merged
from icl_loop.core.records import keyed_order
from icl_loop.experiment import Session, parse
from icl_loop.loop import play
from icl_loop.models import ChatModel
from icl_loop.tasks.datasets import Dataset, open_dataset

STREAMS, TURNS, SEED = 20, 500, 20230315
ROOM_FOR_ALL = 2_000_000
"""A context window in tokens that shows every turn."""


@dataclass(frozen=True)
class Arm:
    """The settings of an arm."""

    name: str
    model: str
    feedback: str
    policy: str = "all"
    pixels: str = "identity"
    shuffled: bool = False
    streams: int = STREAMS

    def session(self, stream: int, turns: int = TURNS) -> Session:
        """Return the session of this stream."""
        made = parse(
            {
                "name": "reference",
                "turns": turns,
                "streams": stream + 1,
                "seed": SEED,
                "task": {"dataset": "mnist:test", "encoding": "grid", "pixels": self.pixels},
                "model": {"name": self.model, "context_window": ROOM_FOR_ALL},
                "context": {"policy": self.policy},
                "feedback": {"kind": self.feedback},
            }
        )
        drawn = list(made.sessions())[stream]
        return ShuffledSession(**vars(drawn)) if self.shuffled else drawn


class ShuffledSession(Session):
    """A session on images with shuffled labels."""

    @cached_property
    def dataset(self) -> Dataset:
        """The data set with its classes shuffled."""
        real = open_dataset(self.settings.task.dataset)
        order = keyed_order(len(real), self.seed, "labels shuffled")
        return replace(real, classes=real.classes[order])


@dataclass(frozen=True)
class Row:
    """The expected accuracy of an arm in a block of turns, counted from 1, both ends included.

    Attributes:
        arm: The arm.
        first: First turn of the block.
        last: Last turn of the block.
        least: Lowest accuracy in percent, or None for no limit.
        most: Highest accuracy in percent, or None for no limit.
    """

    arm: Arm
    first: int
    last: int
    least: float | None = None
    most: float | None = None

    @property
    def expected(self) -> str:
        """The bounds as text."""
        if self.least is None:
            return "-"
        return f">= {self.least:g}" if self.most is None else f"{self.least:g} to {self.most:g}"

    def holds(self, percent: float) -> bool:
        """Return whether an accuracy is within the bounds."""
        return (self.least or 0) <= percent <= (100 if self.most is None else self.most)


NEAREST = Arm("nearest, label revealed", "reference/nearest", "label")
NARROW = replace(NEAREST, name="nearest, window of 50 turns", policy="last(50)")
MOVED = replace(NEAREST, name="nearest, pixels permuted", pixels="permuted")
SHUFFLED = replace(NEAREST, name="nearest, labels shuffled", shuffled=True)
BINARY = Arm("propagation, right or wrong told", "reference/propagation", "correctness")
REVEALED = replace(BINARY, name="propagation, label revealed", feedback="label", streams=8)
PROTOTYPE = Arm("prototype, label revealed", "reference/prototype", "label", streams=8)
RIDGE = replace(PROTOTYPE, name="kernel ridge, label revealed", model="reference/ridge")
RIDGE_BINARY = replace(RIDGE, name="kernel ridge, right or wrong told", feedback="correctness")

ROWS = (
    *(
        Row(NEAREST, first, last, percent - 4, percent + 4)
        for first, last, percent in ((21, 50, 56), (51, 100, 70), (101, 200, 78), (301, 500, 85))
    ),
    Row(NARROW, 301, 500, 59, 67),
    Row(MOVED, 301, 500, 81, 89),
    *(Row(SHUFFLED, first, last, 8, 12) for first, last in ((1, 100), (101, 300), (301, 500))),
    *(Row(BINARY, first, last) for first, last in ((21, 50), (101, 200))),
    Row(BINARY, 301, 500, 65),
    *(Row(arm, 301, 500) for arm in (REVEALED, PROTOTYPE, RIDGE, RIDGE_BINARY)),
)


def main() -> None:
    """Print the table; exit with 1 if a row fails."""
    start = time.perf_counter()
    arms = list(dict.fromkeys(row.arm for row in ROWS))
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        jobs = {
            arm: processes.map(_correct, [arm] * arm.streams, range(arm.streams)) for arm in arms
        }
        correct = {arm: np.array(list(played)) for arm, played in jobs.items()}
    print(f"{'accuracy in %':36}{'turns':>8}{'expected':>12}{'measured':>10}  95 % t interval")
    passed = [_print(row, correct[row.arm]) for row in ROWS]
    passed.append(_same_requests())
    print(
        f"{sum(arm.streams for arm in arms) * TURNS} turns in {time.perf_counter() - start:.0f} s"
    )
    sys.exit(not all(passed))


def _correct(arm: Arm, stream: int) -> list[bool]:
    """Return whether the answer of each turn was right."""
    chosen = arm.session(stream)
    return asyncio.run(_played(chosen, chosen.open_model()))


async def _played(session: Session, model: ChatModel) -> list[bool]:
    turns = play(session.task, model, session.policy, session.window)
    return [turn.feedback.correct async for turn in turns]


def _print(row: Row, correct: NDArray[np.bool_]) -> bool:
    """Print a row of the table and return whether it passed."""
    accuracies = 100 * correct[:, row.first - 1 : row.last].mean(axis=1)
    mean, half = accuracies.mean(), stats.sem(accuracies) * stats.t.ppf(0.975, row.arm.streams - 1)
    passed = row.holds(mean)
    verdict = ("PASS" if passed else "FAIL") if row.least is not None else ""
    print(
        f"{row.arm.name:36}{f'{row.first}-{row.last}':>8}{row.expected:>12}{mean:10.1f}"
        f"  [{mean - half:.1f}, {mean + half:.1f}]".ljust(82)
        + verdict
    )
    return passed


class RecordingModel:
    """Passes requests on and records their bytes."""

    def __init__(self, model: ChatModel) -> None:
        self.sent: list[bytes] = []
        self._model = model

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply of the wrapped model."""
        self.sent.append(b",".join(message.json_open for message in merged(messages)))
        return await self._model.complete(messages)


def _same_requests() -> bool:
    """Print whether requests with a window of 0 turns equal those of `stateless` byte by byte."""
    sent = []
    for policy in ("last(0)", "stateless"):
        chosen = replace(NEAREST, policy=policy).session(0, turns=100)
        recording = RecordingModel(chosen.open_model())
        asyncio.run(_played(chosen, recording))
        sent.append(recording.sent)
    passed = len(sent[0]) == 100 and sent[0] == sent[1]
    print(
        f"{'a window of 0 turns':36}{'1-100':>8}  requests equal those of stateless".ljust(82),
        end="",
    )
    print("PASS" if passed else "FAIL")
    return passed


if __name__ == "__main__":
    main()
