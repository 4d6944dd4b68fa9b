"""Bytes per turn of a transcript of 1,000 turns, by context policy and quarter of the session.

The window has 32,768 tokens, the encoding is `grid`, and the model guesses.

    python benchmarks/transcript_size.py
"""

import asyncio
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from icl_loop import InputError, Run, open_dataset, parse

TURNS = 1_000
POLICIES = (
    "stateless",
    "last(50)",
    "within",
    "block",
    "first",
    "only_correct | block",
    "only_incorrect | block",
    "stochastic(0.5) | block",
    "redrawn(0.1)",
    "redrawn(0.5)",
    "parallel(8, 0.5) | block",
    "reservoir(50)",
    "reservoir(None)",
    "per_class(5)",
    "nearest(20)",
    "notes(20, 500)",
)


def _dataset() -> str:
    try:
        open_dataset("mnist:test")
    except InputError:
        return "digits"
    return "mnist:test"


async def sizes(policy: str, folder: Path) -> list[int]:
    """Return the length of every turn or note line."""
    made = parse(
        {
            "name": "size",
            "turns": TURNS,
            "streams": 1,
            "seed": 20_230_315,
            "task": {"dataset": _dataset()},
            "model": {"name": "simulated/chance"},
            "context": {"policy": policy},
        }
    )
    result = await Run(made, folder).play()
    lines = result.paths[0].read_bytes().splitlines(keepends=True)
    return [len(line) for line in lines if line.startswith((b'{"type":"turn"', b'{"type":"note"'))]


async def main() -> None:
    """Print the table."""
    print(f"{_dataset()}, {TURNS} turns")
    print(f"{'policy':>24} {'bytes/turn':>10} {'by quarter of the session':>40}")
    for policy in POLICIES:
        with TemporaryDirectory() as folder:
            lengths = await sizes(policy, Path(folder))
        edges = [round(quarter * len(lengths) / 4) for quarter in range(5)]
        quarters = [sum(lengths[a:b]) * 4 / TURNS for a, b in pairwise(edges)]
        shown = " ".join(f"{size:>9,.0f}" for size in quarters)
        print(f"{policy:>24} {sum(lengths) / TURNS:>10,.0f} {shown:>40}")


if __name__ == "__main__":
    asyncio.run(main())
