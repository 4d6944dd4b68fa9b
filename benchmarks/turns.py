"""Processor time of the loop per turn, when requests show 50 or 500 past turns.

The model is a constant function, so the time is that of the loop alone: asking, choosing the past turns,
building and fingerprinting the request, parsing, scoring. The figures are medians of three sessions.

    python benchmarks/turns.py
"""

import asyncio
import time
from statistics import median

from icl_loop import CallableModel, Session, parse, play

SHOWN = (50, 500)
POLICIES = (
    "last({})",
    "block",
    "stochastic(0.9) | last({})",
    "only_incorrect | last({})",
    "reservoir({})",
    "per_class({})",
    "nearest({})",
)
MEASURED = 100
"""The last turns of a session, which are measured."""
REPEATS = 3


def session(policy: str, turns: int) -> Session:
    """Return a session whose window holds all its turns."""
    experiment = parse(
        {
            "name": "turns",
            "turns": turns,
            "streams": 1,
            "model": {"name": "simulated/chance", "context_window": 1_000_000},
            "context": {"policy": policy},
        }
    )
    return next(experiment.sessions())


async def answer(_: object) -> str:
    """Answer at once."""
    return "Answer: 3"


async def milliseconds(policy: str, shown: int) -> float:
    """Return the processor time per turn once about `shown` turns are shown."""
    turns = shown + shown // 5 + MEASURED
    chosen, start = session(policy.format(shown), turns), 0.0
    model = CallableModel(answer)
    async for turn in play(chosen.task, model, chosen.policy, chosen.window):
        if turn.index == turns - MEASURED - 1:
            start = time.process_time()
    return 1000 * (time.process_time() - start) / MEASURED


async def main() -> None:
    """Print the table."""
    print(f"{'ms per turn, turns shown:':28}" + "".join(f"{shown:>8}" for shown in SHOWN))
    for policy in POLICIES:
        figures = [
            median([await milliseconds(policy, shown) for _ in range(REPEATS)]) for shown in SHOWN
        ]
        print(f"{policy.format('n'):28}" + "".join(f"{figure:>8.2f}" for figure in figures))


if __name__ == "__main__":
    asyncio.run(main())
