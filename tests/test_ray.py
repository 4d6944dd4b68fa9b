"""The laws of the engine that plays on a Ray cluster: a real one, of two workers, on loopback.

A cluster takes seconds to start, so all laws are held to by one test, each as a subtest.
"""

import asyncio
import hashlib
import os
import pickle
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builders import experiment, transcripts_of
from endpoint import Answer, Endpoint, completion, serving
from icl_loop.core.errors import BudgetSpent, StoppedShort
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment, Session
from icl_loop.models.limits import Budget
from icl_loop.runner.engines import Saved
from icl_loop.runner.engines.ray import cluster, on_ray
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.run import Run, RunResult
from icl_loop.transcripts import read

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")

CANARY = "canary-key-that-nobody-may-see"
KEY_VARIABLE = "CANARY_KEY"
PER_MINUTE = 120
ARMS = [
    {"name": "feedback"},
    {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
    {"name": "permuted", "task": {"pixels": "permuted", "labels": "deranged"}},
]


def answered(asked: Mapping[str, Any], delay_s: float = 0.0) -> Answer:
    """Return an answer that is a function of the request, right or wrong by chance."""
    said = "".join(message["content"] for message in asked["messages"])
    digit = hashlib.sha256(said.encode()).digest()[0] % 10
    answer = completion(f"Answer: {digit}")
    return Answer(body=answer.body, delay_s=delay_s)


def asking(endpoint: Endpoint, **changes: Any) -> Experiment:  # noqa: ANN401  as `experiment`
    """Return a small experiment whose model is behind the endpoint."""
    model = {"name": "tiny", "base_url": endpoint.base_url, "api_key_env": KEY_VARIABLE}
    return experiment(model=model, **changes)


def play(made: Experiment, out: Path, **settings: Any) -> RunResult:  # noqa: ANN401  as `Run`
    """Play an experiment on the cluster that was joined."""
    return asyncio.run(Run(made, out, **{"engine": on_ray(), **settings}).play())


def same_bytes(tmp_path: Path) -> None:
    """With donors and probes, transcripts are those of the local engine."""
    made = experiment(arms=ARMS, probes={"at": [0, 5], "count": 2})
    seen: Counter[str] = Counter()
    result = play(made, tmp_path / "ray", on_turn=lambda each, _: seen.update([each.file_name]))
    assert result.complete
    assert set(seen.values()) == {12}
    asyncio.run(Run(made, tmp_path / "local").play())
    assert transcripts_of(tmp_path / "ray/small") == transcripts_of(tmp_path / "local/small")


def worker_killed(tmp_path: Path) -> None:
    """A worker killed by `kill -9` costs each of its sessions at most the request in flight."""
    killed: list[int] = []

    def kill_soon(_: Session, turn: Turn) -> None:
        if turn.index == 7 and not killed:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    with serving([lambda asked: answered(asked, 0.02)]) as endpoint:
        probes, context = {"at": [4], "count": 2}, {"policy": "notes(6, 60)"}
        made = asking(endpoint, turns=20, streams=6, probes=probes, context=context)
        assert play(made, tmp_path / "ray", on_turn=kill_soon).complete
        assert killed
        made_in_all = len(endpoint.requests)
        asked = Counter(headers["x-client-request-id"] for headers in endpoint.headers)
        asyncio.run(Run(made, tmp_path / "local").play())
        needed = len(endpoint.requests) - made_in_all
        assert set(endpoint.keys) == {f"Bearer {CANARY}"}
    assert needed == 6 * (20 + 2 + 3)
    assert needed <= made_in_all <= needed + 6
    assert max(asked.values()) <= 2
    assert transcripts_of(tmp_path / "ray/small") == transcripts_of(tmp_path / "local/small")


def workers() -> list[int]:
    """Return the processes below this one that play sessions."""
    command = ["/bin/ps", "-e", "-o", "pid=,ppid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parents, names = {}, {}
    for line in listed.splitlines():
        pid, parent, name = line.split(maxsplit=2)
        parents[int(pid)], names[int(pid)] = int(parent), name
    return [
        pid
        for pid, name in names.items()
        if name.startswith("ray::Worker") and os.getpid() in _above(pid, parents)
    ]


def _above(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid


def waited_for(tmp_path: Path) -> None:
    """A run that no worker comes for ends after its wait, or at once when it is told to stop."""
    held = ray.util.placement_group([{"CPU": 2}])
    assert held.wait(30)
    try:
        with pytest.raises(
            StoppedShort, match="started within 1 s; the Ray cluster has 2 CPUs on 1 machine"
        ):
            play(experiment(), tmp_path, engine=on_ray(wait_s=1.0))
        result = asyncio.run(stopped_soon(Run(experiment(), tmp_path, engine=on_ray())))
        assert result.interrupted
        assert (result.paths, result.stopped) == ((), ())
    finally:
        ray.util.remove_placement_group(held)


async def stopped_soon(playing: Run) -> RunResult:
    """Play a run, and tell it to stop."""
    asyncio.get_running_loop().call_later(0.5, playing.stop)
    return await playing.play()


def limits_kept(tmp_path: Path) -> None:
    """Requests a minute and a budget hold for all workers together, also where one is asked again."""
    arrived: list[float] = []

    def answer(asked: dict[str, Any]) -> Answer:
        arrived.append(time.monotonic())
        return Answer(500, b"{}") if len(arrived) == 5 else answered(asked)

    with serving([answer]) as endpoint:
        limits, context = {"requests_per_minute": PER_MINUTE}, {"policy": "stateless"}
        made = asking(endpoint, turns=60, streams=6, limits=limits, context=context)
        playing = Run(made, tmp_path, engine=on_ray(), max_tokens=14_900)
        result = asyncio.run(playing.play())
    assert {type(stop.reason) for stop in result.stopped} == {BudgetSpent}
    spent = playing.budget.spent.prompt + playing.budget.spent.completion
    assert spent == 107 * (len(arrived) - 1) <= 14_900
    assert PER_MINUTE + 1 < len(arrived) < 360
    beyond = len(arrived) - PER_MINUTE - 1
    assert arrived[-1] - arrived[0] > beyond * 60 / PER_MINUTE - 0.5
    assert playing.budget.retries.total() == 1
    attempts = [turn.reply.attempts for path in result.paths for turn in read(path).turns]
    assert sorted(attempts)[-2] == 1  # and the last is 2, unless no money was left to ask again
    assert max(attempts) <= 2


def interrupted(tmp_path: Path) -> None:
    """Interrupted, a run saves what was answered; the local engine goes on with it as with its own."""
    with serving([lambda asked: answered(asked, 0.02)]) as endpoint:
        process = started(endpoint, tmp_path)
        while len(endpoint.requests) < 10 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1, said
        assert "Traceback" not in said
        assert "Go on with: icl-loop run" in said
        saved = [read(path) for path in (tmp_path / "small").glob("*.jsonl")]
        assert sum(len(each.turns) for each in saved) == len(endpoint.requests)
        made = asking(endpoint, turns=40)
        asyncio.run(Run(made, tmp_path).play())
        assert len(endpoint.requests) == 80
        asyncio.run(Run(made, tmp_path / "whole").play())
    assert transcripts_of(tmp_path / "small") == transcripts_of(tmp_path / "whole/small")


def started(endpoint: Endpoint, folder: Path) -> "subprocess.Popen[str]":
    """Start the command that plays an experiment on the cluster of this test."""
    folder.mkdir()
    file = folder / "small.toml"
    file.write_text(
        f'name = "small"\nturns = 40\nstreams = 2\nseed = 7\n[model]\nname = "tiny"\n'
        f'base_url = "{endpoint.base_url}"\napi_key_env = "{KEY_VARIABLE}"\n'
    )
    code = "from icl_loop.cli import main; main()"
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", code, "run", str(file), "--out", str(folder)]
    return subprocess.Popen(
        [*command, "--engine", "ray", "--ray-address", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def key_unseen(tmp_path: Path) -> None:
    """The key that all this was asked with is in no argument, object, log file or transcript."""
    with serving([answered]) as endpoint:
        made = asking(endpoint)
        pool = ModelPool(made, Budget(), 1)
        for each in made.sessions():
            sent = pickle.dumps((pool.factory(each), each, Saved()))
            assert CANARY.encode() not in sent
    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    assert any(folder.rglob("*.log"))
    for path in (*tmp_path.parent.rglob("*"), *folder.rglob("*")):
        if path.is_file():
            assert not holds(path, CANARY.encode()), path
    stores = list(object_stores())
    assert stores
    for store in stores:
        assert not holds(store, CANARY.encode())


def object_stores() -> Iterator[Path]:
    """Return the memory in which the cluster keeps objects, as a file of the process that does."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"raylet" in (process / "cmdline").read_bytes().split(b"\0")[0]:
                yield from (
                    path for path in (process / "fd").iterdir() if "plasma" in str(path.readlink())
                )
        except OSError:
            continue  # it has ended, or is not ours


def holds(path: Path, wanted: bytes) -> bool:
    """Return whether a large file holds these bytes."""
    before = b""
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            if wanted in before + piece:
                return True
            before = piece[-len(wanted) :]
    return False


LAWS = (same_bytes, worker_killed, waited_for, limits_kept, interrupted, key_unseen)


@contextmanager
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a cluster of two workers in a folder of its own, whose path is short for sockets."""
    folder = tempfile.mkdtemp(prefix="ray-")
    monkeypatch.setenv(KEY_VARIABLE, CANARY)
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    token = Path(folder, "token")  # else Ray leaves one in the home of whoever runs this
    token.write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    try:
        with cluster(num_cpus=2, object_store_memory=80_000_000):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(240)
def test_a_cluster_keeps_the_laws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """Whatever holds for the local engine holds for a cluster, as each law says."""
    with own_cluster(monkeypatch):
        for law in LAWS:
            with subtests.test(law.__doc__):
                law(tmp_path / law.__name__)
