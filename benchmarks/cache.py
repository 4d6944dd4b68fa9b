"""What a prompt cache could serve under each context policy, and how much each shows for it.

Sessions of 400 turns with a window of 32,768 tokens, answered by `simulated/chance`. For the turns after
the window fills up, the table gives the share of prompt tokens that repeat the start of the
request that they continue, the mean tokens of past turns relative to `within`, and the number of turns shown.

    python benchmarks/cache.py [--marks]
"""

import asyncio
import sys
from dataclasses import dataclass
from statistics import fmean

from icl_loop import InputError, Session, open_dataset, parse, play
from icl_loop.core.tokens import token_counter

TURNS, WINDOW = 400, 32_768
ENCODINGS = ("grid", "article")
POLICIES = (
    "block",
    "within",
    "last(15)",
    "first",
    "only_correct | block",
    "stochastic(0.5) | block",
    "redrawn(0.1)",
    "redrawn(0.5)",
    "parallel(8, 0.1)",
    "parallel(8, 0.5) | block",
    "reservoir(None)",
    "reservoir(15)",
    "per_class(2)",
    "nearest(15)",
    "notes(20, 500)",
    "stateless",
)
MARKS = tuple(
    f"block({high}, {low})"
    for high in (1.0, 0.9)
    for low in (0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8)
)


@dataclass(frozen=True, slots=True)
class Served:
    """What came of a session once its window was full: shares, mean tokens and mean turns shown."""

    served: float
    whole: float
    tokens: float
    turns: float


def session(policy: str, encoding: str) -> Session:
    """Return the session that is played."""
    made = parse(
        {
            "name": "cache",
            "turns": TURNS,
            "streams": 1,
            "seed": 20_230_315,
            "task": {"dataset": _dataset(), "encoding": encoding},
            "model": {"name": "simulated/chance", "context_window": WINDOW},
            "context": {"policy": policy, "counter": _counter()},
        }
    )
    return next(made.sessions())


def _dataset() -> str:
    try:
        open_dataset("mnist:test")
    except InputError:
        return "digits"
    return "mnist:test"


def _counter() -> str:
    try:
        return token_counter("o200k_base").name
    except InputError:
        return "estimate:o200k_base"


async def measured(policy: str, encoding: str, full: int) -> Served:
    """Return what a policy shows and a cache could serve from turn `full` on."""
    chosen = session(policy, encoding)
    played = play(chosen.task, chosen.open_model(), chosen.policy, chosen.window)
    counted, prefix, window, shown = [], [], [], []
    async for turn in played:
        tokens = chosen.window.tokens - chosen.window.reserve
        room = tokens - chosen.window.left_after(chosen.task.system, turn.question)
        counted.append(turn.counted or 0)
        prefix.append(turn.prefix or 0)
        window.append((turn.counted or 0) - room)
        shown.append(sum(last - first + 1 for first, last in turn.kept))
    return Served(
        served=sum(prefix[full:]) / sum(counted[full:]),
        whole=sum(prefix) / sum(counted),
        tokens=fmean(window[full:]),
        turns=fmean(shown[full:]),
    )


async def full_at(encoding: str) -> int:
    """Return the first turn at which the window cannot hold all turns before."""
    chosen = session("within", encoding)
    async for turn in play(chosen.task, chosen.open_model(), chosen.policy, chosen.window):
        if turn.kept and turn.kept[0][0] > 0:
            return turn.index
    return TURNS - 1


async def main() -> None:
    """Print a table for each encoding."""
    policies = MARKS if "--marks" in sys.argv[1:] else POLICIES
    print(f"{_dataset()}, {_counter()}, {TURNS} turns, window {WINDOW}")
    for encoding in ENCODINGS:
        full = await full_at(encoding)
        sliding = await measured("within", encoding, full)
        print(f"\n{encoding}: the window is full at turn {full}")
        print(f"{'policy':>24} {'served':>8} {'in all':>8} {'window':>8} {'turns':>7}")
        for policy in policies:
            found = await measured(policy, encoding, full)
            print(
                f"{policy:>24} {found.served:>8.1%} {found.whole:>8.1%}"
                f" {found.tokens / sliding.tokens:>8.1%} {found.turns:>7.1f}"
            )


if __name__ == "__main__":
    asyncio.run(main())
