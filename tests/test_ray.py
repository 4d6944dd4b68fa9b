"""Tests of the Ray engine on a real local cluster of two workers.

Starting a cluster takes seconds, so one test runs all checks as subtests.
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
from endpoint import Endpoint, Response, completion, serving
from icl_loop.core.errors import BudgetSpent, StoppedShort
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment, Session
from icl_loop.models.limits import Budget
from icl_loop.runner.engines.ray import on_ray
from icl_loop.runner.engines.ray.cluster import cluster
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


def answered(asked: Mapping[str, Any], delay_s: float = 0.0) -> Response:
    """Return an answer that depends only on the request."""
    text = "".join(message["content"] for message in asked["messages"])
    digit = hashlib.sha256(text.encode()).digest()[0] % 10
    answer = completion(f"Answer: {digit}")
    return Response(body=answer.body, delay_s=delay_s)


def asking(endpoint: Endpoint, **changes: Any) -> Experiment:  # noqa: ANN401  as `experiment`
    """Return a small experiment that uses the model of the endpoint."""
    model = {"name": "tiny", "base_url": endpoint.base_url, "api_key_env": KEY_VARIABLE}
    return experiment(model=model, **changes)


def play(made: Experiment, out: Path, **settings: Any) -> RunResult:  # noqa: ANN401  as `Run`
    """Play an experiment on the cluster."""
    return asyncio.run(Run(made, out, **{"engine": on_ray(), **settings}).play())


def same_bytes(tmp_path: Path) -> None:
    """Transcripts equal those of the local engine, with donors and probes."""
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
    """Return the process ids of the workers started by this process."""
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
    """A run without workers ends after its wait, or at once when it is told to stop."""
    held = ray.util.placement_group([{"CPU": 2}])
    assert held.wait(30)
    try:
        with pytest.raises(StoppedShort, match=r"within 1 s.* 2 CPUs \(0 free\)"):
            play(experiment(), tmp_path, engine=on_ray(wait_s=1.0))
        result = asyncio.run(stopped_soon(Run(experiment(), tmp_path, engine=on_ray())))
        assert result.interrupted
        assert (result.paths, result.stopped) == ((), ())
    finally:
        ray.util.remove_placement_group(held)


async def stopped_soon(playing: Run) -> RunResult:
    """Play a run and tell it to stop after half a second."""
    asyncio.get_running_loop().call_later(0.5, playing.stop)
    return await playing.play()


def limits_kept(tmp_path: Path) -> None:
    """Rate limit and budget hold for all workers together, retries included."""
    arrived: list[float] = []

    def answer(asked: dict[str, Any]) -> Response:
        arrived.append(time.monotonic())
        return Response(500, b"{}") if len(arrived) == 5 else answered(asked)

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
    assert sorted(attempts)[-2] == 1  # the last is 2, unless the budget left no room for the retry
    assert max(attempts) <= 2


def interrupted(tmp_path: Path) -> None:
    """An interrupted run saves every answered turn, and the local engine can resume it."""
    with serving([lambda asked: answered(asked, 0.02)]) as endpoint:
        process = started(endpoint, tmp_path)
        while len(endpoint.requests) < 10 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1, stderr
        assert "Traceback" not in stderr
        assert "icl-loop run" in stderr
        saved = [read(path) for path in (tmp_path / "small").glob("*.jsonl")]
        assert sum(len(each.turns) for each in saved) == len(endpoint.requests)
        made = asking(endpoint, turns=40)
        asyncio.run(Run(made, tmp_path).play())
        assert len(endpoint.requests) == 80
        asyncio.run(Run(made, tmp_path / "whole").play())
    assert transcripts_of(tmp_path / "small") == transcripts_of(tmp_path / "whole/small")


def started(endpoint: Endpoint, folder: Path) -> "subprocess.Popen[str]":
    """Start the command that plays an experiment on this cluster."""
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
    """The API key is in no pickled argument, object store, log file or transcript."""
    with serving([answered]) as endpoint:
        made = asking(endpoint)
        pool = ModelPool(made, Budget(), 1)
        for each in made.sessions():
            sent = pickle.dumps((pool.factory(each), each, ()))
            assert CANARY.encode() not in sent
    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    assert any(folder.rglob("*.log"))
    for path in (*tmp_path.parent.rglob("*"), *folder.rglob("*")):
        if path.is_file():
            assert not contains(path, CANARY.encode()), path
    stores = list(object_stores())
    assert stores
    for store in stores:
        assert not contains(store, CANARY.encode())


def object_stores() -> Iterator[Path]:
    """Yield the shared memory files of the cluster's object store."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"raylet" in (process / "cmdline").read_bytes().split(b"\0")[0]:
                yield from (
                    path for path in (process / "fd").iterdir() if "plasma" in str(path.readlink())
                )
        except OSError:
            continue  # the process has ended, or belongs to another user


def contains(path: Path, wanted: bytes) -> bool:
    """Return whether a file contains these bytes, reading it in pieces."""
    before = b""
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            if wanted in before + piece:
                return True
            before = piece[-len(wanted) :]
    return False


CHECKS = (same_bytes, worker_killed, waited_for, limits_kept, interrupted, key_unseen)


@contextmanager
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a cluster of two processors in a temporary folder whose path is short enough for sockets."""
    folder = tempfile.mkdtemp(prefix="ray-")
    monkeypatch.setenv(KEY_VARIABLE, CANARY)
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    token = Path(folder, "token")  # else Ray writes one to the home folder
    token.write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    try:
        with cluster(num_cpus=2, object_store_memory=80_000_000):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(240)
def test_ray_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """Each check holds on the cluster."""
    with own_cluster(monkeypatch):
        for check in CHECKS:
            with subtests.test(check.__doc__):
                check(tmp_path / check.__name__)
