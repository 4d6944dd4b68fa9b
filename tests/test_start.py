"""The start of a session: right answers shown before the first turn, and labels that are not listed."""

import base64
import gzip
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from builders import experiment, play_on
from contracts import check_policy
from icl_loop.analysis import frame
from icl_loop.analysis.baseline import baseline, request_of
from icl_loop.context.history import History
from icl_loop.context.policy_parser import context_policy
from icl_loop.context.window import Window
from icl_loop.core.errors import DatasetError, InputError
from icl_loop.core.messages import Message, Reply, fingerprint
from icl_loop.core.records import Turn
from icl_loop.experiment import Session
from icl_loop.export import export
from icl_loop.export.importing import import_files
from icl_loop.loop import ask_probes
from icl_loop.models import CallableModel
from icl_loop.models.conversation_parser import UNKNOWN
from icl_loop.planning import plan
from icl_loop.replay.branching import branches
from icl_loop.replay.rescoring import rescore
from icl_loop.replay.verification import examine
from icl_loop.replay.what_if import shown_under
from icl_loop.report.session_browser import NamedSession, browser_data
from icl_loop.runner.run import Run
from icl_loop.tasks.answers import AnswerRule, ParsedAnswer, parse_answer
from icl_loop.tasks.datasets import open_dataset
from icl_loop.tasks.encodings import ENCODINGS
from icl_loop.tasks.prompts import ParsedSystem, open_prompt_set, shipped
from icl_loop.terminal.session_view import Display, SessionView
from icl_loop.transcripts import read


class Wrong:
    """Answers no label, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Sequence[Message]] = []

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return an answer that is never right."""
        self.requests.append(list(messages))
        return Reply("Answer: none of them")


def exemplified(count: int = 2, policy: str = "block", **changes: Any) -> Session:  # noqa: ANN401  any setting
    """Return a session that shows exemplars first."""
    context = {"exemplars": count, "policy": policy}
    return next(experiment(streams=1, context=context, **changes).sessions())


async def test_every_request_begins_with_the_exemplars() -> None:
    """Turns, probes and notes show k right answers of each class first, whatever the policy."""
    for policy in ("stateless", "last(2)", "redrawn(0.5)", "notes(5, 60)"):
        chosen, model = exemplified(2, policy, probes={"at": [0, 6], "count": 3}), Wrong()
        history = History.for_task(chosen.task, chosen.window)
        async for _ in ask_probes(chosen.task, model, chosen.policy, history):
            pass
        async for _ in play_on(chosen, model):
            pass
        exemplars = chosen.task.exemplars
        shown = [message for each in exemplars for message in each.messages]
        assert len(model.requests) >= 3 + 12
        assert all(request[1:61] == shown for request in model.requests)
        labels = [each.label for each in exemplars]
        assert sorted(labels) == sorted(2 * chosen.task.labels)
        assert labels != sorted(labels)
        samples = {sample.id: sample.label for sample in open_dataset("digits")}
        for each in exemplars:
            assert samples[each.sample] == each.label
            assert each.reply == f"Answer: {each.label}"
            assert each.told == chosen.task.prompts.told.correct


async def test_exemplars_are_never_counted(tmp_path: Path) -> None:
    """Exemplars are neither turns nor probes: a model that is always wrong has an accuracy of 0."""
    made = experiment(
        context={"exemplars": 3},
        turns=30,
        probes={"at": [0, 30], "count": 20},
        model={"name": "wrong"},
    )
    model = Wrong()
    result = await Run(made, tmp_path, open_model=lambda _: model).play()
    turns = frame(result.paths)
    assert turns.height == 2 * 30
    assert turns["correct"].sum() == 0
    assert turns["turn"].max() == 29
    for path in result.paths:
        saved = read(path)
        shown = {each.sample for each in saved.header.exemplars}
        assert len(shown) == 30
        assert shown.isdisjoint(turn.sample for turn in saved.turns)
        assert shown.isdisjoint(probe.sample for probe in saved.probes)


async def test_arms_share_exemplars() -> None:
    """Arms of one stream show the same exemplars whatever their feedback; another stream shows others."""
    arms: list[dict[str, Any]] = [
        {"name": kind, "feedback": {"kind": kind}} for kind in ("none", "label", "flipped")
    ]
    arms.append({"name": "probed", "probes": {"at": [3], "count": 4}})
    made = list(experiment(arms=arms, context={"exemplars": 1}).sessions())
    first, second = [
        {each.task.exemplars for each in made if each.stream == stream} for stream in (0, 1)
    ]
    assert len(first) == len(second) == 1
    assert first != second


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("encoding", ["sparse", "png"])
async def test_policies_leave_room_for_exemplars(encoding: str, *, merged: bool) -> None:
    """The tokens of exemplars count towards the window and are part of the shared prefix."""
    tokens = 45_000 if encoding == "png" else 3_000
    for policy in ("within", "block", "nearest(3)", "only_correct | parallel(2, 0.9)"):
        chosen = exemplified(
            1, policy, turns=30, task={"encoding": encoding}, feedback={"kind": "label"}
        )
        window = Window(tokens=tokens, reserve=100, merged=merged)
        history = History.for_task(chosen.task, window)
        turns = [event async for event in play_on(replace_window(chosen, window), Wrong())]
        shown = check_policy(context_policy(policy), chosen.task, turns, window)
        assert len(shown) == 30
        assert history.tokens.system > 10 * history.tokens.of_message(chosen.task.question(0))


def replace_window(chosen: Session, window: Window) -> Session:
    """Return a session with another window."""
    vars(chosen)["window"] = window  # a cached property
    return chosen


async def test_sessions_with_exemplars_are_saved_whole(tmp_path: Path) -> None:
    """They replay, resume at any turn, and give what-if, baseline and exports the request as sent."""
    arms = [
        {"name": "text"},
        {"name": "images", "task": {"encoding": "png"}, "model": {"name": "simulated/chance"}},
        {"name": "notes", "context": {"policy": "notes(4, 60)"}},
    ]
    made = experiment(arms=arms, streams=1, context={"exemplars": 1, "policy": "last(3)"})
    paths = (await Run(made, tmp_path / "whole").play()).paths
    for path in paths:
        saved, whole = read(path), path.read_bytes().splitlines(keepends=True)
        assert (await examine(path)).difference is None
        assert [fingerprint(request_of(saved, turn)) for turn in saved.turns] == [
            turn.request for turn in saved.turns
        ]
        if not saved.notes:
            assert shown_under(saved, context_policy("last(3)")).turns == saved.turns
        (tmp_path / "cut" / "small").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cut" / "small" / path.name).write_bytes(b"".join(whole[: len(whole) // 2]))
    assert await baseline(read(paths[0])) == [
        turn.feedback.correct for turn in read(paths[0]).turns
    ]
    again = await Run(made, tmp_path / "cut").play()
    for path, other in zip(paths, again.paths, strict=True):
        for turn, same in zip(read(path).turns, read(other).turns, strict=True):
            assert turn.request == same.request
            assert turn.counted == same.counted
    export([paths[0].parent], "openai-jsonl", tmp_path / "x.openai.jsonl")
    for line in (tmp_path / "x.openai.jsonl").read_text().splitlines():
        chat = json.loads(line)
        replies = [each for each in chat["messages"] if each["role"] == "assistant"]
        assert len(replies) == len(chat["targets"])
        assert chat["targets"][:10] == [None] * 10
        assert None not in chat["targets"][10:14]
    for merge in (False, True):
        chats = tmp_path / f"{merge}.openai.jsonl"
        export([paths[0].parent], "openai-jsonl", chats, merge=merge)
        for each in import_files([chats], tmp_path, name=str(merge)):
            back, saved = read(each.path), read(tmp_path / "whole" / "small" / each.path.name)
            assert back.header.exemplars == saved.header.exemplars
            assert [turn.question for turn in back.turns] == [turn.question for turn in saved.turns]


async def test_exemplars_can_be_read(tmp_path: Path) -> None:
    """The report and the viewer show question, reply and feedback of every exemplar."""
    arms = [{"name": "grid"}, {"name": "png", "task": {"encoding": "png"}}]
    made = experiment(
        streams=1, turns=3, arms=arms, context={"exemplars": 1}, model={"name": "simulated/chance"}
    )
    for path in (await Run(made, tmp_path).play()).paths:
        saved, shown = read(path), read(path).header.exemplars
        data = browser_data(0, [NamedSession("small", saved, {})])
        session, pool = (
            json.loads(gzip.decompress(base64.b64decode(data.blobs[name])))
            for name in ("session-0-0", "pool-0")
        )
        [exemplars] = session["exemplars"]
        for each, line in zip(exemplars, shown, strict=True):
            assert (each["sample"], each["label"]) == (line.sample, line.label)
            texts = [pool["texts"][each[name]] for name in ("question", "reply", "told")]
            assert texts == [line.question, line.reply, line.told]
            assert pool["images"][each["image"]][:2] == [20, 20]
        view = SessionView(saved, colour=False)
        assert "10 exemplars before them" in view.window(1)
        brief = [line.plain for line in view.exemplars(1, Display())]
        for text, line in zip(brief, shown, strict=True):
            assert f"{line.reply} / [a picture]" in text
        whole = [line.plain for line in view.exemplars(1, Display(reply=True))]
        for text, line in zip(whole, shown, strict=True):
            assert text.splitlines()[-2:] == [line.reply, line.told]
            assert len(text.splitlines()) == 1 + 10 + 2
        as_sent = [line.plain for line in view.exemplars(1, Display(reply=True, text=True))]
        for text, line in zip(as_sent, shown, strict=True):
            assert line.question in text
        printed = StringIO()
        Console(width=100, file=printed).print(view.turn(0), view.turn(1))
        assert printed.getvalue().count("exemplar 1 of 10") == 1


async def test_a_longer_branch_keeps_the_exemplars(tmp_path: Path) -> None:
    """A branch shows the exemplars of its parent, even if it plays more turns."""
    made = experiment(streams=1, context={"exemplars": 1})
    paths = (await Run(made, tmp_path).play()).paths
    longer = branches(paths, 5, turns=20)
    (session,) = longer.sessions()
    assert session.header().exemplars == read(paths[0]).header.exemplars
    result = await Run(longer, tmp_path).play()
    assert (await examine(result.paths[0])).difference is None


async def test_exemplars_are_planned() -> None:
    """A plan counts the tokens of exemplars, and the reference learners learn from them."""
    made = experiment(
        turns=20, arms=[{"name": "few", "context": {"exemplars": 5}}, {"name": "none"}],
        feedback={"kind": "none"}, streams=2,
    )  # fmt: skip
    few, none = (await plan(made, advised=False)).arms
    assert few.cost.prompt > none.cost.prompt + 40 * 50 * 100
    assert (few.curves[0].late or 0) > (none.curves[0].late or 0) + 0.3


def test_too_few_samples_or_tokens_for_exemplars() -> None:
    """A data set or a window that is too small for the exemplars is an error before the first turn."""
    with pytest.raises(
        DatasetError, match=r"exemplars of class .* more samples than stream 0 leaves"
    ):
        exemplified(500).header()
    with pytest.raises(DatasetError, match="exemplars of each class and 40 probes"):
        exemplified(45, turns=2, task={"dataset": "iris"}, probes={"at": [1], "count": 40}).header()
    with pytest.raises(InputError, match="has no room for one question and the exemplars"):
        experiment(context={"exemplars": 50}).check()


def test_sessions_without_exemplars_record_none() -> None:
    """A session without exemplars has the header of earlier versions."""
    header = exemplified(0).header()
    assert "exemplars" not in header.fields()
    assert "exemplars" not in header.settings["context"]


# ---- labels that are not announced -------------------------------------------------------

HIDDEN = {"announce_labels": False}
OPEN = AnswerRule(open=True)


@pytest.mark.parametrize("name", shipped())
def test_hidden_labels_are_not_listed(name: str) -> None:
    """No encoding's instructions name a label that is not announced, and they can be parsed."""
    prompts = open_prompt_set(name)
    for encoding in ENCODINGS:
        text = prompts.system_text((), encoding, 20, "label")
        assert prompts.unlisted in text
        assert prompts.parse_system(text, encoding) == ParsedSystem((), encoding)


@given(st.from_regex(r"[a-z][a-z -]{0,20}[a-z]", fullmatch=True))
def test_any_final_line_is_an_answer_to_hidden_labels(word: str) -> None:
    """A final line that names a label is this label; one that names none is an answer itself."""
    labels = ("Zinnia", "Yarrow")
    for label in labels:
        for text in (
            f"Answer: {label}",
            f"I think\n**Answer: {label.upper()}.**",
            f"{word}\nanswer: {label}",
        ):
            assert parse_answer(text, labels, rule=OPEN) == ParsedAnswer(label, "ok")
    parsed = parse_answer(f"It is no Zinnia.\nAnswer: {word.title()}.", labels, rule=OPEN)
    assert parsed == ParsedAnswer(word, "ok") or parsed.answer in labels
    for text in ("", "Answer: <label>", "I do not know", f"Answer: {'x' * 101}"):
        assert parse_answer(text, labels, rule=OPEN).answer is None


async def test_an_answer_outside_the_set_is_an_answer(tmp_path: Path) -> None:
    """An answer outside a hidden set is wrong, is told to be, and replays; an announced set has none."""
    model = CallableModel(lambda _: "Answer: Zebra")
    for task, expected in ((HIDDEN, ("zebra", "ok")), ({}, (None, "out_of_set"))):
        made = experiment(streams=1, task=task, model={"name": "zebra"})
        [path] = (
            await Run(made, tmp_path / str(len(task)), open_model=lambda _: model).play()
        ).paths
        for turn in read(path).turns:
            assert (turn.answer, turn.outcome) == expected
            assert not turn.feedback.correct
            assert turn.feedback.told == "Incorrect."
        assert (await examine(path)).difference is None
        again = rescore(path, ["answers.rule=strict"])
        assert (await examine(again.path)).difference is None
        assert all(turn.answer == (expected[0] and "zebra") for turn in read(again.path).turns)


@pytest.mark.parametrize("learner", ["nearest", "prototype", "ridge", "propagation"])
@pytest.mark.parametrize("kind", ["label", "correctness"])
async def test_learners_answer_only_labels_they_were_told(kind: str, learner: str) -> None:
    """Without a list of labels, learners answer labels that were told, and still learn."""
    (chosen,) = experiment(
        turns=80,
        streams=1,
        task=HIDDEN,
        context={"exemplars": int(kind == "correctness")},
        feedback={"kind": kind},
        model={"name": f"reference/{learner}"},
    ).sessions()
    assert "0, 1" not in chosen.task.system.text
    told = {each.label for each in chosen.task.exemplars}
    right = []
    async for turn in play_on(chosen):
        assert isinstance(turn, Turn)
        assert turn.answer in (told or {UNKNOWN})
        told |= {turn.label} if kind == "label" else set()
        right.append(turn.feedback.correct)
    assert sum(right[40:]) > 20


@pytest.mark.parametrize(
    "model", [{"name": "simulated/chance"}, {"name": "m", "answer_format": "choice"}]
)
def test_models_that_need_the_labels_are_refused(model: dict[str, str]) -> None:
    """A model or an answer format that chooses among announced labels does not go with hidden ones."""
    with pytest.raises(InputError, match="announce_labels = false"):
        experiment(task=HIDDEN, model=model)
