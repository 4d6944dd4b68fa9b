"""The laws of engines that need no cluster: what travels, and how a stage goes step by step."""

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
from icl_loop.core.messages import Message, Reply
from icl_loop.core.records import Probe, Turn
from icl_loop.core.tokens import know, portable
from icl_loop.experiment import Session
from icl_loop.models import ChatModel, ScriptedModel
from icl_loop.models.limits import Budget
from icl_loop.runner.engines import Entry, Saved, play_session
from icl_loop.runner.engines.ray import Worker, WorkerSetup, cluster, on_ray
from icl_loop.runner.engines.ray.cluster import ClusterResources
from icl_loop.runner.engines.ray.worker_pool import is_overloaded
from icl_loop.runner.engines.session_steps import SessionStepper, StepResult
from icl_loop.runner.model_pool import ModelPool


def one_of(**changes: object) -> Session:
    """Return the first session of a small experiment."""
    return next(experiment(streams=1, **changes).sessions())


def travelled(made: Session) -> Session:
    """Return what arrives of a session elsewhere."""
    arrived = pickle.loads(pickle.dumps(made))  # noqa: S301  we have just written it
    assert isinstance(arrived, Session)
    return arrived


def timeless(event: Entry) -> Entry:
    """Return an event without its times."""
    return replace(event, reply=replace(event.reply, at=None, latency_s=None, attempts=1))


async def all_of(stage: SessionStepper) -> tuple[list[Entry], list[StepResult]]:
    """Give leave until the session is over; return what it yielded, and the steps."""
    steps = [await stage.step(1)]
    while steps[-1].next_tokens is not None:
        steps.append(await stage.step(1))
    return [timeless(event) for step in steps for event in step.entries], steps


async def played_here(made: Session, saved: Saved | None = None) -> list[Entry]:
    """Return what a session yields in this process."""
    playing = play_session(made, saved or Saved(), made.open_model())
    return [timeless(event) async for event in playing]


@pytest.mark.parametrize(
    "task",
    [{}, {"labels": "deranged", "swap_at": 5}, {"pixels": "permuted"}, {"encoding": "png"}],
    ids=str,
)
async def test_a_session_travels_with_its_samples(task: dict[str, object]) -> None:
    """What arrives of a session asks the same questions, and has not opened the data set."""
    made = one_of(task=task, probes={"at": [3], "count": 2})
    arrived = travelled(made)
    assert "dataset" not in arrived.__dict__
    assert await played_here(arrived) == await played_here(made)
    assert "dataset" not in arrived.__dict__


def test_a_session_travels_light() -> None:
    """A session of 12 turns is no larger when it travels than its pictures and its words."""
    made = one_of()
    assert len(pickle.dumps(made)) < 30_000
    assert made.dataset.sha256
    assert made.task.question(0).digest
    assert len(pickle.dumps(made)) < 30_000


@pytest.mark.parametrize("at_most", [0, 5])
async def test_a_stage_yields_what_the_session_does(at_most: int) -> None:
    """StepResult by step, with leave or freely, a session yields what it yields in one go."""
    made = one_of(probes={"at": [0, 3, 12], "count": 2})
    whole = await played_here(made)
    turns = tuple(event for event in whole if isinstance(event, Turn))[:at_most]
    probes = tuple(event for event in whole if isinstance(event, Probe))
    saved = Saved(turns, tuple(each for each in probes if each.after_turn <= at_most))
    expected = await played_here(made, saved)
    for count in (None, len):
        yielded, _ = await all_of(SessionStepper(made, saved, made.open_model(), count))
        assert yielded == expected


async def test_no_request_is_made_without_leave() -> None:
    """A stage asks once for each leave, and hands over each turn before it wants the next."""
    made, asked = session(4), Counting(session(4).open_model())
    stage = SessionStepper(made, Saved(), asked, len)
    step = await stage.step(1)
    assert (step.entries, step.outcome, step.next_tokens, asked.count) == ((), None, 2, 0)
    for index in range(4):
        step = await stage.step(1)
        assert [event.index for event in step.entries if isinstance(event, Turn)] == [index]
        assert isinstance(step.outcome, Reply)
        assert asked.count == index + 1
    assert (step.next_tokens, step.error) == (None, None)


class Counting:
    """Counts how often another model is asked."""

    def __init__(self, model: ChatModel) -> None:
        self.count = 0
        self._model = model

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return what the other says."""
        self.count += 1
        return await self._model.complete(messages)


class Failing:
    """Raises these errors, one a request, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    async def complete(self, messages: Sequence[Message]) -> Reply:  # noqa: ARG002  as documented
        """Raise what is next, or answer."""
        if self._errors:
            raise self._errors.pop(0)
        return Reply("Answer: 3")


async def test_what_may_pass_is_asked_again_by_leave() -> None:
    """A request that failed is handed over as failed, and made again with the next leave."""
    failed = ModelUnavailable("busy", retry_after_s=3.0, limited=True)
    _, steps = await all_of(SessionStepper(session(2), Saved(), Failing(failed), len))
    came = [step.outcome for step in steps]
    assert came[1] is failed
    assert steps[1].entries == ()
    assert [type(each) for each in came] == [type(None), ModelUnavailable, Reply, Reply]


async def test_attempts_are_those_of_the_leave() -> None:
    """A turn records which attempt the leave was for."""
    stage = SessionStepper(session(1), Saved(), ScriptedModel(["Answer: 3"]), len)
    await stage.step(1)
    (turn,) = (await stage.step(4)).entries
    assert turn.reply.attempts == 4


async def test_a_request_too_long_is_followed_by_a_shorter_one() -> None:
    """A stage goes on after a request that is too long, and ends where nothing is left to cut."""
    long = ContextOverflow("too long")
    answered, steps = await all_of(SessionStepper(session(1), Saved(), Failing(long), len))
    assert answered == []
    assert (steps[-1].outcome, steps[-1].error) == (long, long)
    model = ScriptedModel(["Answer: 3"])
    stage = SessionStepper(session(2), Saved(), Later(model, long), len)
    yielded, _ = await all_of(stage)
    assert [turn.overflows for turn in yielded] == [0, 1]


class Later:
    """Answers once, then raises an error once, then answers again."""

    def __init__(self, model: ChatModel, error: Exception) -> None:
        self._replies: list[ChatModel] = [model, Failing(error), Failing()]

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Do what is next."""
        return await self._replies.pop(0).complete(messages)


async def test_a_refusal_is_the_end() -> None:
    """A request refused for good ends the session, and says why."""
    refused = RequestRefused("no")
    _, steps = await all_of(SessionStepper(session(2), Saved(), Failing(refused), len))
    assert (steps[-1].outcome, steps[-1].error) == (refused, refused)


async def test_a_mistake_of_ours_is_raised() -> None:
    """An error that nobody raised on purpose is no end of a session."""
    stage = SessionStepper(session(2), Saved(), Failing(ZeroDivisionError()), len)
    await stage.step(1)
    with pytest.raises(ZeroDivisionError):
        await stage.step(1)


@pytest.mark.parametrize(
    "error",
    [
        ContextFull(5, 2),
        ReplayMismatch(7, "told", "a", "b"),
        ModelUnavailable("busy", retry_after_s=1.5, limited=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel(error: Exception) -> None:
    """An error arrives as it was raised."""
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301  we have just written it
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


async def test_a_kit_holds_what_a_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that reads a prompt set and a data set from files opens from a kit where there are none."""
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
    arrived, kit = pickle.loads(sent)  # noqa: S301  we have just written it
    (model,) = kit.open_models().values()
    turns = [each async for each in play_session(arrived, Saved(), model) if isinstance(each, Turn)]
    assert [turn.feedback.told for turn in turns] == ["Indeed."] * 12
    with pytest.raises(InputError):
        made.open_model()


def test_a_vocabulary_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a vocabulary has no file, one that was sent is counted with."""
    try:
        sent = pickle.dumps(portable("cl100k_base"))
    except InputError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "cl100k_base")
    know(pickle.loads(sent))  # noqa: S301  we have just written it
    assert tiktoken.get_encoding("cl100k_base").encode("right or wrong") == [1315, 477, 5076]


@pytest.mark.parametrize(
    "playing", [[8, 0], [6, 6, 0], [32, 0, 0], [1, 1, 0], [2, 0], [3, 1]], ids=str
)
def test_sessions_move_until_shares_are_about_even(playing: list[int]) -> None:
    """Whoever joins late gets sessions, moving comes to an end, and then shares are about even."""
    total = sum(playing)
    for _ in range(total):
        if is_overloaded(max(playing), min(playing)):
            playing[playing.index(max(playing))] -= 1
            playing[playing.index(min(playing))] += 1
    assert not is_overloaded(max(playing), min(playing))
    assert sum(playing) == total
    assert min(playing) > 0 or total < len(playing)


def test_machines_are_named_in_words() -> None:
    """What a cluster consists of is said in a few words, one or many."""
    assert str(ClusterResources(frozenset("a"), 1, 0)) == "1 CPU on 1 machine, 0 of them free"
    assert str(ClusterResources(frozenset("ab"), 8, 3)) == "8 CPUs on 2 machines, 3 of them free"


async def test_a_worker_without_the_key_says_so() -> None:
    """A worker that cannot open a model hands over why."""
    made = one_of(model={"name": "tiny", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO"})
    refused = await Worker().open(WorkerSetup({"key": made.model_factory(1.0)}, {}))
    assert "variable NO" in str(refused)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is missing, the engine says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs the extra \[ray\]: pip install 'icl-loop\[ray\]'"):
        on_ray()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: .*refused"),
        ("ray://127.0.0.1:10001", "use HOST:PORT or auto"),
        ("somewhere", "use HOST:PORT or auto"),
        ("127.0.0.1:99999", "no Ray cluster at 127.0.0.1:99999"),
    ],
)
def test_an_address_without_a_cluster_is_refused(address: str, said: str) -> None:
    """Where no cluster can be, that is said at once."""
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    with pytest.raises(InputError, match=said), cluster(address):
        pass


@pytest.mark.parametrize("option", [("--ray-address", "auto"), ("--ray-wait", "5")])
def test_what_is_said_of_a_cluster_goes_with_the_engine(
    tmp_path: Path, icl_loop: Command, option: tuple[str, str]
) -> None:
    """An address or a wait without the engine that has one is refused with exit code 2."""
    file = tmp_path / "small.toml"
    file.write_text('name = "small"\n')
    done = icl_loop("run", file, *option)
    assert done.returncode == 2
    assert f"{option[0]} goes with --engine ray" in done.stderr
