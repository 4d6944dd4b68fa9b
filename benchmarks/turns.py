"""Turns per second of the loop at a short and a long history.

The participant costs next to nothing, so what is measured is the loop itself: asking, choosing
and recalling the past, fingerprint, reading, judging. Both histories are played in turns in one
process, and medians are printed, because machines are noisy.

    python benchmarks/turns.py
"""

import asyncio
import time
from statistics import median

from icl_loop import Session, parse, play

HISTORIES = (50, 500)
TURNS = 600
REPEATS = 3


def session(history: int) -> Session:
    """Return a session whose window holds `history` turns."""
    made = parse(
        {
            "name": "turns",
            "turns": TURNS,
            "streams": 1,
            "model": {"name": "simulated/chance", "context_window": 1_000_000},
            "context": {"policy": f"last({history})"},
        }
    )
    return next(made.sessions())


async def rate(history: int) -> float:
    """Return the turns per second of the last 100 turns, when the window is full."""
    chosen = session(history)
    start = 0.0
    async for turn in play(chosen.task, chosen.open_model(), chosen.policy, chosen.window):
        if turn.index == TURNS - 101:
            start = time.perf_counter()
    return 100 / (time.perf_counter() - start)


async def main() -> None:
    """Print the table."""
    rates: dict[int, list[float]] = {history: [] for history in HISTORIES}
    for _ in range(REPEATS):
        for history in HISTORIES:
            rates[history].append(await rate(history))
    print(f"{'history':>8} {'turns/s':>8}")
    for history, measured in rates.items():
        print(f"{history:>8} {median(measured):>8.0f}")
    short, long = (median(rates[history]) for history in HISTORIES)
    print(f"a history of {HISTORIES[1]} turns plays at {long / short:.2f} of the speed")


if __name__ == "__main__":
    asyncio.run(main())
