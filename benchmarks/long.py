"""Sessions of thousands of turns under faults: memory, open files and our own time, turn by turn.

    python benchmarks/long.py [--turns 2000] [--sessions 4]

Each policy plays in a process of its own against `icl-loop serve` in another, over HTTP, with faults
at a tenth of all requests. The pictures are made up, so that there are enough of them. Retries wait
milliseconds here and not seconds, since waiting is not what is measured. Our own time is processor
time of the playing process, the client and its retries included, the server not.
"""

import argparse
import asyncio
import gc
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from icl_loop import Run, Session, Turn, parse
from icl_loop.core.records import Turn as Record
from icl_loop.models import ChatModel
from icl_loop.models.limits import Budget, PromptBound, RateLimiter
from icl_loop.models.retrying import RequestPolicy, RetryingModel, RetryPolicy

POLICIES = ("block", "last(50)", "within")
FAULTS = "429=0.03,500=0.02,503=0.01,reset=0.02,garbage=0.01,empty=0.01"
MODEL = "simulated/chance"
EVERY = 40
"""Turns from one sample of memory and files to the next."""
WARM = 0.25
"""Part of the turns after which memory should be flat."""


def pictures(folder: Path, turns: int) -> str:
    """Write pictures enough for `turns` as IDX files; return the name of the data set."""
    count = 10 * (turns // 10 + 100 + turns // 20)
    dice = np.random.default_rng(5)
    images = dice.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint64) % 10
    head = struct.pack(">BBBBI", 0, 0, 8, 3, count) + struct.pack(">II", 8, 8)
    (folder / "made-images-idx3-ubyte").write_bytes(head + images.tobytes())
    head = struct.pack(">BBBBI", 0, 0, 8, 1, count)
    (folder / "made-labels-idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())
    return f"idx:{folder / 'made'}"


@contextmanager
def served() -> Iterator[str]:
    """Serve a model of ours in a process of its own, as people do; give its address."""
    program = "from icl_loop.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", MODEL, "--port", "0", "--fail", FAULTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline() if process.stdout else ""
        found = re.search(r"http://\S+?(?=;)", said)
        try:
            yield found[0] if found else sys.exit(f"not served: {said}")
        finally:
            process.kill()


@dataclass(frozen=True)
class Sample:
    """What the playing process took when so many turns were played."""

    turns: int
    rss_kib: float
    files: int
    own_s: float


def sample(turns: int) -> Sample:
    """Return what this process takes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    rss = pages * os.sysconf("SC_PAGE_SIZE") / 1024
    return Sample(turns, rss, len(os.listdir("/proc/self/fd")), time.process_time())  # noqa: PTH208  names alone


def impatient(session: Session) -> ChatModel:
    """Return the model of a session, which asks again within milliseconds."""
    terms = RequestPolicy(
        rate_limiter=RateLimiter(),
        budget=Budget(),
        retry=RetryPolicy(startup_allowance_s=600.0, first_wait_s=0.005, max_wait_s=0.02),
        prompt_bound=PromptBound(lambda _: 0),
        max_completion_tokens=100,
        cost=lambda _: 0.0,
    )
    return RetryingModel(session.open_model(), terms)


def play_one(policy: str, base_url: str, dataset: str, sessions: int, turns: int) -> None:
    """Play in this process; print the row of the table as JSON."""
    made = parse(
        {
            "name": "long",
            "turns": turns,
            "streams": sessions,
            "task": {"dataset": dataset, "encoding": "grid", "size": 8},
            "model": {"name": MODEL, "base_url": base_url, "context_window": 8192},
            "context": {"policy": policy},
        }
    )
    samples = [sample(0)]
    played = 0

    def note(_: Session, __: Turn) -> None:
        nonlocal played
        played += 1
        if played % EVERY == 0:
            samples.append(sample(played))

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        run = Run(made, Path(name), on_turn=note, open_model=impatient)
        result = asyncio.run(run.play())
        written = sum(path.stat().st_size for path in result.paths)
        seconds = time.perf_counter() - start
        if not result.complete:
            sys.exit(str(result.stopped[0].reason))
    del result, run
    gc.collect()
    left = sum(isinstance(each, Record) for each in gc.get_objects())
    print(json.dumps(row(policy, samples, sessions, turns, seconds, written) | {"left": left}))


def row(
    policy: str,
    samples: Sequence[Sample],
    sessions: int,
    turns: int,
    seconds: float,
    written: int,
) -> dict[str, float | str]:
    """Return the figures of a run; the turns of all sessions are counted together."""
    warm = [each for each in samples if each.turns >= WARM * sessions * turns]
    slope, _ = np.polyfit([each.turns for each in warm], [each.rss_kib for each in warm], 1)
    return {
        "policy": policy,
        "seconds": seconds,
        "slope": 1000 * float(slope),
        "written": written / 1024 / (sessions * turns) * 1000,
        "files": f"{min(each.files for each in warm)}-{max(each.files for each in warm)}",
        "rss": samples[-1].rss_kib / 1024,
        "early": own_ms(samples, sessions * turns // 10),
        "late": own_ms(samples, sessions * turns),
    }


def own_ms(samples: Sequence[Sample], upto: int) -> float:
    """Return our own milliseconds a turn over the twentieth of all turns that ends at `upto`."""
    first = upto - samples[-1].turns // 20
    parts = [
        after.own_s - before.own_s
        for before, after in pairwise(samples)
        if first <= before.turns and after.turns <= upto
    ]
    return 1e3 * sum(parts) / (len(parts) * EVERY)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=2_000)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        policy, base_url, dataset = given.one
        play_one(policy, base_url, dataset, given.sessions, given.turns)
        return
    print(f"{given.sessions} sessions x {given.turns} turns, faults at a tenth of all requests")
    print(
        f"{'policy':<10}{'seconds':>9}{'RSS KiB/1,000':>15}{'text KiB/1,000':>16}{'open files':>12}"
        f"{'MiB':>6}{'own ms early':>14}{'late':>7}{'ratio':>7}{'turns left':>12}"
    )
    with tempfile.TemporaryDirectory() as name, served() as base_url:
        dataset = pictures(Path(name), given.turns)
        for policy in POLICIES:
            command = [sys.executable, __file__, "--one", policy, base_url, dataset]
            command += ["--turns", str(given.turns), "--sessions", str(given.sessions)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            r = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{r['policy']:<10}{r['seconds']:>9.0f}{r['slope']:>15.0f}{r['written']:>16.0f}"
                f"{r['files']:>12}{r['rss']:>6.0f}{r['early']:>14.2f}{r['late']:>7.2f}"
                f"{r['late'] / r['early']:>7.2f}{r['left']:>12}",
                flush=True,
            )


if __name__ == "__main__":
    main()
