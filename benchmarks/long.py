"""Sessions of thousands of turns with faults: memory, open files and processor time per turn.

    python benchmarks/long.py [--turns 2000] [--sessions 4]

Each policy plays in a process of its own over HTTP, against `icl-loop serve`, which fails a tenth of all
requests. The images are random, and retries wait milliseconds instead of seconds. Processor time
is that of the playing process: it includes the client and its retries, but not the server.
"""

import argparse
import asyncio
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
from icl_loop.models import ChatModel
from icl_loop.models.limits import Budget, PromptBound, RateLimiter
from icl_loop.models.retrying import RequestPolicy, RetryingModel, RetryPolicy

POLICIES = ("block", "last(50)", "within")
FAULTS = "429=0.03,500=0.02,503=0.01,reset=0.02,garbage=0.01,empty=0.01"
MODEL = "simulated/chance"
EVERY = 40
"""Turns between two measurements."""
WARM_UP = 0.25
"""Share of the turns that is left out of the fit of memory against turns."""


def images(folder: Path, turns: int) -> str:
    """Write enough random images for `turns` as IDX files; return the name of the data set."""
    count = 10 * (turns // 10 + 100 + turns // 20)
    pixels = np.random.default_rng(5).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint64) % 10
    head = struct.pack(">BBBBI", 0, 0, 8, 3, count) + struct.pack(">II", 8, 8)
    (folder / "made-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    head = struct.pack(">BBBBI", 0, 0, 8, 1, count)
    (folder / "made-labels-idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())
    return f"idx:{folder / 'made'}"


@contextmanager
def served() -> Iterator[str]:
    """Run `icl-loop serve` in a process of its own; yield its address."""
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
class Measurement:
    """Resources used by the playing process after some turns."""

    turns: int
    rss_kib: float
    files: int
    processor_s: float


def measure(turns: int) -> Measurement:
    """Return the resources that this process uses now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    rss = pages * os.sysconf("SC_PAGE_SIZE") / 1024
    return Measurement(turns, rss, len(os.listdir("/proc/self/fd")), time.process_time())  # noqa: PTH208  only names are needed


def impatient(session: Session) -> ChatModel:
    """Return the model of a session, which retries within milliseconds."""
    policy = RequestPolicy(
        rate_limiter=RateLimiter(),
        budget=Budget(),
        retry=RetryPolicy(startup_allowance_s=600.0, first_wait_s=0.005, max_wait_s=0.02),
        prompt_bound=PromptBound(lambda _: 0),
        max_completion_tokens=100,
        cost=lambda _: 0.0,
    )
    return RetryingModel(session.open_model(), policy)


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
    measurements = [measure(0)]
    played = 0

    def note(_: Session, __: Turn) -> None:
        nonlocal played
        played += 1
        if played % EVERY == 0:
            measurements.append(measure(played))

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        run = Run(made, Path(name), on_turn=note, open_model=impatient)
        result = asyncio.run(run.play())
        written = sum(path.stat().st_size for path in result.paths)
        seconds = time.perf_counter() - start
        if not result.complete:
            sys.exit(str(result.stopped[0].reason))
    print(json.dumps(row(policy, measurements, sessions, turns, seconds, written)))


def row(
    policy: str,
    measurements: Sequence[Measurement],
    sessions: int,
    turns: int,
    seconds: float,
    written: int,
) -> dict[str, float | str]:
    """Return the figures of a run; turns are those of all sessions together."""
    warm = [each for each in measurements if each.turns >= WARM_UP * sessions * turns]
    slope, _ = np.polyfit([each.turns for each in warm], [each.rss_kib for each in warm], 1)
    return {
        "policy": policy,
        "seconds": seconds,
        "slope": 1000 * float(slope),
        "written": written / 1024 / (sessions * turns) * 1000,
        "files": f"{min(each.files for each in warm)}-{max(each.files for each in warm)}",
        "rss": measurements[-1].rss_kib / 1024,
        "early": processor_ms(measurements, sessions * turns // 10),
        "late": processor_ms(measurements, sessions * turns),
    }


def processor_ms(measurements: Sequence[Measurement], upto: int) -> float:
    """Return the processor time per turn over the twentieth of all turns that ends at `upto`."""
    first = upto - measurements[-1].turns // 20
    parts = [
        after.processor_s - before.processor_s
        for before, after in pairwise(measurements)
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
    print(f"{given.sessions} sessions x {given.turns} turns, a tenth of all requests fails")
    print(
        f"{'policy':<10}{'seconds':>9}{'RSS KiB/1,000':>15}{'text KiB/1,000':>16}{'open files':>12}"
        f"{'MiB':>6}{'ms early':>14}{'late':>7}{'ratio':>7}"
    )
    with tempfile.TemporaryDirectory() as name, served() as base_url:
        dataset = images(Path(name), given.turns)
        for policy in POLICIES:
            command = [sys.executable, __file__, "--one", policy, base_url, dataset]
            command += ["--turns", str(given.turns), "--sessions", str(given.sessions)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            r = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{r['policy']:<10}{r['seconds']:>9.0f}{r['slope']:>15.0f}{r['written']:>16.0f}"
                f"{r['files']:>12}{r['rss']:>6.0f}{r['early']:>14.2f}{r['late']:>7.2f}"
                f"{r['late'] / r['early']:>7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
