"""Whole runs against our own server, over real HTTP."""

import asyncio
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import endpoint
from builders import experiment, transcripts_of
from command_line import Command
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, Reply
from icl_loop.core.tokens import ESTIMATORS, TokenCounter
from icl_loop.models import open_model
from icl_loop.models.simulated.heuristics import Chance
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run, RunResult
from icl_loop.server import RequestLog, ServerSettings, build_app, serving
from icl_loop.transcripts import read

FAULTS = {"429": 0.1, "500": 0.05, "reset": 0.05, "garbage": 0.03, "empty": 0.02}
ARMS = [
    {"name": "label", "feedback": {"kind": "label"}},
    {"name": "last", "context": {"policy": "last(3)"}},
]


@contextmanager
def served(**settings: Any) -> Iterator[tuple[str, RequestLog]]:  # noqa: ANN401  server settings
    """Serve `reference/nearest`; give the base URL and the request log."""
    log = RequestLog()
    models = {"reference/nearest": open_model("reference/nearest", seed=7)}
    with serving(build_app(models, settings=ServerSettings(**settings), log=log)) as base_url:
        yield base_url, log


async def play(base_url: str, out: Path, **changes: Any) -> RunResult:  # noqa: ANN401  settings
    """Run a small experiment against the endpoint at `base_url`."""
    model = {"name": "reference/nearest", "base_url": base_url} | changes.pop("model", {})
    return await Run(experiment(model=model, **{"arms": ARMS, **changes}), out).play()


async def test_faults_change_no_answer(tmp_path: Path) -> None:
    """With a quarter of all requests failing, a run gets the same answers and pays for each once."""
    with served() as (base_url, _):
        assert (await play(base_url, tmp_path / "whole", streams=5, turns=5)).complete
    with served(faults=FAULTS) as (base_url, log):
        assert (await play(base_url, tmp_path / "faulty", streams=5, turns=5)).complete
    whole, faulty = (
        {path.name: read(path).turns for path in (tmp_path / name / "small").glob("*.jsonl")}
        for name in ("whole", "faulty")
    )
    assert whole.keys() == faulty.keys()
    for name, turns in whole.items():
        assert [turn.answer for turn in faulty[name]] == [turn.answer for turn in turns]
        assert [turn.request for turn in faulty[name]] == [turn.request for turn in turns]
    assert log.faults.total() > 0.1 * log.total
    assert set(log.answered.values()) == {1}
    requests = {turn.request for turns in faulty.values() for turn in turns}
    assert log.answered.keys() == requests
    attempts = sum(turn.reply.attempts for turns in faulty.values() for turn in turns)
    assert attempts == log.total


async def test_the_system_role_changes_no_answer(tmp_path: Path) -> None:
    """Without a system role, the instructions begin the first user message, in every encoding."""
    for task in ({}, {"encoding": "png"}, {"dataset": "iris", "encoding": "table"}):
        answers = dict[bool, list[str | None]]()
        with served() as (base_url, _):
            for role in (True, False):
                out, model = tmp_path / f"{role} {task}", {"system_role": role}
                result = await play(base_url, out, model=model, streams=1, task=task)
                turns = [turn for path in result.paths for turn in read(path).turns]
                answers[role] = [turn.answer for turn in turns]
                assert all(turn.reply.usage.prompt <= (turn.counted or 0) for turn in turns)
        assert answers[True] == answers[False]
        assert len(set(answers[True])) > 1


async def test_an_automatic_window_of_our_server(tmp_path: Path) -> None:
    """A window that the server limits is found out, and requests keep to it."""
    with served(context_window=2000) as (base_url, log):
        changes = {"turns": 20, "model": {"context_window": "auto"}, "streams": 1}
        result = await play(base_url, tmp_path, **changes)
    assert read(result.paths[0]).header.settings["model"]["context_window"] == 2000
    assert log.longest_prompt <= 2000
    assert log.statuses.keys() == {200}


async def test_http_changes_no_answer(tmp_path: Path) -> None:
    """A built-in model gets the same requests and gives the same answers over HTTP as locally."""
    with served() as (base_url, _):
        await play(base_url, tmp_path / "http")
    await Run(experiment(arms=ARMS), tmp_path / "local").play()
    for path in (tmp_path / "local" / "small").glob("*.jsonl"):
        local, remote = read(path), read(tmp_path / "http" / "small" / path.name)
        assert [turn.answer for turn in local.turns] == [turn.answer for turn in remote.turns]
        assert [turn.request for turn in local.turns] == [turn.request for turn in remote.turns]
        assert await verify(remote) == 12


@pytest.mark.parametrize("vocabulary", ["o200k_base", "cl100k_base"])
async def test_no_request_exceeds_the_window(tmp_path: Path, vocabulary: str) -> None:
    """By the server's count, no prompt is longer than the window minus the reserve."""
    with served(counter=ESTIMATORS[vocabulary]) as (base_url, log):
        for policy in ("within", "block", "last(40)"):
            await play(
                base_url,
                tmp_path / policy,
                streams=1,
                turns=40,
                arms=[{"name": "a"}],
                context={"policy": policy, "reserve": 500},
                model={"context_window": 4_000},
            )
    assert 0.8 * 3_500 < log.longest_prompt <= 3_500


async def test_a_window_smaller_than_configured(tmp_path: Path) -> None:
    """If the endpoint's window is smaller than configured, requests shrink and the session goes on."""
    with served(context_window=2_500) as (base_url, log):
        chosen = experiment(
            streams=1,
            turns=30,
            model={"name": "reference/nearest", "base_url": base_url},
            context={"policy": "within"},
        )
        # a model that the run opens itself would be asked for its window first
        result = await Run(chosen, tmp_path, open_model=lambda each: each.open_model()).play()
    assert result.complete
    (path,) = result.paths
    turns = read(path).turns
    assert 1 <= sum(turn.overflows for turn in turns) <= 3
    assert log.statuses[400] == sum(turn.overflows for turn in turns)
    assert await verify(read(path)) == 30


class WaitForAll:
    """A model that answers only once `count` requests are waiting."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._all_here = asyncio.Event()
        self._chance = Chance()

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Wait for the other requests, then guess."""
        self._missing -= 1
        if self._missing <= 0:
            self._all_here.set()
        await self._all_here.wait()
        return await self._chance.complete(messages)


async def test_concurrent_sessions(tmp_path: Path) -> None:
    """200 sessions run concurrently, and none gets more than four turns ahead of another."""
    counts: dict[str, int] = {}
    spread = 0

    def note(session: Any, _: object) -> None:  # noqa: ANN401  a session
        nonlocal spread
        counts[session.file_name] = counts.get(session.file_name, 0) + 1
        if len(counts) == 200:
            spread = max(spread, max(counts.values()) - min(counts.values()))

    log = RequestLog()
    app = build_app({"together": WaitForAll(200)}, settings=ServerSettings(), log=log)
    with serving(app) as base_url:
        model = {"name": "together", "base_url": base_url}
        made = experiment(streams=200, turns=5, model=model, context={"policy": "stateless"})
        result = await Run(made, tmp_path, concurrency=200, on_turn=note).play()
    assert result.complete
    assert set(counts.values()) == {5}
    assert spread <= 4
    assert log.most_in_flight == 200


@pytest.mark.parametrize("limit", [{"max_tokens": 20_000}, {"max_usd": 0.02}])
async def test_a_budget_includes_resumed_runs(tmp_path: Path, limit: dict[str, Any]) -> None:
    """By the server's count a budget is never exceeded, even if the run is resumed."""
    with served() as (base_url, _):
        model = {"name": "reference/nearest", "base_url": base_url}
        made = experiment(model=model, price={"input": 1.0, "output": 1.0})
        for _ in range(2):
            result = await Run(made, tmp_path, **limit).play()
            assert not result.complete
            assert all("next request could" in str(stop.reason) for stop in result.stopped)
            used = sum(
                turn.reply.usage.prompt + turn.reply.usage.completion
                for path in result.paths
                for turn in read(path).turns
            )
            assert 10_000 < used <= 20_000
        assert (await Run(made, tmp_path).play()).complete


@pytest.mark.parametrize("limit", [{"max_tokens": 20_000}, {"max_usd": 0.02}])
async def test_a_budget_without_reported_usage(tmp_path: Path, limit: dict[str, Any]) -> None:
    """If the endpoint reports no usage, the budget holds by our own count, even on resume."""
    with endpoint.serving([endpoint.completion("Answer: 3", usage=None)]) as there:
        made = experiment(
            model={"name": "gpt-4o", "base_url": there.base_url},
            price={"input": 1.0, "output": 1.0},
            probes={"at": [2], "count": 2},
        )
        asked = []
        for _ in range(2):
            playing = Run(made, tmp_path, **limit)
            assert not (await playing.play()).complete
            asked.append(len(there.requests))
            spent = playing.budget.spent
            assert 10_000 < spent.prompt + spent.completion <= 20_000
    assert asked[0] <= asked[1] < asked[0] + 2


async def test_a_resumed_run_knows_how_long_replies_are(tmp_path: Path) -> None:
    """A resumed run counts what failed attempts cost, and expects replies as long as the saved ones."""
    usage = {"prompt_tokens": 600, "completion_tokens": 9_000}
    failed = endpoint.completion("3", usage=usage, finish_reason="error")
    with endpoint.serving([failed, endpoint.completion("Answer: 3", usage=usage)]) as there:
        made = experiment(streams=1, model={"name": "tiny", "base_url": there.base_url})
        for _ in range(2):
            playing = Run(made, tmp_path, max_tokens=25_000)
            assert not (await playing.play()).complete
            assert (len(there.requests), playing.budget.spent.total) == (2, 19_200)


@pytest.mark.parametrize("limit", [{"max_tokens": 3_000}, {"max_usd": 0.003}])
async def test_a_budget_includes_attempts_in_vain(tmp_path: Path, limit: dict[str, Any]) -> None:
    """Failed attempts that no reply followed count after a resume, too."""
    usage = {"prompt_tokens": 600, "completion_tokens": 900}
    failed = endpoint.completion("3", usage=usage, finish_reason="error")
    with endpoint.serving([failed]) as there:
        made = experiment(
            streams=1,
            model={"name": "tiny", "base_url": there.base_url},
            price={"input": 1.0, "output": 1.0},
            context={"reserve": 100},
        )
        spent = []
        for _ in range(3):
            playing = Run(made, tmp_path, **limit)
            assert not (await playing.play()).complete
            spent.append(playing.budget.spent.total)
    assert spent == [1_500, 3_000, 3_000]
    assert len(there.requests) == 2


@dataclass(frozen=True)
class ByBytes:
    """Counts every byte as a token, more than any of our estimators."""

    name: str = "bytes"

    def count(self, text: str) -> int:
        """Return the bytes of `text`."""
        return len(text.encode())


async def test_a_budget_with_underestimated_tokens(tmp_path: Path) -> None:
    """The budget holds for a server that counts more tokens than we estimate."""
    counter: TokenCounter = ByBytes()
    with served(counter=counter) as (base_url, _):
        model = {"name": "reference/nearest", "base_url": base_url}
        made = experiment(model=model, streams=1, turns=200)
        result = await Run(made, tmp_path, max_tokens=60_000).play()
    (stop,), (path,) = result.stopped, result.paths
    assert "next request could" in str(stop.reason)
    usages = [turn.reply.usage for turn in read(path).turns]
    assert 40_000 < sum(usage.prompt + usage.completion for usage in usages) <= 60_000


TOML = """
name = "http"
turns = 60
streams = 3
seed = 5
[model]
name = "reference/nearest"
[context]
policy = "last(10)"
"""


def running(folder: Path, base_url: str) -> list[str]:
    """Return the arguments of a run against the endpoint."""
    folder.mkdir(exist_ok=True)
    file = folder / "http.toml"
    file.write_text(TOML)
    return ["run", str(file), "--out", str(folder), "--set", f"model.base_url={base_url}"]


def test_kills(tmp_path: Path, icl_loop: Command) -> None:
    """A killed and resumed run equals one never killed, at most one request per session and kill more."""
    with served() as (base_url, log):
        assert icl_loop(*running(tmp_path / "whole", base_url)).returncode == 0
        needed, kills = log.total, 0
        program = [sys.executable, "-c", "from icl_loop.cli import main; main()"]
        dice = random.Random(3)  # noqa: S311  not a secret
        while kills < 3:
            target = log.total + dice.randrange(1, 50)
            with subprocess.Popen(
                [*program, *running(tmp_path / "cut", base_url)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                while log.total < target and process.poll() is None:
                    time.sleep(0.001)
                if process.poll() is not None:
                    break
                process.send_signal(signal.SIGKILL)
            kills += 1
        assert kills == 3
        assert icl_loop(*running(tmp_path / "cut", base_url)).returncode == 0
        assert log.total - 2 * needed <= kills * 3
    whole, cut = (
        {
            name: re.sub(rb'"cached":\d+', b"", data)  # depends on earlier requests
            for name, data in transcripts_of(tmp_path / folder / "http").items()
        }
        for folder in ("whole", "cut")
    )
    assert whole == cut


ANNEALING = {"start": 1.0, "end": 0.2, "turns": 8}


async def test_the_temperature_falls_from_turn_to_turn(tmp_path: Path) -> None:
    """The temperature falls evenly to its end, also through retries, in sessions at once, and resumed."""
    model = {"name": "m", "annealing": ANNEALING, "params": {"top_p": 0.9}}
    expected = [round(1.0 - 0.1 * turn, 4) for turn in range(8)] + [0.2] * 4
    changes = {"arms": [{"name": "a"}], "probes": {"at": [4], "count": 1}}
    expected.insert(4, expected[4])  # the probe
    for faulty in (False, True):
        failed = [endpoint.error(500)] if faulty else []
        with endpoint.serving(
            [endpoint.completion("Answer: 3"), *failed, endpoint.completion("Answer: 4")]
        ) as there:
            table = {**model, "base_url": there.base_url}
            result = await play(
                there.base_url, tmp_path / str(faulty), model=table, streams=1, **changes
            )
        assert result.complete
        sent = [request["temperature"] for request in there.requests]
        assert sent == expected[:1] + expected[1:2] * faulty + expected[1:]
        assert all(request["top_p"] == 0.9 for request in there.requests)
    [path] = result.paths
    assert await verify(read(path)) == 12
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:8]))
    with endpoint.serving([endpoint.completion("Answer: 4")]) as there:
        table = {**model, "base_url": there.base_url}
        await play(there.base_url, tmp_path / "True", model=table, streams=1, **changes)
    assert [request["temperature"] for request in there.requests] == expected[7:]
    with endpoint.serving([endpoint.completion("Answer: 4")]) as there:
        table = {**model, "base_url": there.base_url}
        await play(there.base_url, tmp_path / "both", model=table, streams=2, arms=[{"name": "a"}])
    sent = [request["temperature"] for request in there.requests]
    assert sorted(sent) == sorted(2 * (expected[:4] + expected[5:]))


@pytest.mark.parametrize("own", [{"annealing": ANNEALING}, {"params": {"temperature": 0.3}}])
@pytest.mark.parametrize("shared", [{"annealing": ANNEALING}, {"params": {"temperature": 1}}, {}])
def test_an_arm_has_the_temperature_that_it_sets_itself(
    shared: dict[str, Any], own: dict[str, Any]
) -> None:
    """An arm's own temperature, constant or not, replaces that of all arms; other params stay."""
    params = {"top_p": 0.9, **shared.get("params", {})}
    model = {"name": "m", **shared, "params": params}
    arms = [{"name": "own", "model": own}, {"name": "shared"}]
    with_both = experiment(model=model, arms=arms).arms
    for arm, expected in (("own", own), ("shared", shared)):
        settings = with_both[arm].model
        annealing = settings.annealing and settings.annealing.model_dump()
        assert annealing == expected.get("annealing")
        assert settings.params == {"top_p": 0.9, **expected.get("params", {})}


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"name": "reference/nearest", "annealing": ANNEALING}, "has no temperature"),
        ({"annealing": ANNEALING, "params": {"temperature": 1}}, "exclude each other"),
        (
            {"annealing": ANNEALING, "params": {"extra_body": {"temperature": 1}}},
            "exclude each other",
        ),
        ({"annealing": {**ANNEALING, "start": 3.0}}, r"annealing.start = 3.0"),
        ({"annealing": {"start": 1.0}}, "annealing.end: this key is missing"),
    ],
)
def test_temperatures_that_cannot_be_set(model: dict[str, Any], complaint: str) -> None:
    """A schedule for a model without temperature, beside a constant one, or cut short is refused."""
    with pytest.raises(InputError, match=complaint):
        experiment(model={"name": "m", **model}).check()
