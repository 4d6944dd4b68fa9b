"""Tests of runs: concurrent sessions, resuming, crashes, invalid input and budgets."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from builders import experiment, transcripts_of
from command_line import Command
from icl_loop.core.errors import FolderLocked, InputError, RequestRefused, SettingsMismatch
from icl_loop.core.messages import Message, Reply
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment, Session
from icl_loop.models import ChatModel
from icl_loop.models.limits import Budget
from icl_loop.models.simulated.heuristics import Chance
from icl_loop.replay.branching import branches
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.run import Run, RunResult
from icl_loop.transcripts import read

ARMS = [
    {"name": "label", "feedback": {"kind": "label"}},
    {"name": "stateless", "context": {"policy": "stateless"}},
]


async def run(made: Experiment, out: Path) -> RunResult:
    """Play an experiment into `out`."""
    return await Run(made, out).play()


async def test_a_run_plays_every_session(tmp_path: Path) -> None:
    """A run writes one complete transcript per arm and stream, and nothing else."""
    result = await run(experiment(arms=ARMS), tmp_path)
    names = {f"{arm}-{stream}.jsonl" for arm in ("label", "stateless") for stream in (0, 1)}
    assert {path.name for path in result.paths} == names
    assert {path.name for path in (tmp_path / "small").iterdir()} - {".lock"} == names
    assert result.complete
    for path in result.paths:
        transcript = read(path)
        assert transcript.end is not None
        assert (transcript.end.status, len(transcript.turns)) == ("complete", 12)


async def test_a_complete_run_is_skipped(tmp_path: Path) -> None:
    """Running a complete experiment again does not change any transcript."""
    await run(experiment(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    seen: list[Turn] = []
    again = Run(experiment(), tmp_path, on_turn=lambda _, turn: seen.append(turn))
    assert (await again.play()).complete
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == before
    assert len(seen) == 24


async def test_changed_settings_are_rejected(tmp_path: Path) -> None:
    """If the settings of any saved session differ, the run is rejected before it writes anything."""
    await run(experiment(), tmp_path)
    before = transcripts_of(tmp_path / "small")
    with pytest.raises(SettingsMismatch, match=r"task\.encoding"):
        await run(experiment(streams=3, task={"encoding": "ascii"}), tmp_path)
    assert transcripts_of(tmp_path / "small") == before


class NoModel:
    """Answers no request."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Refuse a request."""
        raise RequestRefused(f"there is no such model for {len(messages)} messages")


async def test_a_failed_start_does_not_bind(tmp_path: Path) -> None:
    """Sessions without a turn are begun anew with changed settings, also those of yoked arms."""
    arms = [*ARMS, {"name": "yoked", "feedback": {"kind": "yoked", "donor": "label"}}]
    mistaken = experiment(arms=arms, model={"name": "simulated/chance"})
    failed = Run(mistaken, tmp_path, open_model=lambda _: NoModel())
    assert not (await failed.play()).complete
    assert any((tmp_path / "small").glob("*.jsonl"))
    assert (await run(experiment(arms=arms), tmp_path)).complete
    played = transcripts_of(tmp_path / "small")
    await run(experiment(arms=arms), tmp_path / "other")
    assert played == transcripts_of(tmp_path / "other" / "small")


async def test_more_turns_name_the_command_that_plays_them(tmp_path: Path) -> None:
    """A finished run with more turns is rejected with the command that continues its sessions."""
    await run(experiment(), tmp_path)
    saved = tmp_path / "small"
    with pytest.raises(SettingsMismatch) as caught:
        await run(experiment(turns=15), tmp_path)
    found = re.search(r"icl-loop branch (.+) --at (\d+) --turns (\d+)", str(caught.value))
    assert found is not None
    path, at, turns = found.groups()
    assert Path(path) == saved
    longer = branches(sorted(saved.glob("*.jsonl")), int(at), turns=int(turns))
    assert {session.turns for session in longer.sessions()} == {15}


async def test_streams_can_be_added_to_a_run(tmp_path: Path) -> None:
    """A run with more streams keeps the saved sessions and plays only the new ones."""
    await run(experiment(streams=2), tmp_path)
    before = transcripts_of(tmp_path / "small")
    await run(experiment(streams=4), tmp_path)
    after = transcripts_of(tmp_path / "small")
    assert len(after) == 4
    assert {name: after[name] for name in before} == before


async def test_concurrency_does_not_change_transcripts(tmp_path: Path) -> None:
    """Except for times, transcripts do not depend on how many sessions play concurrently."""
    for name, concurrency in {"one": 1, "all": 64}.items():
        await Run(experiment(arms=ARMS), tmp_path / name, concurrency).play()
    one, many = (transcripts_of(tmp_path / name / "small") for name in ("one", "all"))
    assert one == many


async def test_a_stopped_run_resumes(tmp_path: Path) -> None:
    """A stopped run saves its current turns; resumed, it equals a run that was never stopped."""
    played: Counter[str] = Counter()
    stopping: Run

    def stop_soon(session: Session, _: Turn) -> None:
        played[session.file_name] += 1
        if played.total() == 9:
            stopping.stop()

    stopping = Run(experiment(arms=ARMS), tmp_path / "cut", on_turn=stop_soon)
    result = await stopping.play()
    assert result.interrupted
    saved = {path.name: len(read(path).turns) for path in result.paths}
    assert {name: turns for name, turns in saved.items() if turns} == played
    assert 9 <= played.total() < 48
    assert (await run(experiment(arms=ARMS), tmp_path / "cut")).complete
    await run(experiment(arms=ARMS), tmp_path / "whole")
    assert transcripts_of(tmp_path / "cut/small") == transcripts_of(tmp_path / "whole/small")


async def test_a_full_context_ends_the_session(tmp_path: Path) -> None:
    """A session whose context window is full has ended, and is not resumed."""
    made = experiment(
        turns=40,
        streams=1,
        context={"policy": "all"},
        model={"name": "simulated/chance", "context_window": 4000},
    )
    assert (await run(made, tmp_path)).complete
    (path,) = tmp_path.rglob("*.jsonl")
    transcript = read(path)
    assert transcript.end is not None
    assert transcript.end.status == "context_full"
    assert transcript.end.turns == len(transcript.turns) < 40
    before = path.read_bytes()
    assert (await run(made, tmp_path)).complete
    assert path.read_bytes() == before


async def test_a_second_run_in_the_same_folder_is_rejected(tmp_path: Path) -> None:
    """A run in a folder locked by another process is rejected and writes nothing."""
    code = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    folder = tmp_path / "small"
    folder.mkdir()
    command = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(FolderLocked, match="another process"):
            await run(experiment(), tmp_path)
        holder.kill()
    assert list(folder.glob("*.jsonl")) == []
    assert (await run(experiment(), tmp_path)).complete


async def test_a_window_that_is_too_short_is_rejected(tmp_path: Path) -> None:
    """A context window too short for one question is rejected before anything is written."""
    made = experiment(model={"name": "simulated/chance", "context_window": 1200})
    with pytest.raises(InputError, match=r"context_window = 1200 .* needs \d+ tokens"):
        await run(made, tmp_path)
    assert list(tmp_path.rglob("*.jsonl")) == []


async def test_a_run_is_checked_once(tmp_path: Path) -> None:
    """`Run.check` checks every session once, and `play` does not check again."""
    calls: list[str] = []

    class Watched(Experiment):
        def check(self, on_session: Callable[[], None] = lambda: None) -> None:
            calls.append("check")
            super().check(on_session)

    playing = Run(Watched(**vars(experiment(arms=ARMS))), tmp_path)
    playing.check(lambda: calls.append("session"))
    assert (await playing.play()).complete
    assert calls == ["check", *["session"] * playing.experiment.count()]
    assert playing.experiment.count() == 4
    with pytest.raises(InputError, match="needs a primary contrast"):
        Run(experiment(), tmp_path, stop_early=True).check()


async def test_too_many_turns_are_rejected(tmp_path: Path) -> None:
    """More turns than the data set has samples for are rejected before anything is written."""
    with pytest.raises(InputError, match=r"play at most \d+ turns"):
        await run(experiment(turns=5000), tmp_path)
    assert list(tmp_path.rglob("*.jsonl")) == []


class RefusesOneQuestion:
    """Refuses one question and answers the others at random."""

    def __init__(self, refused: str) -> None:
        self._refused = refused
        self._chance = Chance()

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Answer, or raise RequestRefused."""
        if messages[-1].text == self._refused:
            raise RequestRefused("no")
        return await self._chance.complete(messages)


async def test_one_session_that_stops_does_not_stop_the_others(tmp_path: Path) -> None:
    """If a session stops, the others continue; its turns are kept and its error is reported."""
    made = experiment(streams=3)
    stuck = list(made.sessions())[1]
    playing = Run(
        made, tmp_path, open_model=lambda _: RefusesOneQuestion(stuck.task.question(5).text)
    )
    result = await playing.play()
    (stop,) = result.stopped
    assert (stop.session.file_name, str(stop.reason)) == (stuck.file_name, "no")
    turns = {path.name: len(read(path).turns) for path in result.paths}
    assert turns == {"feedback-0.jsonl": 12, "feedback-1.jsonl": 5, "feedback-2.jsonl": 12}
    assert not result.complete


EXPERIMENT = """
name = "killed"
turns = 150
streams = 3
seed = 5
[model]
name = "reference/nearest"
[[arms]]
name = "feedback"
[[arms]]
name = "none"
feedback.kind = "none"
"""


PROGRAM = (sys.executable, "-c", "from icl_loop.cli import main; main()")


def arguments(folder: Path, out: str) -> list[str]:
    """Return the arguments that run the experiment into a folder."""
    file = folder / "killed.toml"
    file.write_text(EXPERIMENT)
    return ["run", str(file), "--out", str(folder / out)]


def lines_saved(folder: Path) -> int:
    """Return the number of complete lines in the transcripts of a folder."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


def test_a_run_killed_at_random_moments_can_be_resumed(tmp_path: Path, icl_loop: Command) -> None:
    """A run killed by `kill -9` and resumed several times equals a run that was never killed."""
    assert icl_loop(*arguments(tmp_path, "whole")).returncode == 0
    cut = tmp_path / "cut" / "killed"
    kills = 0
    random_state = random.Random(os.environ.get("PYTEST_SEED", "9"))  # noqa: S311  no secrets
    while kills < 3:
        before = lines_saved(cut)
        with subprocess.Popen(
            [*PROGRAM, *arguments(tmp_path, "cut")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            target = before + random_state.randrange(1, 160)
            while process.poll() is None and lines_saved(cut) < target:
                time.sleep(0.002)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
        assert lines_saved(cut) >= before
        kills += 1
    assert kills == 3
    assert icl_loop(*arguments(tmp_path, "cut")).returncode == 0
    assert transcripts_of(cut) == transcripts_of(tmp_path / "whole" / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_resume(tmp_path: Path, number: signal.Signals) -> None:
    """An interrupted run exits with code 1 and prints the command that resumes it."""
    out = tmp_path / "cut" / "killed"
    with subprocess.Popen(
        [*PROGRAM, *arguments(tmp_path, "cut")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while lines_saved(out) < 20 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert f"icl-loop run {tmp_path / 'killed.toml'}" in stderr
    for path in out.glob("*.jsonl"):
        assert path.read_bytes().endswith(b"\n")
        assert read(path).end is None


def test_a_run_leaves_no_tasks(tmp_path: Path) -> None:
    """When a run has ended, no task of it is left in the event loop."""

    async def play_and_look() -> set[asyncio.Task[object]]:
        await run(experiment(), tmp_path)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(play_and_look()) == set()


class _ReportsNoUsage:
    """Answers a number of requests without reporting tokens, then refuses."""

    def __init__(self, answers: int) -> None:
        self._left = answers

    async def complete(self, messages: Sequence[Message]) -> Reply:  # noqa: ARG002  as in the protocol
        """Return a reply."""
        if not self._left:
            raise RequestRefused("no more")
        self._left -= 1
        return Reply("Answer: 3")


def _same(model: ChatModel, _: Session) -> ChatModel:
    return model


@pytest.mark.parametrize("answers", [3, 4, 7, 13])
async def test_estimated_usage_is_charged_again_on_resume(tmp_path: Path, answers: int) -> None:
    """A resumed run is charged for saved requests that reported no usage, within 1 % of the first run."""
    made = experiment(
        streams=1,
        probes={"at": [0, 5], "count": 4},
        context={"policy": "notes(every=4, tokens=40)"},
        model={"name": "tiny", "base_url": "http://127.0.0.1:9/v1"},
    )
    spent = []
    for model in (_ReportsNoUsage(answers), _ReportsNoUsage(0)):
        playing = Run(made, tmp_path, open_model=partial(_same, model), max_tokens=10**6)
        await playing.play()
        spent.append(playing.budget.spent)
    assert spent[0].prompt > 300 * answers
    assert spent[1].completion == spent[0].completion
    assert spent[1].prompt == pytest.approx(spent[0].prompt, rel=0.01)


@pytest.mark.parametrize(
    ("params", "most"),
    [
        ({}, 300),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"extra_body": {"max_tokens": 8}}, 8),
        ({"extra_body": 3}, 300),
    ],
)
def test_the_budget_reserves_the_cap_of_replies(params: dict[str, Any], most: int) -> None:
    """A request reserves tokens for the longest reply that it allows."""
    made = experiment(model={"name": "m", "params": params}, context={"reserve": 300})
    policy = ModelPool(made, Budget(), concurrency=1).policy(next(made.sessions()))
    assert policy is not None
    assert policy.max_completion_tokens == most
