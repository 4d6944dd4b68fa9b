"""Turns per second of `replay --verify` over a folder of 32 sessions of 200 turns.

A model that takes almost no time plays four arms on eight streams. The policy is `block`, so every
request shows all turns before it.

    python benchmarks/verify.py [--jobs N]
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from icl_loop import Run, parse
from icl_loop.replay.verification import examine_all

STREAMS, TURNS, REPEATS = 8, 200, 3
KINDS = ("label", "correctness", "none", "flipped")


async def played(out: Path) -> list[Path]:
    """Play the experiment and return its transcripts."""
    made = parse(
        {
            "name": "verify",
            "turns": TURNS,
            "streams": STREAMS,
            "model": {"name": "simulated/chance"},
            "arms": [{"name": kind, "feedback": {"kind": kind}} for kind in KINDS],
        }
    )
    return list((await Run(made, out).play()).paths)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1)
    jobs = parser.parse_args().jobs
    with TemporaryDirectory() as out:
        paths = asyncio.run(played(Path(out)))
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            found = examine_all(paths, jobs=jobs)
            seconds.append(time.perf_counter() - start)
            if any(finding.difference for finding in found):
                sys.exit("a session does not replay")
    turns = STREAMS * TURNS * len(KINDS)
    print(f"{len(paths)} sessions, {turns} turns, processes: {jobs}")
    print(f"first run, with empty caches: {turns / seconds[0]:,.0f} turns/s")
    print(f"median of {REPEATS}: {median(seconds):.2f} s, {turns / median(seconds):,.0f} turns/s")


if __name__ == "__main__":
    main()
