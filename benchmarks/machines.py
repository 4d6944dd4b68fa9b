"""A run on several machines, of which one joins late, one is killed and one hangs.

    python benchmarks/machines.py

The machines are Ray nodes with separate loopback addresses (Linux only): a head without processors,
to which this process belongs, and two machines with one processor each. Each has its own folder
without data sets or vocabularies; prompt set and samples are files in the folder of this process.
The machines use different API keys, so that the endpoint can tell them apart.
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
from endpoint import Endpoint, Response, completion, serving
from icl_loop import Run, parse
from icl_loop.experiment import Experiment
from icl_loop.runner.engines.ray import on_ray
from icl_loop.runner.engines.ray.cluster import ClusterResources, cluster

PORT = 6391
HEAD = f"127.0.0.2:{PORT}"
KEY = "MACHINE_KEY"
HEAD_S = 15.0
"""Seconds to wait for the head to start."""
JOIN_S = 60.0
"""Most seconds to wait for a machine to join."""
SESSIONS = 8
DATA = "csv:rows.csv?label=label&text=text"
NOT_INHERITED = ("ICL_LOOP_DATA", "TIKTOKEN_CACHE_DIR", KEY)
"""Environment variables that the machines must not inherit."""


@dataclass
class Machine:
    """A Ray node, started as a process group."""

    name: str
    folder: Path
    options: tuple[str, ...]
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start the node; it joins some seconds later."""
        self.folder.mkdir(exist_ok=True)
        own = {key: text for key, text in os.environ.items() if key not in NOT_INHERITED}
        self._process = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", "--block", *self.options],
            cwd=self.folder,
            env={**own, KEY: self.name},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def join(self) -> None:
        """Start the node and wait until it has joined."""
        before = ClusterResources.now().cpus
        self.start()
        until = time.monotonic() + JOIN_S
        while ClusterResources.now().cpus == before:
            if time.monotonic() > until:
                sys.exit(f"machine {self.name} did not join within {JOIN_S:.0f} s")
            time.sleep(0.5)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the node."""
        for pid in descendants(self._process.pid) if self._process is not None else ():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, number)

    def end(self) -> None:
        """Kill all processes of the node."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait()
            self._process = None


def descendants(process: int) -> Iterator[int]:
    """Yield a process and its descendants."""
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
class TurnCounter:
    """Counts turns, measures the longest silence, and causes an event after a number of turns."""

    at: int
    event: Callable[[], None]
    turns: int = 0
    silence_s: float = 0.0
    _last: float | None = None

    def __call__(self, *_: object) -> None:
        """Count a turn."""
        now = time.perf_counter()
        self.silence_s = max(self.silence_s, now - (self._last or now))
        self._last = now
        self.turns += 1
        if self.turns == self.at:
            self.event()


@dataclass
class Trial:
    """A run with an event, and its row of the table."""

    name: str
    event: Callable[[], None] = lambda: None
    turns: int = 60
    delay_s: float = 0.1
    counter: TurnCounter = field(init=False)

    def __post_init__(self) -> None:
        self.counter = TurnCounter(10 * SESSIONS, self.event)

    def row(self, out: Path) -> str:
        """Play on the cluster, then locally; return the row."""
        silent = redirect_stderr(StringIO())  # hide the endpoint's messages about lost connections
        with silent, serving([self._answer]) as endpoint:
            made = experiment(endpoint, self.turns)
            run = Run(made, out / "ray", engine=on_ray(), on_turn=self.counter)
            assert asyncio.run(run.play()).complete  # noqa: S101  only complete runs are reported
            requests_by_machine = Counter(str(key).removeprefix("Bearer ") for key in endpoint.keys)
            self.delay_s, asked = 0.0, len(endpoint.requests)
            asyncio.run(Run(made, out / "local").play())
            needed = len(endpoint.requests) - asked
        same = transcripts_of(out / "ray/machines") == transcripts_of(out / "local/machines")
        shares = " ".join(f"{name} {count}" for name, count in sorted(requests_by_machine.items()))
        return (
            f"{self.name:>32} {asked:>8} {needed:>6} {shares:>16} {self.counter.silence_s:>7.1f}"
            f" {'yes' if same else 'NO':>5}"
        )

    def _answer(self, asked: Mapping[str, Any]) -> Response:
        """Return an answer that depends only on the request."""
        said = "".join(message["content"] for message in asked["messages"])
        label = "ab"[hashlib.sha256(said.encode()).digest()[0] % 2]
        return Response(body=completion(f"Answer: {label}").body, delay_s=self.delay_s)


def experiment(endpoint: Endpoint, turns: int) -> Experiment:
    """Return an experiment that reads its prompt set and samples from files in this folder."""
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
    """Write the prompt set and the samples to the current folder."""
    Path("mine.toml").write_text('extend = "plain"')
    rows = [f"{'ab'[row % 2]},word {row} of all" for row in range(2_000)]
    Path("rows.csv").write_text("\n".join(["label,text", *rows, ""]))


@contextmanager
def machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Start a head and two machines, and join the cluster; kill them at the end."""
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
    """Yield the trials in order; each leaves the cluster in the state that the next one needs."""
    yield Trial("nothing")
    yield Trial("B is killed (kill -9)", other.end)
    yield Trial("B joins late", other.start, turns=300, delay_s=0.2)
    yield Trial("A hangs (kill -STOP)", lambda: one.send(signal.SIGSTOP))


def main() -> None:
    """Print the table of results."""
    logging.disable(logging.WARNING)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/icl-ray")  # noqa: S108  sockets need a short path
    folder.mkdir()
    os.environ[KEY] = "driver"
    print(f"{'event':>32} requests needed  by machine      silence s  same")
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
