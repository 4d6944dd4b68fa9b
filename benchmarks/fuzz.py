"""Mutated inputs of every kind: how many are refused, how long the slowest takes, and peak memory.

    python benchmarks/fuzz.py [--each 1500] [--seed 1] [--kind names]

Each kind is tried in its own process; its memory before the first mutant is subtracted. Any
exception other than `IclLoopError`, and any input that hangs, is a failure.
"""

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import hostile_headers
import hostile_names
import hostile_numbers
from fuzzing import Kind, files, mutated, outcome, wire

HUNG_S = 20
"""Seconds after which an input counts as hanging."""


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _hung(*_: object) -> None:
    raise TimeoutError(f"no answer within {HUNG_S} s")


def tried(kind: Kind, each: int, seed: int, folder: Path) -> dict[str, object]:
    """Try mutants of a kind, and return the row of the table with the failures."""
    dice = random.Random(f"{kind.name} {seed}")  # noqa: S311  mutants, no secrets
    path, broken = folder / f"mutant{kind.suffix}", []
    for data in kind.seeds:  # imports and caches do not count
        path.write_bytes(data)
        outcome(kind, path)
    refused, slowest, before = 0, 0.0, _peak()
    signal.signal(signal.SIGALRM, _hung)
    for number in range(each):
        data = mutated(kind, dice)
        path.write_bytes(data)
        signal.alarm(HUNG_S)
        start = time.perf_counter()
        try:
            refused += outcome(kind, path) != ""
        except Exception:  # noqa: BLE001  every other exception is a failure
            broken.append(f"mutant {number}: {traceback.format_exc(limit=-2)}")
        slowest = max(slowest, time.perf_counter() - start)
        signal.alarm(0)
    return {
        "kind": kind.name,
        "tried": each,
        "refused": refused,
        "accepted": each - refused - len(broken),
        "slowest": 1e3 * slowest,
        "peak": _peak() - before,
        "broken": broken,
    }


def kinds(stack: ExitStack, folder: Path) -> list[Kind]:
    """Return all kinds."""
    own = (*hostile_names.kinds(folder / "names"), *hostile_numbers.kinds(folder / "numbers"))
    own += tuple(hostile_headers.kinds(folder / "headers"))
    return [*files(folder), *own, stack.enter_context(wire())]


def try_one(number: int, each: int, seed: int) -> None:
    """Try one kind in this process, and print its row as JSON."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        kind = kinds(stack, Path(name))[number]
        print(json.dumps(tried(kind, each, seed, Path(name))))


def main() -> None:
    """Print the table, and exit with 1 if there were failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", default="", help="try only kinds whose names begin like this")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        try_one(given.one, given.each, given.seed)
        return
    print(
        f"{'kind':<30}{'tried':>7}{'refused':>9}{'accepted':>10}{'slowest ms':>12}{'peak MiB':>10}"
    )
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        names = [kind.name for kind in kinds(stack, Path(name))]
    broken: list[str] = []
    for number in (at for at, name in enumerate(names) if name.startswith(given.kind)):
        command = [sys.executable, __file__, "--one", str(number)]
        command += ["--each", str(given.each), "--seed", str(given.seed)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{row['kind']:<30}{row['tried']:>7}{row['refused']:>9}{row['accepted']:>10}"
            f"{row['slowest']:>12.0f}{row['peak']:>10.1f}",
            flush=True,
        )
        broken += [f"{row['kind']}, {each}" for each in row["broken"]]
    print("\n".join(broken) or "no failures")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
