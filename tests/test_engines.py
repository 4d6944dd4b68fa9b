"""Tests of engines without a cluster: pickling, stepping through a session, addresses."""

import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiktoken
import tiktoken.registry

from builders import experiment, session
from command_line import Command
from icl_loop.core.errors import (
    ContextFull,
    ContextOverflow,
    InputError,
    ModelUnavailable,
    ReplayMismatch,
    RequestRefused,
)
from icl_loop.core.messages import Message, Reply, Usage
from icl_loop.core.records import Probe, Turn
from icl_loop.core.tokens import portable_vocabulary, register_vocabulary
from icl_loop.experiment import Session
from icl_loop.models import ChatModel, ScriptedModel
from icl_loop.models.limits import Budget
from icl_loop.runner.engines.ray import on_ray
from icl_loop.runner.engines.ray.cluster import cluster
from icl_loop.runner.engines.ray.session_steps import SessionStepper, StepResult
from icl_loop.runner.engines.ray.worker import Worker, WorkerSetup
from icl_loop.runner.engines.ray.worker_pool import is_overloaded
from icl_loop.runner.model_pool import ModelPool
from icl_loop.runner.session import Entry, play_session


def one_of(**changes: object) -> Session:
    """Return the only session of a small experiment."""
    return next(experiment(streams=1, **changes).sessions())


def pickled(made: Session) -> Session:
    """Return a session as it arrives on another machine."""
    arrived = pickle.loads(pickle.dumps(made))  # noqa: S301  our own data
    assert isinstance(arrived, Session)
    return arrived


def timeless(event: Entry) -> Entry:
    """Return an entry without its times."""
    return replace(event, reply=replace(event.reply, at=None, latency_s=None, attempts=1))


async def steps_of(stepper: SessionStepper) -> tuple[list[Entry], list[StepResult]]:
    """Permit every request; return the entries of the session, and its steps."""
    steps = [await stepper.step()]
    while steps[-1].next_tokens is not None:
        steps.append(await stepper.step(1))
    return [timeless(event) for step in steps for event in step.entries], steps


async def played_here(made: Session, saved: Sequence[Entry] = ()) -> list[Entry]:
    """Return the entries of a session played in this process."""
    playing = play_session(made, saved, made.open_model())
    return [timeless(event) async for event in playing]


@pytest.mark.parametrize(
    "task",
    [{}, {"labels": "deranged", "swap_at": 5}, {"pixels": "permuted"}, {"encoding": "png"}],
    ids=str,
)
async def test_a_pickled_session_contains_its_samples(task: dict[str, object]) -> None:
    """An unpickled session asks the same questions without opening the data set."""
    made = one_of(task=task, probes={"at": [3], "count": 2})
    arrived = pickled(made)
    assert "dataset" not in arrived.__dict__
    assert await played_here(arrived) == await played_here(made)
    assert "dataset" not in arrived.__dict__


def test_a_pickled_session_is_small() -> None:
    """A pickled session of 12 turns is about as large as its images and its prompt set."""
    made = one_of()
    assert len(pickle.dumps(made)) < 30_000
    assert made.dataset.sha256
    assert made.task.question(0).digest
    assert len(pickle.dumps(made)) < 30_000


@pytest.mark.parametrize("at_most", [0, 5])
async def test_steps_yield_the_entries_of_the_session(at_most: int) -> None:
    """Stepped through, gated or not, a session yields the same entries as played in one go."""
    made = one_of(probes={"at": [0, 3, 12], "count": 2})
    whole = await played_here(made)
    turns = tuple(event for event in whole if isinstance(event, Turn))[:at_most]
    probes = tuple(event for event in whole if isinstance(event, Probe))
    saved: list[Entry] = [*turns, *(each for each in probes if each.after_turn <= at_most)]
    expected = await played_here(made, saved)
    for count in (None, len):
        yielded, _ = await steps_of(SessionStepper(made, saved, made.open_model(), count))
        assert yielded == expected


async def test_no_request_is_made_without_permission() -> None:
    """Each permission leads to one request, and each turn is returned before the next request."""
    made, asked = session(4), Counting(session(4).open_model())
    stepper = SessionStepper(made, (), asked, len)
    step = await stepper.step()
    assert (step.entries, step.outcome, step.next_tokens, asked.count) == ((), None, 2, 0)
    for index in range(4):
        step = await stepper.step(1)
        assert [event.index for event in step.entries if isinstance(event, Turn)] == [index]
        assert isinstance(step.outcome, Reply)
        assert asked.count == index + 1
    assert (step.next_tokens, step.error) == (None, None)


class Counting:
    """Counts the requests to another model."""

    def __init__(self, model: ChatModel) -> None:
        self.count = 0
        self._model = model

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the other model's reply."""
        self.count += 1
        return await self._model.complete(messages)


class Failing:
    """Raises these errors, one per request, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    async def complete(self, messages: Sequence[Message]) -> Reply:  # noqa: ARG002  as in the protocol
        """Raise the next error, or answer."""
        if self._errors:
            raise self._errors.pop(0)
        return Reply("Answer: 3")


async def test_retries_need_permission() -> None:
    """A failed request is reported, and repeated with the next permission."""
    failed = ModelUnavailable("busy", retry_after_s=3.0, limited=True)
    _, steps = await steps_of(SessionStepper(session(2), (), Failing(failed), len))
    came = [step.outcome for step in steps]
    assert came[1] is failed
    assert steps[1].entries == ()
    assert [type(each) for each in came] == [type(None), ModelUnavailable, Reply, Reply]


async def test_a_turn_records_the_tokens_of_failed_attempts() -> None:
    """A turn records what earlier attempts cost that brought no usable reply."""
    failed = [ModelUnavailable("bad", usage=Usage(prompt=9, completion=2)) for _ in range(2)]
    (turn,), _ = await steps_of(SessionStepper(session(1), (), Failing(*failed), len))
    assert turn.reply.usage == Usage(discarded_prompt=18, discarded_completion=4)


async def test_a_turn_records_the_permitted_attempt() -> None:
    """A turn records the number of the permitted attempt."""
    stepper = SessionStepper(session(1), (), ScriptedModel(["Answer: 3"]), len)
    await stepper.step()
    (turn,) = (await stepper.step(4)).entries
    assert turn.reply.attempts == 4


async def test_an_overflow_leads_to_a_shorter_request() -> None:
    """After an overflow the session makes a shorter request, or ends if that is impossible."""
    long = ContextOverflow("too long")
    answered, steps = await steps_of(SessionStepper(session(1), (), Failing(long), len))
    assert answered == []
    assert (steps[-1].outcome, steps[-1].error) == (long, long)
    model = ScriptedModel(["Answer: 3"])
    stepper = SessionStepper(session(2), (), FailsSecond(model, long), len)
    yielded, _ = await steps_of(stepper)
    assert [turn.overflows for turn in yielded] == [0, 1]


class FailsSecond:
    """Answers, raises an error, and answers again."""

    def __init__(self, model: ChatModel, error: Exception) -> None:
        self._replies: list[ChatModel] = [model, Failing(error), Failing()]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Use the next model."""
        return await self._replies.pop(0).complete(messages)


async def test_a_refused_request_ends_the_session() -> None:
    """A refused request ends the session with its error."""
    refused = RequestRefused("no")
    _, steps = await steps_of(SessionStepper(session(2), (), Failing(refused), len))
    assert (steps[-1].outcome, steps[-1].error) == (refused, refused)


async def test_a_programming_error_is_passed_on() -> None:
    """An unexpected exception is returned as the error of the session."""
    stepper = SessionStepper(session(2), (), Failing(ZeroDivisionError()), len)
    await stepper.step()
    assert isinstance((await stepper.step(1)).error, ZeroDivisionError)


@pytest.mark.parametrize(
    "error",
    [
        ContextFull(5, 2),
        ReplayMismatch(7, "told", "a", "b"),
        ModelUnavailable("busy", retry_after_s=1.5, limited=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled(error: Exception) -> None:
    """An unpickled error equals the original."""
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301  our own data
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


async def test_a_worker_setup_replaces_missing_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that needs a prompt set and a data set opens from a setup where these files are missing."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "mine.toml").write_text('extend = "plain"\ntold.correct = "Indeed."')
    lines = [f"{'ab'[row % 2]},word {row}" for row in range(40)]
    (here / "rows.csv").write_text("\n".join(["label,text", *lines, ""]))
    data = "csv:rows.csv?label=label&text=text"
    monkeypatch.chdir(here)
    settings = {"task": {"dataset": data, "encoding": "text", "prompts": "mine.toml"}}
    whole = experiment(**settings, model={"name": "simulated/oracle", "params": {"dataset": data}})
    made = next(whole.sessions())
    sent = pickle.dumps((made, WorkerSetup.of(ModelPool(whole, Budget(), 1), [made])))
    monkeypatch.chdir(elsewhere)
    arrived, setup = pickle.loads(sent)  # noqa: S301  our own data
    (model,) = setup.open_models().values()
    turns = [each async for each in play_session(arrived, (), model) if isinstance(each, Turn)]
    assert [turn.feedback.told for turn in turns] == ["Indeed."] * 12
    with pytest.raises(InputError):
        made.open_model()


def test_a_vocabulary_can_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary that was sent is used where its file is missing."""
    try:
        sent = pickle.dumps(portable_vocabulary("cl100k_base"))
    except InputError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "cl100k_base")
    register_vocabulary(pickle.loads(sent))  # noqa: S301  our own data
    assert tiktoken.get_encoding("cl100k_base").encode("right or wrong") == [1315, 477, 5076]


@pytest.mark.parametrize(
    "playing", [[8, 0], [6, 6, 0], [32, 0, 0], [1, 1, 0], [2, 0], [3, 1]], ids=str
)
def test_sessions_move_until_the_load_is_balanced(playing: list[int]) -> None:
    """A new worker gets sessions, moving ends, and the load is then about even."""
    total = sum(playing)
    for _ in range(total):
        if is_overloaded(max(playing), min(playing)):
            playing[playing.index(max(playing))] -= 1
            playing[playing.index(min(playing))] += 1
    assert not is_overloaded(max(playing), min(playing))
    assert sum(playing) == total
    assert min(playing) > 0 or total < len(playing)


async def test_a_worker_without_the_key_returns_the_error() -> None:
    """A worker that cannot open a model returns the error."""
    made = one_of(model={"name": "tiny", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO"})
    refused = await Worker().open(WorkerSetup({"key": made.model_factory(1.0)}, {}))
    assert "variable NO" in str(refused)


def test_a_missing_ray_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Ray is not installed, the error names the extra."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs the extra \[ray\]: pip install 'icl-loop\[ray\]'"):
        on_ray()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: .*refused"),
        ("ray://127.0.0.1:10001", "use HOST:PORT or auto"),
        ("somewhere", "use HOST:PORT or auto"),
        ("127.0.0.1:99999", "no Ray cluster at 127.0.0.1:99999"),
    ],
)
def test_an_address_without_a_cluster_is_rejected(address: str, message: str) -> None:
    """An address without a cluster is rejected at once."""
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    with pytest.raises(InputError, match=message), cluster(address):
        pass


@pytest.mark.parametrize("option", [("--ray-address", "auto"), ("--ray-wait", "5")])
def test_cluster_options_need_the_ray_engine(
    tmp_path: Path, icl_loop: Command, option: tuple[str, str]
) -> None:
    """`--ray-address` and `--ray-wait` without `--engine ray` exit with code 2."""
    file = tmp_path / "small.toml"
    file.write_text('name = "small"\n')
    done = icl_loop("run", file, *option)
    assert done.returncode == 2
    assert option[0] in done.stderr
    assert "--engine ray" in done.stderr
