"""Tests of the Python API: playing functions, saved runs, and wrong input."""

import asyncio
import inspect
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import altair as alt
import nbformat
import numpy as np
import polars as pl
import pytest

import icl_loop as icl
from command_line import Command
from icl_loop.analysis import conclude, probes, sentence, sessions
from icl_loop.context.policy import Function
from icl_loop.context.window import from_spans
from icl_loop.core.errors import SettingsMismatch
from icl_loop.models import CallableModel
from icl_loop.models.callable_model import function_digest
from icl_loop.plots import save
from icl_loop.replay.verification import examine_all
from icl_loop.transcripts import read_header
from icl_loop.transcripts.checksum import without_checksum
from notebook import NOTEBOOK, executed

SMALL: dict[str, Any] = {
    "name": "small",
    "turns": 6,
    "streams": 2,
    "feedback": {"kind": "label"},
    "arms": [{"name": "label"}, {"name": "none", "feedback": {"kind": "none"}}],
    "analysis": {"primary": ("label", "none")},
}
PLAY = partial(icl.run, SMALL)


def parrot(messages: Sequence[icl.Message]) -> str:
    """Answer with the last digit of the last message but one."""
    said = messages[-2].text if len(messages) > 1 else ""
    return f"Answer: {([*filter(str.isdigit, said)] or ['0'])[-1]}"


def answered(run: icl.SavedRun) -> pl.DataFrame:
    """Return the turns of a run without what differs between equal runs."""
    return run.turns.drop("path", "model", "latency_s")


# ---- playing --------------------------------------------------------------------------------


def test_a_run_is_saved_like_any_other(tmp_path: Path) -> None:
    """A run from Python is in OUT/NAME, and is the same when it is loaded from there."""
    run = PLAY(model=parrot, out=tmp_path)
    assert icl.load_run(tmp_path / "small") == icl.load_run(str(tmp_path / "small")) == run
    assert {path.name for path in run.paths} == {
        *("label-0.jsonl", "label-1.jsonl", "none-0.jsonl", "none-1.jsonl")
    }
    assert run.turns.equals(icl.frame([tmp_path / "small"]))
    assert run.turns.height == 24
    assert {read_header(path).settings["model"]["name"] for path in run.paths} == {"parrot"}
    assert set(run.sessions["model"]) == {"parrot"}


class Parrot:
    """Answers like `parrot`, as an object."""

    def __call__(self, messages: Sequence[icl.Message]) -> str:
        """Return the answer."""
        return parrot(messages)


class AwaitableParrot:
    """Answers like `parrot`, as an asynchronous object."""

    async def __call__(self, messages: Sequence[icl.Message]) -> str:
        """Return the answer."""
        await asyncio.sleep(0)
        return parrot(messages)


class ChatParrot:
    """Answers like `parrot`, as a chat model."""

    async def complete(self, messages: Sequence[icl.Message]) -> icl.Reply:
        """Return the answer."""
        return icl.Reply(parrot(messages))


async def parrot_async(messages: Sequence[icl.Message]) -> str:
    """Answer like `parrot`."""
    await asyncio.sleep(0)
    return parrot(messages)


def _last(messages: Sequence[icl.Message], _: int = 0) -> str:
    return parrot(messages)


FORMS: dict[str, Any] = {
    "parrot_async": parrot_async,
    "Parrot": Parrot(),
    "AwaitableParrot": AwaitableParrot(),
    "ChatParrot.complete": ChatParrot(),
    "_last": partial(_last, _=3),
    "<lambda>": lambda messages: parrot_async([*messages]),
    "parrot": CallableModel(parrot),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_a_model(name: str, tmp_path: Path) -> None:
    """Synchronous and asynchronous functions, objects and chat models play alike, under their names."""
    run = PLAY(model=FORMS[name], out=tmp_path / "given")
    assert set(run.sessions["model"]) == {name}
    plain = PLAY(model=parrot, out=tmp_path / "plain")
    assert answered(run).equals(answered(plain))


def test_blocking_functions_play_in_parallel(tmp_path: Path) -> None:
    """A function that blocks is called from all sessions at the same time."""
    all_sessions = threading.Barrier(4, timeout=60)

    def meet(_: Sequence[icl.Message]) -> str:
        all_sessions.wait()
        return "Answer: 0"

    assert PLAY(model=meet, out=tmp_path).turns.height == 24


def test_one_session_at_a_time(tmp_path: Path) -> None:
    """With a concurrency of 1, a function is never called while it is running."""
    running = threading.Lock()

    def alone(messages: Sequence[icl.Message]) -> str:
        assert running.acquire(blocking=False)
        time.sleep(0.001)
        running.release()
        return parrot(messages)

    assert PLAY(model=alone, out=tmp_path, concurrency=1).turns.height == 24


async def test_in_a_running_loop(tmp_path: Path) -> None:
    """`run` works where a loop is running, as in a notebook; `run_async` plays in that loop."""
    loops = []

    async def note(messages: Sequence[icl.Message]) -> str:
        loops.append(asyncio.get_running_loop())
        return parrot(messages)

    blocking = PLAY(model=note, out=tmp_path / "one")
    assert asyncio.get_running_loop() not in loops
    loops.clear()
    awaited = await icl.run_async(SMALL, model=note, out=tmp_path / "other")
    assert set(loops) == {asyncio.get_running_loop()}
    assert answered(blocking).equals(answered(awaited))
    assert blocking.curve().to_dict() == awaited.curve().to_dict()


def test_run_and_run_async_take_the_same_arguments() -> None:
    """The two functions differ only in that one is awaited."""
    assert inspect.signature(icl.run) == inspect.signature(icl.run_async)


@pytest.mark.parametrize("name", icl.__all__)
def test_public_arguments_are_typed(name: str) -> None:
    """Every argument of a public function has a type, and none is `Any`."""
    function = getattr(icl, name)
    if inspect.isfunction(function):
        hints = get_type_hints(function, vars(sys.modules[function.__module__]) | {"Endpoint": Any})
        assert hints.keys() >= inspect.signature(function).parameters.keys()
        assert Any not in hints.values()


# ---- context policies -------------------------------------------------------------------------


def every_third(past: icl.Past) -> Sequence[int]:
    """Show every third turn."""
    return [turn for turn in past.candidates if turn % 3 == 0]


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    """A function chooses the past turns; its run is saved, resumed and verified like any other."""
    run = PLAY(policy=every_third, turns=9, out=tmp_path / "whole")
    for path in run.paths:
        turns = icl.read(path).turns
        assert [from_spans(turn.kept) for turn in turns] == [
            [*range(0, turn.index, 3)] for turn in turns
        ]
    cut = tmp_path / "cut" / "small"
    cut.mkdir(parents=True)
    for path in run.paths:
        lines = path.read_bytes().splitlines(keepends=True)
        (cut / path.name).write_bytes(b"".join(lines[:5]))
    assert answered(PLAY(policy=every_third, turns=9, out=tmp_path / "cut")).equals(answered(run))
    assert all(finding.difference is None for finding in examine_all(run.paths))
    with pytest.raises(SettingsMismatch, match=r"context\.policy"):
        PLAY(policy=lambda past: past.candidates[:1], turns=9, out=tmp_path / "whole")


def test_a_changed_choice_does_not_verify(tmp_path: Path) -> None:
    """A transcript whose shown turns were changed does not verify, though their choice is not saved."""
    path = PLAY(policy=every_third, out=tmp_path).paths[0]
    lines = [without_checksum(line) for line in path.read_bytes().splitlines(keepends=True)]
    (tmp_path / "changed.jsonl").write_bytes(b"".join(lines).replace(b"[[0,0],[3,3]]", b"[[3,3]]"))
    (finding,) = examine_all([tmp_path / "changed.jsonl"])
    assert finding.difference is not None
    assert (finding.difference.turn, finding.difference.field) == (4, "request")


def test_too_many_turns_are_cut_to_fit(tmp_path: Path) -> None:
    """Of more turns than fit the context window, the last ones in the function's order are shown."""
    run = PLAY(
        policy=lambda past: past.candidates[::-1],
        settings={"model.context_window": 1_100, "context.reserve": 10},
        out=tmp_path,
    )
    shown = [from_spans(turn.kept) for turn in icl.read(run.paths[0]).turns]
    assert shown[:2] == [[], [0]]
    assert shown[-1] == [*range(len(shown[-1]))[::-1]]
    assert 0 < len(shown[-1]) < 5


def test_where_policies_can_be_given(tmp_path: Path) -> None:
    """Functions and policies are given to `run`, to one arm, to a sweep, and in chains."""
    table = {key: value for key, value in SMALL.items() if key not in ("arms", "analysis")}
    arms = [{"name": "all"}, {"name": "mine", "context": {"policy": every_third}}]
    forms: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "text": (table, {"policy": "last(2)"}),
        "policy": (table, {"policy": icl.context_policy("last(2)")}),
        "chain": (table, {"policy": icl.context_policy("only_correct") | every_third}),
        "setting": (table, {"settings": {"context": {"policy": every_third}}}),
        "arm": ({**table, "arms": arms}, {}),
        "sweep": ({**table, "sweep": {"context.policy": ["last(2)", every_third]}}, {}),
    }
    found = {
        name: sorted(set(icl.run(given, out=tmp_path / name, **options).sessions["policy"]))
        for name, (given, options) in forms.items()
    }
    own = str(Function("every_third", function_digest(every_third)))
    assert found == {
        "text": ["last(n=2)"],
        "policy": ["last(n=2)"],
        "chain": [f"only_correct | {own}"],
        "setting": [own],
        "arm": ["block", own],
        "sweep": [own, "last(n=2)"],
    }


def _divides_by_zero(_: icl.Past) -> Sequence[int]:
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize("field", ["label", "sample", "feedback"])
def test_policies_do_not_see_labels(field: str, tmp_path: Path) -> None:
    """A policy of one's own can read what was told, but neither labels nor scores."""
    told = list[bool | None]()

    def peeks(past: icl.Past) -> Sequence[int]:
        told.extend(each.correct for each in past.feedback.values())
        replies = [past.history.turns[turn].reply.text for turn in past.candidates]
        assert all(reply.startswith("Answer: ") for reply in replies)
        return [turn for turn in past.candidates if getattr(past.history.turns[turn], field)]

    with pytest.raises(icl.StoppedShort, match=rf"cannot read turn\.{field}"):
        PLAY(policy=peeks, out=tmp_path)
    assert set(told) - {None}


WRONG_POLICIES: dict[str, tuple[Any, str]] = {
    "raises": (_divides_by_zero, "_divides_by_zero raised ZeroDivisionError: by zero"),
    "none": (lambda _: None, "must return indices of turns, but returned None"),
    "texts": (lambda past: map(str, past.candidates), "must return indices of turns"),
    "unknown": (lambda past: [*past.candidates, 99], "returned turn 99, which is not among"),
    "twice": (lambda past: [*past.candidates] * 2, "returned turn 0 more than once"),
}


@pytest.mark.parametrize("case", WRONG_POLICIES)
def test_wrong_policies(case: str, tmp_path: Path) -> None:
    """What is wrong with a policy of one's own is said, with its name, session and turn."""
    policy, message = WRONG_POLICIES[case]
    with pytest.raises(icl.StoppedShort, match=message) as caught:
        PLAY(policy=policy, out=tmp_path)
    assert re.search(r"\(arm 'label', stream 0, turn [01]\)", str(caught.value))
    assert policy.__qualname__ in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError) == (case == "raises")


def test_functions_in_files_are_not_played(tmp_path: Path, icl_loop: Command) -> None:
    """A context policy that is a Python function cannot be played from a file, and it says so."""
    path = PLAY(policy=every_third, out=tmp_path).paths[0]
    branched = icl_loop("branch", path, "--at", 2, "--out", tmp_path / "branches")
    assert branched.returncode == 2
    assert "a Python function can be played from Python only" in branched.stderr


# ---- errors of functions ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("x"), StopIteration("over"), ZeroDivisionError()])
def test_errors_of_a_function(error: Exception, tmp_path: Path) -> None:
    """An error names function, session and turn, has the original as its cause, and loses no turn.

    Once the reason is gone, the same call resumes the run.
    """
    broken = [True]

    def fails(messages: Sequence[icl.Message]) -> str:
        if broken and sum(each.role == "assistant" for each in messages) == 3:
            raise error
        return parrot(messages)

    with pytest.raises(icl.StoppedShort) as caught:
        PLAY(model=fails, out=tmp_path / "cut")
    said = str(caught.value)
    assert f"{fails.__qualname__} raised {type(error).__name__}" in said
    assert "(arm 'label', stream 0, turn 3)" in said
    assert "3 other sessions stopped too" in said
    assert caught.value.__cause__ is error
    assert icl.load_run(tmp_path / "cut").turns.height == 12
    broken.clear()
    whole = PLAY(model=fails, out=tmp_path / "whole")
    assert answered(PLAY(model=fails, out=tmp_path / "cut")).equals(answered(whole))


def test_tracebacks_are_short(tmp_path: Path) -> None:
    """A traceback shows the call of `run` and the function that failed, and nothing between them."""

    def fails(messages: Sequence[icl.Message]) -> str:
        raise KeyError(len(messages))

    def run_async() -> None:
        asyncio.run(icl.run_async(SMALL, model=fails, out=tmp_path))

    for call in (partial(PLAY, model=fails, out=tmp_path), run_async):
        with pytest.raises(icl.StoppedShort) as caught:
            call()
        outer = traceback.extract_tb(caught.value.__traceback__)
        assert sum("icl_loop" in Path(each.filename).parts for each in outer) == 1
        cause = caught.value.__cause__
        assert cause is not None
        assert [each.name for each in traceback.extract_tb(cause.__traceback__)] == ["fails"]
    PLAY(model=parrot, out=tmp_path, name="other")
    with pytest.raises(SettingsMismatch, match=r"choose another name or out$") as changed:
        PLAY(model=fails, out=tmp_path, name="other")
    assert len(traceback.extract_tb(changed.value.__traceback__)) <= 3


def test_unavailable_models_are_asked_again(tmp_path: Path) -> None:
    """A function that raises ModelUnavailable is called again for the same turn."""
    calls: list[int] = []

    def busy(messages: Sequence[icl.Message]) -> str:
        calls.append(len(messages))
        if len(calls) == 3:
            raise icl.ModelUnavailable("busy", retry_after_s=0.01)
        return parrot(messages)

    table = {"name": "busy", "turns": 4, "streams": 1}
    assert icl.run(table, model=busy, out=tmp_path).turns.height == 4
    assert calls == [2, 5, 8, 8, 11]


def _returning(value: object) -> Any:  # noqa: ANN401  a function with a wrong type
    return lambda _: value


def _returning_async(value: object) -> Any:  # noqa: ANN401  as above
    async def model(_: object) -> object:
        return value

    return model


@pytest.mark.parametrize("form", [_returning, _returning_async])
def test_replies_must_be_text(form: Callable[[object], Any], tmp_path: Path) -> None:
    """A function that does not return text is named, with the type that it returned."""
    for value, kind in ((None, "None"), (3, "int"), ({"text": "3"}, "dict")):
        with pytest.raises(icl.StoppedShort, match=rf"must return text, but returned .*{kind} "):
            PLAY(model=form(value), out=tmp_path / kind)


SCRIPT = """
import os, signal, sys, time, icl_loop
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of shells ignore it
def slow(messages):
    os.write(1, b"asked\\n")
    time.sleep(0.05)
    return "Answer: 3"
try:
    icl_loop.run({"name": "small", "turns": 200, "streams": 2}, model=slow, out=sys.argv[1])
except KeyboardInterrupt:
    print("interrupted", icl_loop.load_run(sys.argv[1]).turns.height, flush=True)
"""


def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C saves the turns in flight and raises KeyboardInterrupt."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        lines += process.communicate(timeout=60)[0].splitlines(keepends=True)
    assert process.returncode == 0
    assert len(lines) < 100
    assert lines == [*["asked\n"] * (len(lines) - 1), f"interrupted {len(lines) - 1}\n"]


# ---- changed functions ------------------------------------------------------------------------


def _model(text: str, times: int = 1) -> Callable[[object], str]:
    def answer(_: object) -> str:
        return text * times

    return answer


def test_a_changed_function_is_not_resumed(tmp_path: Path) -> None:
    """A run is resumed by a function with the same code, and refused if the code has changed."""
    before = PLAY(model=_model("Answer: 3"), out=tmp_path)
    assert PLAY(model=_model("Answer: 3"), out=tmp_path) == before
    with pytest.raises(SettingsMismatch, match=r"model\.params\.code"):
        PLAY(model=_model("Answer: 4"), out=tmp_path)
    other = PLAY(model=_model("Answer: 4"), out=tmp_path, name="other")
    assert set(other.turns["answer"]) == {"4"}


PROMPT = "Answer:"


def _uses_the_module(_: object) -> str:
    return f"{PROMPT} {_model('3')(0)}"


def test_digests_of_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest changes with the code, bound values and the module's own strings, not with state."""

    def counting(counts: list[int]) -> Callable[[object], str]:
        calls = 0

        def answer(_: object) -> str:
            nonlocal calls
            calls += 1
            counts.append(calls)
            return "3"

        return answer

    def digest(function: Any) -> str:  # noqa: ANN401  any kind of function
        return function_digest(function)

    model, state = _model("3"), counting([])
    stateful = digest(state)
    state(0)
    assert digest(state) == stateful == digest(counting([1]))
    functions = [model, _model("4"), _model("3", 2), state, _uses_the_module, parrot]
    functions += [partial(_last, _=1), partial(_last, _=2), Parrot()]
    assert len({digest(each) for each in functions}) == len(functions)
    before = digest(_uses_the_module)
    monkeypatch.setitem(globals(), "PROMPT", "Label:")
    assert digest(_uses_the_module) != before


def test_digests_are_the_same_in_every_process() -> None:
    """The digest of a function does not depend on the process."""
    code = (
        "from icl_loop.models.callable_model import function_digest\n"
        "def f(m, *, n=2):\n    return 'a' if m in {'x', 'y', 'z', 'w'} else (lambda: 'b')()\n"
        "print(function_digest(f))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


# ---- what can be given --------------------------------------------------------------------------


def test_experiments_by_name_path_and_table(tmp_path: Path) -> None:
    """A name, a path as text and a dict give the same run; keywords override the file."""
    file = tmp_path / "own.toml"
    file.write_text("name = 'own'\nturns = 99\n[task]\ndataset = 'digits'\n")
    table = {"name": "own", "turns": 99, "task": {"dataset": "digits"}}
    few: dict[str, Any] = {"turns": np.int64(3), "streams": 2}
    forms: list[Any] = [file, str(file), table]
    runs = [icl.run(each, out=tmp_path / str(place), **few) for place, each in enumerate(forms)]
    assert runs[0].turns.height == 6
    assert all(answered(each).equals(answered(runs[0])) for each in runs)
    settings = {"context.reserve": 99, "task": {"encoding": "ascii"}, "seed": None}
    shipped = icl.run(
        "quickstart", model="simulated/chance", settings=settings, name="q", out=tmp_path, **few
    )
    (header, *_) = [read_header(path) for path in shipped.paths if path.name == "feedback-0.jsonl"]
    assert header.settings["model"]["name"] == "simulated/chance"
    assert header.settings["context"]["reserve"] == 99
    assert header.settings["task"]["encoding"] == "ascii"


def test_arms_with_settings_of_their_own(tmp_path: Path) -> None:
    """A warning at the place of the call names the arms that a setting does not change."""
    with pytest.warns(UserWarning, match=r"'none', which sets .*arms\.none\.feedback") as found:
        PLAY(settings={"feedback.kind": "correctness"}, out=tmp_path)
    assert found[0].filename == __file__
    with pytest.raises(icl.InputError, match="every arm sets"):
        icl.run("quickstart", settings={"feedback.kind": "flipped"}, out=tmp_path)


class NeedsAName:
    """A class that someone could pass instead of an instance."""

    def __init__(self, name: str) -> None: ...

    def __call__(self, _: Sequence[icl.Message]) -> str:
        """Answer."""
        return ""


OWN_MODEL = {"name": "own", "arms": [{"name": "a", "model": {"name": "simulated/chance"}}]}
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "experiment": ("quickstrat", {}, "did you mean 'quickstart'"),
    "file": ("no/such.toml", {}, r"no/such\.toml: No such file"),
    "type": (3, {}, "experiment must be .* not a value of type int"),
    "key": ({**SMALL, "turn": 3}, {}, "experiment, turn: .*did you mean 'turns'"),
    "nested": ({**SMALL, "task": {"datset": "x"}}, {}, r"task\.datset.*did you mean 'dataset'"),
    "name": ({"turns": 3}, {}, "experiment, name: this key is missing"),
    "no string": ({**SMALL, 3: 4}, {}, "the key 3 must be a string"),
    "function": ({**SMALL, "model": {"name": parrot}}, {}, "model, name: .*as model="),
    "model": (SMALL, {"model": "simulated/chanse"}, "did you mean 'simulated/chance'"),
    "no model": (SMALL, {"model": 3}, "model must be .*, not a value of type int"),
    "class": (SMALL, {"model": NeedsAName}, "NeedsAName is a class; pass an instance"),
    "policy": (SMALL, {"policy": "lst(3)"}, "did you mean 'last'"),
    "policy class": (SMALL, {"policy": NeedsAName}, "NeedsAName is a class"),
    "array": ({**SMALL, "streams": np.zeros(2)}, {}, "streams = .*must be a whole number"),
    "no argument": (SMALL, {"model": lambda: "3"}, "<lambda>.* must accept one argument"),
    "two": (SMALL, {"model": lambda _a, _b: "3"}, "<lambda>.* must accept one argument"),
    "own model": (OWN_MODEL, {"model": parrot}, "arm 'a'.*model=parrot would replace"),
    "sweep": ({**SMALL, "sweep": {"model.name": ["a", "b"]}}, {"model": parrot}, "would replace"),
    "turns": (SMALL, {"turns": 0}, "turns = 0: must be at least 1"),
    "streams": (SMALL, {"streams": "2"}, "streams = '2': must be a whole number"),
    "setting": (SMALL, {"settings": {"feedback.knd": "label"}}, r"feedback\.knd.*'kind'"),
    "stop early": (
        {**SMALL, "analysis": {}},
        {"stop_early": True},
        "stopping early needs a primary contrast",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str, tmp_path: Path) -> None:
    """Wrong input is an InputError that names it, before anything is asked or written."""
    given, options, message = WRONG[case]
    with pytest.raises(icl.InputError, match=message):
        icl.run(given, out=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


# ---- the example notebook and the guide ---------------------------------------------------------


@pytest.mark.timeout(300)  # a kernel starts slowly on a busy machine
def test_the_notebook() -> None:
    """The example notebook gives the outputs that it holds, and progress while it plays."""
    held, (run, displayed) = nbformat.read(NOTEBOOK, as_version=4), executed()
    assert NOTEBOOK.stat().st_size < 400_000
    for before, after in zip(held.cells, run.cells, strict=True):
        assert before.source == after.source
        assert _shown(before) == _shown(after)
    bars = [html for html in displayed if "<progress" in html]
    assert bars
    assert "2,400 turns" in bars[0]
    assert "/home" not in (text := NOTEBOOK.read_text())
    assert "site-packages" not in text
    kinds = [kind for cell in run.cells for each in _shown(cell) for kind in each]
    assert kinds.count("image/png") == 2
    assert "stderr" not in kinds


def _shown(cell: nbformat.NotebookNode) -> list[dict[str, str]]:
    """Return what a cell displays, without the bytes of images, which depend on fonts."""
    return [
        {kind: "" if kind == "image/png" else text for kind, text in each.data.items()}
        if "data" in each
        else {each.name: each.text}
        for each in cell.get("outputs", ())
    ]


def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of the guide to Python run one after another, and write their plots."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "guide"}
    guide = NOTEBOOK.parents[1] / "docs" / "python.md"
    for example in re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL):
        exec(compile(example, guide.name, "exec"), names)  # noqa: S102  our own examples
    assert names["run"].turns.height == len(names["frame"]) == 5 * 6 * 40
    assert set(names["late"].index) == set(names["run"].turns["arm"])
    assert set(names["policies"].turns["arm"]) == {"all", "own", "last"}
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")
    assert names["table"].columns == ["arm", "quickstart", "parrot"]
    assert names["paired"].height == 5 * 6


def test_paths_may_be_text(saved: icl.SavedRun, tmp_path: Path) -> None:
    """Paths are accepted as text wherever files are read or written."""
    (path, *_) = saved.paths
    assert icl.read(str(path)).turns == icl.read(path).turns
    assert icl.frame(str(path)).equals(icl.frame([str(path)]))
    assert icl.frame(path).equals(icl.frame([path]))
    save(saved.curve(5, baseline=False), str(tmp_path / "curve.svg"))
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")


# ---- saved runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> icl.SavedRun:
    """A run of six streams."""
    return PLAY(streams=6, turns=10, out=tmp_path_factory.mktemp("saved"))


def test_the_verdict(saved: icl.SavedRun) -> None:
    """A verdict is printed as its sentence, and its numbers are those of the conclusion."""
    paths = saved.paths
    expected = conclude(saved.turns, None, sessions(paths), probes(paths), paths)
    verdict, contrast = saved.verdict, expected.primary
    assert str(verdict) == repr(verdict) == verdict.sentence == sentence(expected)
    assert contrast is not None
    assert verdict.arms == ("label", "none")
    assert (verdict.name, verdict.effect) == (expected.verdict, contrast.theta)
    assert (verdict.p, verdict.interval, verdict.streams) == (contrast.p, contrast.interval, 6)
    assert verdict.detectable == contrast.mde
    assert saved.verdicts == (verdict,)


def test_without_a_primary_contrast(tmp_path: Path) -> None:
    """A run without a primary contrast has a verdict that says so, and no numbers."""
    verdict = icl.run({"name": "bare", "turns": 3, "streams": 1}, out=tmp_path).verdict
    assert str(verdict).startswith("No verdict")
    assert (verdict.name, verdict.effect, verdict.p, verdict.streams) == (None, None, None, 0)


def test_several_runs(saved: icl.SavedRun, tmp_path: Path) -> None:
    """Runs loaded together have a verdict each, and their curves in panels."""
    PLAY(model="simulated/chance", name="guess", out=tmp_path)
    both = icl.load_run(saved.paths[0].parent, tmp_path)
    assert both.turns["experiment"].unique(maintain_order=True).to_list() == ["small", "guess"]
    assert [each.conclusion.experiment for each in both.verdicts] == ["small", "guess"]
    assert len(both.curve(5, baseline=False).to_dict()["concat"]) == 2
    with pytest.raises(icl.InputError, match="small, guess"):
        _ = both.verdict


def test_charts_are_displayed_offline(saved: icl.SavedRun) -> None:
    """A curve, and a chart made from it, is displayed as an image; a chosen renderer is used instead."""
    chart = saved.curve(5)
    assert isinstance(chart, alt.LayerChart)
    for shown in (chart, chart.properties(title="Mine")):
        data, size = shown._repr_mimebundle_()
        assert data.keys() == {"image/png"}
        assert data["image/png"].startswith(b"\x89PNG")
        assert len(data["image/png"]) < 100_000
        assert 600 < size["image/png"]["width"] < 1_000
    with alt.renderers.enable("json"):
        assert "application/json" in chart._repr_mimebundle_()[0]


def test_the_report(saved: icl.SavedRun, tmp_path: Path) -> None:
    """The report is written where it is asked for, and a place that cannot be written is named."""
    page = saved.report(str(tmp_path / "out.html"))
    assert page == tmp_path / "out.html"
    assert page.read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(icl.StoppedShort, match=r"none/out\.html cannot be written"):
        saved.report(tmp_path / "none" / "out.html")


def test_how_a_run_is_shown(saved: icl.SavedRun, tmp_path: Path) -> None:
    """A run is shown in one short line, and in notebooks as a table in which text is escaped."""
    assert repr(saved) == "<SavedRun small: 2 arms, 12 sessions, 120 turns>"
    html = saved._repr_html_()
    assert html.count("<tr>") == 3
    assert "reference/nearest" in html
    shown = PLAY(model=lambda _: "3", out=tmp_path)._repr_html_()
    assert "&lt;lambda&gt;" in shown
    assert "<lambda>" not in shown


def test_short_reprs(saved: icl.SavedRun) -> None:
    """What a person meets at the prompt is described in one short line."""
    experiment, path = icl.load("quickstart"), saved.paths[0]
    session = next(experiment.sessions())
    for value in (saved, saved.verdict, experiment, session, icl.read(path)):
        assert "\n" not in repr(value)
        assert len(repr(value).replace(str(path), "")) < 300
    assert repr(experiment) == "<Experiment quickstart: 5 arms, 8 streams, 100 turns>"
    assert repr(icl.read(path)).endswith("label-0.jsonl: 10 turns, complete>")


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    """A folder that does not exist or holds no transcripts is named."""
    for path, message in ((tmp_path / "none", "none does not exist"), (tmp_path, "no transcripts")):
        with pytest.raises(icl.InputError, match=message):
            icl.load_run(path)
