"""Forms of feedback: repeated answers, reasons, rewards and verdicts told together."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment, play_on, played
from icl_loop.analysis import frame
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Reply, user
from icl_loop.core.records import Feedback, Measurements, Turn, Verdicts
from icl_loop.core.tokens import VOCABULARIES, token_counter
from icl_loop.experiment import Donor, Session
from icl_loop.models import ReplayModel, ScriptedModel
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run
from icl_loop.tasks import prompts as prompt_files
from icl_loop.tasks.counterfactuals import counterfactual
from icl_loop.tasks.feedback import FeedbackPolicy
from icl_loop.tasks.prompts import Form, ParsedFeedback, open_prompt_set, shipped
from icl_loop.transcripts import read
from icl_loop.transcripts.header import DonorIdentity

FORMS: tuple[Form, ...] = get_args(Form)
EACH_FORM = pytest.mark.parametrize("form", FORMS)
EACH_SET = pytest.mark.parametrize("prompts", shipped())
LABELS = tuple("0123456789")
WORDED: list[dict[str, Any]] = [
    *({"form": form} for form in FORMS if form != "plain"),
    {"every": 4},
    {"form": "reason", "every": 4},
    {"form": "echo", "every": 3, "delay": 2},
]
"""Settings of forms other than plain verdicts told at once."""
UNDELAYED = [changes for changes in WORDED if "delay" not in changes]
KINDS = [("correctness", changes) for changes in WORDED] + [("label", each) for each in UNDELAYED]
EACH_KIND = pytest.mark.parametrize(("kind", "changes"), KINDS)
ANIMALS = [("a", "cat"), ("b", "dog")]
NAMES = st.sampled_from([*LABELS, "{answer}", "is correct.", "a. The label is b", "Evidence: 1"])


def one(turns: int = 12, dataset: str = "iris", **changes: Any) -> Session:  # noqa: ANN401  any setting
    """Return a session on a small table."""
    task = {"dataset": dataset}
    (chosen,) = experiment(turns=turns, streams=1, task=task, **changes).sessions()
    return chosen


def heard(session: Session, turn: Turn) -> Sequence[ParsedFeedback]:
    """Return what the model was told after a turn."""
    parsed = session.task.prompts.parse_feedback(turn.feedback.told, session.task.labels)
    assert parsed
    return parsed


# ---- words ------------------------------------------------------------------------------------


@EACH_SET
@given(
    form=st.sampled_from(FORMS),
    lines=st.lists(
        st.tuples(st.sampled_from([True, False, None]), NAMES, NAMES, NAMES), min_size=1, max_size=5
    ),
    reveals=st.booleans(),
)
def test_every_form_is_parsed(
    prompts: str, form: Form, lines: list[tuple[bool | None, str, str, str]], *, reveals: bool
) -> None:
    """Feedback in any form, alone or in lines about several answers, gives back what it was told."""
    words = open_prompt_set(prompts)
    told = [
        ParsedFeedback(
            correct,
            label if reveals and correct is not None else None,
            len(lines) - 1 - place,
            answer if form == "echo" else None,
            reason if form == "reason" else None,
        )
        for place, (correct, label, answer, reason) in enumerate(lines)
    ]
    text = "\n".join(words.word(each, form, batched=len(told) > 1) for each in told)
    names = {name for line in lines for name in line[1:3]}
    assert words.parse_feedback(text, tuple(names)) == tuple(told)


@EACH_SET
@EACH_FORM
def test_the_verdicts_of_a_form_have_equal_length(prompts: str, form: Form) -> None:
    """In every form, correct, incorrect and recorded take equally many tokens."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TIKTOKEN_CACHE_DIR names no folder with the vocabularies")
    words = open_prompt_set(prompts)
    for name, ago in product(VOCABULARIES, (0, 3)):
        texts = [
            words.word(ParsedFeedback(each, None, ago, "7", "size"), form, batched=True)
            for each in (True, False, None)
        ]
        assert len(set(map(token_counter(name).count, texts))) == 1


@EACH_SET
@pytest.mark.parametrize("changes", UNDELAYED)
def test_the_announcement_of_none_has_the_form(prompts: str, changes: dict[str, Any]) -> None:
    """The instructions of `none` and `correctness` differ by the announcement of the kind alone."""
    task = {"dataset": "iris", "prompts": prompts}
    made = [
        experiment(streams=1, task=task, feedback={"kind": kind, **changes})
        for kind in ("none", "correctness")
    ]
    none, correctness = (next(each.sessions()).task.system.text for each in made)
    announced = open_prompt_set(prompts).announced
    assert correctness.replace(announced.correctness, announced.none) == none


def test_a_prompt_set_without_forms(tmp_path: Path) -> None:
    """A prompt set that lacks the words of a form is one error before the first request."""
    path = tmp_path / "mine.toml"
    (plain,) = (Path(each) / "plain.toml" for each in prompt_files.__path__)
    text = "\n".join(_without_forms(plain.read_text(encoding="utf-8")))
    path.write_text(text, encoding="utf-8")
    for key, value in (("form", "reward"), ("every", 5)):
        made = experiment(task={"prompts": str(path)}, feedback={key: value})
        with pytest.raises(
            InputError, match=rf"arm 'feedback', feedback\.{key} = .*no table \[forms"
        ):
            made.check()
    experiment(task={"prompts": str(path)}).check()


def _without_forms(text: str) -> Sequence[str]:
    """Return the lines of a prompt set without the tables of forms."""
    kept, skipping = [], False
    for line in text.splitlines():
        if line.startswith("["):
            skipping = line.startswith("[forms")
        if not skipping:
            kept.append(line)
    return kept


# ---- sessions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes"),
    [*KINDS, *((kind, each) for kind in ("flipped", "none") for each in UNDELAYED)],
)
async def test_verdicts_are_told_in_time(kind: str, changes: dict[str, Any]) -> None:
    """Each verdict is told once: after the last answer of its batch and the delay, not before."""
    session = one(14, feedback={"kind": kind, **changes})
    turns = await played(session)
    timing = session.task.feedback
    told: dict[int, tuple[int, ParsedFeedback]] = {}
    for turn in turns:
        due = timing.judged_after(turn.index)
        lines = heard(session, turn)
        assert [turn.index - each.ago for each in lines] == (list(due) or [turn.index])
        if not due:
            assert [each.correct for each in lines] == [None]
        for index, each in zip(due, lines, strict=False):
            assert index not in told
            told[index] = turn.index, each
    every, delay = changes.get("every", 1), changes.get("delay", 0)
    for index, (after, each) in told.items():
        assert after == index // every * every + every - 1 + delay == timing.told_after(index)
        right = turns[index].feedback.correct
        expected = None if kind == "none" else right != (kind == "flipped")
        assert each.correct is expected
        assert each.label == (turns[index].label if kind == "label" else None)
        assert each.answer in (None, turns[index].answer)
    assert set(told) == {index for index in range(14) if timing.told_after(index) < 14}


@given(every=st.integers(1, 9), delay=st.integers(0, 9), turn=st.integers(0, 200))
def test_timing(every: int, delay: int, turn: int) -> None:
    """A turn is judged after the turn that says so, and after no other."""
    timing = FeedbackPolicy(every=every, delay=delay)
    after = timing.told_after(turn)
    assert after >= turn + delay
    judging = [
        each for each in range(turn + every + delay + 1) if turn in timing.judged_after(each)
    ]
    assert judging == [after]


@pytest.mark.parametrize("changes", WORDED)
async def test_forms_resume_and_replay(changes: dict[str, Any]) -> None:
    """A session with any form of feedback, cut at any turn and resumed, is the uninterrupted one."""
    session = one(8, feedback=changes)
    whole = await played(session)
    assert await played(session, ReplayModel(whole)) == whole
    for cut in range(len(whole)):
        rest = [event async for event in play_on(session, None, whole[:cut])]
        assert [_timeless(turn) for turn in rest] == [_timeless(turn) for turn in whole[cut:]]


def _timeless(event: Any) -> Any:  # noqa: ANN401  a turn
    return replace(event, reply=replace(event.reply, latency_s=None, at=None))


@pytest.mark.parametrize("changes", WORDED)
async def test_learners_learn_from_every_form(changes: dict[str, Any]) -> None:
    """The nearest neighbour learns renamed classes from verdicts in any form, and nothing from none."""
    late = {}
    for kind in ("correctness", "none"):
        feedback = {**changes, "kind": kind, "delay": changes.get("delay", 0) * (kind != "none")}
        task = {"dataset": "iris", "labels": "abstract"}
        (session,) = experiment(turns=60, streams=1, task=task, feedback=feedback).sessions()
        late[kind] = sum(turn.feedback.correct for turn in (await played(session))[30:])
    assert late["correctness"] >= 20
    assert late["none"] <= 15


@EACH_KIND
async def test_yoked_forms(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """A yoked session has the announcement, the verdicts and the rhythm of its donor; it replays."""
    arms = [
        {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
        {"name": "feedback", "feedback": {"kind": kind, **changes}},
    ]
    made = experiment(task={"dataset": "iris"}, arms=arms)
    result = await Run(made, tmp_path).play()
    assert result.complete
    saved = {path.stem: read(path) for path in result.paths}
    session = next(made.sessions())
    yoked, donor = saved["yoked-0"], saved["feedback-1"]
    assert yoked.header.system == donor.header.system
    for own, other in zip(yoked.turns, donor.turns, strict=True):
        pairs = list(zip(heard(session, own), heard(session, other), strict=True))
        assert all((each.correct, each.ago) == (its.correct, its.ago) for each, its in pairs)
        for each, _ in pairs:
            answer = yoked.turns[own.index - each.ago].answer
            assert each.answer in (None, answer)
            assert each.label is None or (each.label == answer) == each.correct
    assert await verify(yoked) == len(yoked.turns)


@given(
    changes=st.sampled_from(WORDED),
    answers=st.lists(st.sampled_from(["setosa", "versicolor", None]), min_size=12, max_size=12),
)
def test_yoked_forms_say_nothing_about_the_classes(
    changes: dict[str, Any], answers: list[str | None]
) -> None:
    """What a yoked session is told does not depend on the classes of its samples."""
    arms = [
        {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
        {"name": "feedback", "feedback": changes},
    ]
    yoked, feedback, *_ = experiment(task={"dataset": "iris"}, arms=arms).sessions()
    told = tuple(_scored(feedback, answers))
    identity = DonorIdentity(arm="feedback", stream=1, id="", told_sha256="")
    session = replace(yoked, donor=Donor(identity, told))
    samples = [replace(each, label="setosa") for each in session.inputs.samples]
    other = replace(session.task, samples=samples)
    assert _scored(session, answers) == _scored(session, answers, other)


def _scored(session: Session, answers: Sequence[str | None], task: Any = None) -> list[str]:  # noqa: ANN401
    """Return what a session is told about these answers."""
    task, turns = task or session.task, list[Turn]()
    for index, answer in enumerate(answers):
        feedback = task.score(index, answer, turns)
        turns.append(_turn(index, answer, feedback))
    return [turn.feedback.told for turn in turns]


def _turn(index: int, answer: str | None, feedback: Feedback) -> Turn:
    return Turn(
        kept=(), request="", reply=Reply(""), index=index, sample="", label="",
        question=user(""), answer=answer, outcome="ok", feedback=feedback,
    )  # fmt: skip


# ---- reasons ----------------------------------------------------------------------------------


async def test_reasons_name_evidence_in_the_sample() -> None:
    """The reason of a verdict is the name of a column of the sample; it depends on the answer."""
    answers = ["Answer: setosa", "Answer: virginica"] * 10
    session = one(20, feedback={"form": "reason"})
    turns = await played(session, ScriptedModel(answers))
    content = session.task.samples[0].content
    assert isinstance(content, Measurements)
    given = {each.reason for turn in turns for each in heard(session, turn)}
    assert given <= set(content.names)
    assert len(given) > 1


def test_reasons_follow_the_distance_to_the_means(tmp_path: Path) -> None:
    """What speaks for a class is the column or word in which the sample is like it, and no other."""
    table, texts = tmp_path / "table.csv", tmp_path / "texts.csv"
    rows = [f"{kind},{size},{i % 2}\n" for i in range(8) for kind, size in (("a", 0), ("b", 9))]
    table.write_text("label,size,noise\n" + "".join(rows))
    lines = [f"{kind},{word} {i} it is\n" for i in range(8) for kind, word in ANIMALS]
    texts.write_text("label,text\n" + "".join(lines))
    for path, evidence in ((table, {"a": "size", "b": "size"}), (texts, dict(ANIMALS))):
        task = one(6, f"csv:{path}", feedback={"form": "reason"}).task
        for sample, reasons in zip(task.samples, task.reasons, strict=True):
            other = "b" if sample.label == "a" else "a"
            assert reasons.given(sample.label, correct=True) == evidence[sample.label]
            assert reasons.given(other, correct=False) == evidence[sample.label]


async def test_reasons_from_a_column(tmp_path: Path) -> None:
    """A column of reasons is no part of the samples; `none` and yoked draw from it blindly."""
    path = tmp_path / "texts.csv"
    lines = [
        f'{kind},{word} {i},"Because  of {i}.\n"\n' for i in range(9) for kind, word in ANIMALS
    ]
    path.write_text("label,text,why\n" + "".join(lines))
    dataset = f"csv:{path}?reason=why"
    session = one(10, dataset, feedback={"form": "reason"})
    assert session.dataset.sha256 != one(10, f"csv:{path}?text=text").dataset.sha256
    for turn in await played(session):
        number = session.task.samples[turn.index].content.split()[1]  # type: ignore[union-attr]
        (told,) = heard(session, turn)
        assert told.reason == f"Because of {number}."
    neutral = one(10, dataset, feedback={"form": "reason", "kind": "none"})
    drawn = [each.reason for turn in await played(neutral) for each in heard(neutral, turn)]
    own = [session.task.reasons[index].given("a", correct=True) for index in range(10)]
    assert set(drawn) <= set(own)
    assert drawn != own


def test_images_have_no_reasons() -> None:
    """Reasons for images are refused; the error names arm, key and value."""
    made = experiment(feedback={"form": "reason"})
    with pytest.raises(InputError, match=r"arm 'feedback', task\.dataset = 'digits': .*'reason'"):
        made.check()


# ---- what is done with them -------------------------------------------------------------------


@EACH_KIND
async def test_counterfactual_forms(kind: str, changes: dict[str, Any]) -> None:
    """Other verdicts keep the answers, reasons and rhythm; flipped verdicts are the opposite."""
    session = one(24, feedback={"kind": kind, **changes})
    task, turns = session.task, await played(session)

    def read_under(verdicts: Verdicts) -> list[ParsedFeedback]:
        texts = counterfactual(verdicts, turns[2:], task, turns)
        return [each for text in texts for each in task.prompts.parse_feedback(text, task.labels)]

    told, flipped, shuffled, removed = map(read_under, get_args(Verdicts))
    for before, after in zip(told, flipped, strict=True):
        assert after.correct is (None if before.correct is None else not before.correct)
        assert (after.ago, after.answer, after.reason) == (before.ago, before.answer, before.reason)
    for before, after in zip(told, removed, strict=True):
        assert (after.correct, after.label) == (None, None)
        assert (after.answer, after.reason) == (before.answer, before.reason)
    count = [sorted(str(each.correct) for each in part) for part in (told, shuffled)]
    assert count[0] == count[1]
    assert [each.answer for each in told] == [each.answer for each in shuffled]


async def test_policies_know_what_was_told_in_time() -> None:
    """A policy that chooses by verdicts shows no turn whose verdict is still to come."""
    session = one(20, feedback={"every": 5}, context={"policy": "only_correct"})
    for turn in await played(session):
        for first, last in turn.kept:
            assert last < turn.index // 5 * 5
            assert first >= 0


async def test_the_analysis_reads_batches(tmp_path: Path) -> None:
    """In the frame, each answer has the verdict that was told about it, and when."""
    made = experiment(task={"dataset": "iris"}, feedback={"every": 5, "form": "echo"})
    result = await Run(made, tmp_path).play()
    turns = frame(result.paths).sort("path", "turn")
    for row in turns.iter_rows(named=True):
        is_told = row["turn"] < 10
        assert row["told_right"] is (row["correct"] if is_told else None)
        assert row["told_after"] == (row["turn"] // 5 * 5 + 4 if is_told else None)


def test_settings_that_do_not_go_together() -> None:
    """Demonstrations have no form, and a yoked arm takes its form from its donor."""
    for changes in ({"form": "echo"}, {"every": 2}):
        with pytest.raises(InputError, match=rf"{next(iter(changes))} does not apply to the kind"):
            experiment(feedback={"kind": "demonstrations", **changes})
        yoked = {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback", **changes}}
        with pytest.raises(InputError, match="a yoked arm takes it from its donor"):
            experiment(arms=[yoked, {"name": "feedback"}])
    with pytest.raises(InputError, match=r"feedback\.form = 'ecko'.*'echo'"):
        experiment(feedback={"form": "ecko"})
