"""Accuracy of the nearest-neighbour reference with the label revealed, on real MNIST.

20 streams of 200 turns on mnist:test, all past turns shown. Needs MNIST: downloaded, or found
below the folder that ICL_LOOP_DATA names.

    python benchmarks/reference.py
"""

import asyncio
import tempfile
import time
from pathlib import Path

from icl_loop import Run, frame, parse, summarize

EXPERIMENT = {
    "name": "reference",
    "turns": 200,
    "streams": 20,
    "seed": 20230315,
    "task": {"dataset": "mnist:test", "encoding": "grid"},
    "model": {"name": "reference/nearest", "context_window": 131_072},
    "context": {"policy": "all"},
    "feedback": {"kind": "label"},
}


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = asyncio.run(Run(parse(EXPERIMENT), Path(folder)).play())
        elapsed = time.perf_counter() - start
        (summary,) = summarize(frame(result.paths))
    print(f"{summary.turns} turns in {elapsed:.0f} s; accuracy in % with 95 % t intervals")
    for block in summary.blocks:
        low, high = block.accuracy.interval or (0.0, 0.0)
        mean = block.accuracy.mean or 0.0
        print(
            f"turns {block.first:>3}-{block.last:<3} {100 * mean:5.1f}"
            f"  [{100 * low:.1f}, {100 * high:.1f}]"
        )


if __name__ == "__main__":
    main()
