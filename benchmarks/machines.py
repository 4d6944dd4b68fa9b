"""A run on several machines: one joins late, one is killed whole, one stands still.

    python benchmarks/machines.py

The machines are Ray nodes with addresses of their own on loopback, which Linux has: a head without
processors, to which this process belongs, and two machines of one. Each has a folder of its own,
no data and no vocabularies; the experiment has its prompt set and its samples in files of this
process's folder. The machines' keys differ, so that the endpoint can tell who asks.
"""

import asyncio
import hashlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from builders import transcripts_of
from endpoint import Answer, Endpoint, completion, serving
from icl_loop import Run, parse
from icl_loop.experiment import Experiment
from icl_loop.runner.engines.ray import cluster, on_ray
from icl_loop.runner.engines.ray.cluster import ClusterResources

PORT = 6391
HEAD = f"127.0.0.2:{PORT}"
KEY = "MACHINE_KEY"
HEAD_S = 15.0
"""Seconds in which a head has started."""
JOIN_S = 60.0
"""Most seconds that a machine takes to join it."""
SESSIONS = 8
DATA = "csv:rows.csv?label=label&text=text"
ELSEWHERE = ("ICL_LOOP_DATA", "TIKTOKEN_CACHE_DIR", KEY)
"""Variables that the machines do not have."""


@dataclass
class Machine:
    """A Ray node: a process that started its raylet, which started its workers."""

    name: str
    folder: Path
    options: tuple[str, ...]
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it; it joins some seconds later."""
        self.folder.mkdir(exist_ok=True)
        own = {key: text for key, text in os.environ.items() if key not in ELSEWHERE}
        self._process = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", "--block", *self.options],
            cwd=self.folder,
            env={**own, KEY: self.name},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def join(self) -> None:
        """Start it, and wait until it has joined."""
        before = ClusterResources.now().cpus
        self.start()
        until = time.monotonic() + JOIN_S
        while ClusterResources.now().cpus == before:
            if time.monotonic() > until:
                sys.exit(f"the machine {self.name} did not join in {JOIN_S:.0f} s")
            time.sleep(0.5)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes at once."""
        for pid in below(self._process.pid) if self._process is not None else ():
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(pid, number)

    def end(self) -> None:
        """End all its processes."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait()
            self._process = None


def below(process: int) -> Iterator[int]:
    """Yield a process and all that it started, directly or not."""
    command = ["/bin/ps", "-e", "-o", "pid=,ppid="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pairs = (line.split() for line in listed.splitlines())
    parents = {int(pid): int(parent) for pid, parent in pairs}
    for pid in parents:
        above: int | None = pid
        while above is not None:
            if above == process:
                yield pid
            above = parents.get(above)


@dataclass
class Clock:
    """Notes when turns came, and lets something happen once at one of them."""

    at: int
    happens: Callable[[], None]
    turns: int = 0
    silence_s: float = 0.0
    _last: float | None = None

    def __call__(self, *_: object) -> None:
        """Take note of a turn."""
        now = time.perf_counter()
        self.silence_s = max(self.silence_s, now - (self._last or now))
        self._last = now
        self.turns += 1
        if self.turns == self.at:
            self.happens()


@dataclass
class Trial:
    """One row of the table."""

    what: str
    happens: Callable[[], None] = lambda: None
    turns: int = 60
    delay_s: float = 0.1
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(10 * SESSIONS, self.happens)

    def row(self, out: Path) -> str:
        """Play on the cluster, then here, and say what it took."""
        silent = redirect_stderr(StringIO())  # the endpoint speaks of connections that are lost
        with silent, serving([self._answer]) as endpoint:
            made = experiment(endpoint, self.turns)
            run = Run(made, out / "ray", engine=on_ray(), on_turn=self.clock)
            assert asyncio.run(run.play()).complete  # noqa: S101  else there is no row
            askers = Counter(str(key).removeprefix("Bearer ") for key in endpoint.keys)
            self.delay_s, asked = 0.0, len(endpoint.requests)
            asyncio.run(Run(made, out / "local").play())
            needed = len(endpoint.requests) - asked
        same = transcripts_of(out / "ray/machines") == transcripts_of(out / "local/machines")
        shares = " ".join(f"{name} {count}" for name, count in sorted(askers.items()))
        return (
            f"{self.what:>32} {asked:>8} {needed:>6} {shares:>16} {self.clock.silence_s:>7.1f}"
            f" {'yes' if same else 'NO':>5}"
        )

    def _answer(self, asked: Mapping[str, Any]) -> Answer:
        """Answer by the request alone."""
        said = "".join(message["content"] for message in asked["messages"])
        label = "ab"[hashlib.sha256(said.encode()).digest()[0] % 2]
        return Answer(body=completion(f"Answer: {label}").body, delay_s=self.delay_s)


def experiment(endpoint: Endpoint, turns: int) -> Experiment:
    """Return an experiment that reads its prompt set and its samples from files of this folder."""
    return parse(
        {
            "name": "machines",
            "turns": turns,
            "streams": SESSIONS,
            "task": {"dataset": DATA, "encoding": "text", "prompts": "mine.toml"},
            "model": {"name": "tiny", "base_url": endpoint.base_url, "api_key_env": KEY},
            "context": {"policy": "notes(6, 60)"},
            "probes": {"at": [4], "count": 2},
        }
    )


def write_files() -> None:
    """Write prompt set and samples into this process's folder."""
    Path("mine.toml").write_text('extend = "plain"')
    rows = [f"{'ab'[row % 2]},word {row} of all" for row in range(2_000)]
    Path("rows.csv").write_text("\n".join(["label,text", *rows, ""]))


@contextmanager
def machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Start a head, join it, and let two machines join; end them all."""
    (folder / "token").write_text(secrets.token_hex(32))
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token"))
    os.environ.update(RAY_USAGE_STATS_ENABLED="0")
    size = "--object-store-memory=80000000"
    address = "--node-ip-address=127.0.0."
    options = ("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", size)
    head = Machine("head", folder / "head", (*options, address + "2", f"--temp-dir={folder / 't'}"))
    one, other = (
        Machine(name, folder / name, (f"--address={HEAD}", "--num-cpus=1", size, address + last))
        for name, last in (("A", "3"), ("B", "4"))
    )
    try:
        head.start()
        time.sleep(HEAD_S)
        with cluster(HEAD):
            one.join()
            other.join()
            yield one, other
    finally:
        for each in (one, other, head):
            each.end()


def trials(one: Machine, other: Machine) -> Iterator[Trial]:
    """Yield the trials in order; each leaves the cluster as the next one needs it."""
    yield Trial("nothing")
    yield Trial("B is killed whole (kill -9)", other.end)
    yield Trial("B joins late", other.start, turns=300, delay_s=0.2)
    yield Trial("A stands still (kill -STOP)", lambda: one.send(signal.SIGSTOP))


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/icl-ray")  # noqa: S108  short for sockets
    folder.mkdir()
    os.environ[KEY] = "driver"
    print(f"{'what happens':>32} requests needed  by machine      silence s  same")
    try:
        with TemporaryDirectory() as own, machines(folder) as (one, other):
            os.chdir(own)
            write_files()
            for number, trial in enumerate(trials(one, other)):
                print(trial.row(Path(own, str(number))), flush=True)
            os.chdir("/")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
