"""Measure what the built-in network learns from unseen images, beside reference learners.

Plays 12 streams of `digits:test` through projections, and of MNIST with native and permuted pixels, 8 a
side as the digits of training and 20 a side. With 5 labels, each stream has 5 classes of its own. Prints
accuracy by block of turns and the processor time of a turn of each model. Leaves MNIST out if it is not
on this machine.

    python benchmarks/neural.py
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.records import keyed_order
from icl_loop.experiment import Session, parse
from icl_loop.loop import play
from icl_loop.models import ChatModel
from icl_loop.models.neural.in_context import VIEWS
from icl_loop.models.neural.network import trained
from icl_loop.tasks.datasets import Dataset, is_available_locally, open_dataset

STREAMS, SEED = 12, 20230315
MODELS = ("neural/in-context", "reference/propagation", "reference/nearest")
DATA = (
    ("digits:test", 8, "projected"),
    ("mnist:test", 8, "identity"),
    ("mnist:test", 8, "permuted"),
    ("mnist:test", 20, "identity"),
    ("mnist:test", 20, "permuted"),
)
BLOCKS = {5: ((1, 20), (21, 40), (41, 60)), 10: ((1, 20), (21, 50), (51, 100), (101, 200))}
"""First and last turn of each block, by the number of labels."""


class FiveClasses(Session):
    """A session about five classes, others in each stream."""

    @cached_property
    def dataset(self) -> Dataset:
        """The samples of these classes."""
        real = open_dataset(self.settings.task.dataset)
        chosen = np.sort(keyed_order(len(real.labels), self.seed, "five", self.stream)[:5])
        places = np.flatnonzero(np.isin(real.classes, chosen))
        return replace(
            real,
            contents=np.asarray(real.contents)[places],
            classes=np.searchsorted(chosen, real.classes[places]),
            labels=tuple(real.labels[each] for each in chosen),
        )


def sessions(
    model: str, labels: int, data: str, size: int, pixels: str, feedback: str
) -> Iterator[Session]:
    """Yield the sessions of one row of the table."""
    made = parse(
        {
            "name": "neural",
            "turns": BLOCKS[labels][-1][1],
            "streams": STREAMS,
            "seed": SEED,
            "task": {"dataset": data, "size": size, "pixels": pixels, "encoding": "grid"},
            "model": {"name": model, "context_window": 2_000_000},
            "context": {"policy": "all"},
            "feedback": {"kind": feedback},
        }
    )
    for each in made.sessions():
        yield FiveClasses(**vars(each)) if labels == 5 else each


async def right_answers(session: Session, model: ChatModel) -> list[bool]:
    """Return for each turn of a session whether the answer is right."""
    turns = play(session.task, model, session.policy, session.window)
    return [turn.feedback.correct async for turn in turns]


def main() -> None:
    """Print the tables."""
    network, at_200 = trained(), 200
    memory = network.memory(VIEWS)
    for _ in range(at_200):
        network.add_turn(
            memory, np.zeros((VIEWS, network.inputs), np.float32), np.zeros(VIEWS, int)
        )
    weights = sum(each.size for each in network.weights.values())
    kibibytes = (memory.keys[..., :at_200, :].nbytes * 2) / 1024
    print(f"{weights:,} weights; keys and values of {at_200} turns: {kibibytes:,.0f} KiB")
    for labels, feedback, (data, size, pixels) in product(BLOCKS, ("correctness", "label"), DATA):
        if not is_available_locally(data):
            continue
        print(f"\n{labels} labels, {feedback}, {data}, {size} a side, {pixels} pixels")
        for name in MODELS:
            started = time.process_time()
            played = [
                asyncio.run(right_answers(session, session.open_model()))
                for session in sessions(name, labels, data, size, pixels, feedback)
            ]
            right: NDArray[np.bool_] = np.array(played)
            milliseconds = (time.process_time() - started) * 1000 / right.size
            blocks = "  ".join(
                f"{first}-{last}: {100 * right[:, first - 1 : last].mean():3.0f}"
                for first, last in BLOCKS[labels]
            )
            print(f"{name:22} {blocks}   {milliseconds:.1f} ms a turn", flush=True)


if __name__ == "__main__":
    main()
