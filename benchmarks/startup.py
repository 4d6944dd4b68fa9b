"""Measure the processor time to start the command line and to import the package, in new processes.

    python benchmarks/startup.py [PROGRAM ...]

Every PROGRAM is measured too, with `--help`, for comparison. Exits with 1 if either takes 0.3 s or more.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RUNS = 7
MOST_S = 0.3


def processor_time(command: Sequence[str]) -> float:
    """Return the least processor time, in seconds, of several runs of a command."""
    times = []
    for _ in range(RUNS):
        before = os.times()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        used = after.children_user + after.children_system
        times.append(used - before.children_user - before.children_system)
    return min(times)


def main(others: Sequence[str]) -> int:
    """Print the table; return 1 if this program is too slow."""
    ours = {
        "icl-loop --help": [str(Path(sys.executable).with_name("icl-loop")), "--help"],
        "import icl_loop": [sys.executable, "-c", "import icl_loop"],
    }
    peers = {f"{name} --help": [shutil.which(name) or name, "--help"] for name in others}
    print("| command | processor time, s |\n| --- | --- |")
    measured = {name: processor_time(command) for name, command in {**ours, **peers}.items()}
    for name, seconds in measured.items():
        print(f"| `{name}` | {seconds:.2f} |")
    return int(max(measured[name] for name in ours) >= MOST_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
