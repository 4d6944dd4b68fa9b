"""Feedback kinds, label maps, and what later requests show of replies."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import played, session
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Reply, Usage
from icl_loop.experiment import parse
from icl_loop.models import ReplayModel, ScriptedModel
from icl_loop.tasks.answers import parse_answer
from icl_loop.tasks.feedback import FEEDBACK_PHRASES, FeedbackPolicy, Phrase
from icl_loop.tasks.labels import LABEL_MAPS, native
from icl_loop.tasks.prompts import FeedbackPhrases, open_prompt_set, shipped

KEYS = st.tuples(st.integers(0, 2**31), st.integers(0, 10_000))
TURNS = st.integers(0, 10_000)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("correctness", "correct", "incorrect"),
        ("label", "revealed_correct", "revealed_incorrect"),
        ("none", "recorded", "recorded"),
        ("flipped", "incorrect", "correct"),
        ("demonstrations", "correct", "correct"),
    ],
)
@given(turn=TURNS, key=KEYS)
def test_kinds(kind: str, right: Phrase, wrong: Phrase, turn: int, key: tuple[int, int]) -> None:
    """The kind and the score determine the phrase, in every turn of every session."""
    policy = FeedbackPolicy(kind)
    assert policy.phrase(turn, key, correct=True) == right
    assert policy.phrase(turn, key, correct=False) == wrong


@pytest.mark.parametrize("kind", ["correctness", "label", "none"])
@pytest.mark.parametrize("prompts", shipped())
@pytest.mark.parametrize("correct", [True, False])
def test_honest_kinds(kind: str, prompts: str, *, correct: bool) -> None:
    """The wording of an honest kind never contradicts the score or the right label."""
    words = open_prompt_set(prompts)
    phrase = FeedbackPolicy(kind).phrase(0, (0, 0), correct=correct)
    (heard,) = words.parse_feedback(words.tell(phrase, "7"))
    assert heard.correct in {None, correct}
    assert heard.label in {None, "7"}


def test_every_phrase_has_words() -> None:
    """A prompt set words exactly the phrases that feedback chooses among."""
    assert set(get_args(Phrase)) == set(FeedbackPhrases.model_fields)
    assert {each for pair in FEEDBACK_PHRASES.values() for each in pair} <= set(get_args(Phrase))


@pytest.mark.parametrize(
    ("unknown", "near"), [("corectness", "correctness"), ("labels", "label"), ("zzz", "none")]
)
def test_unknown_feedback(unknown: str, near: str) -> None:
    """An unknown kind of feedback is rejected; the error names the nearest kind, or all."""
    with pytest.raises(InputError, match=f"unknown feedback '{unknown}': .*{near}"):
        FeedbackPolicy(unknown)


@given(st.lists(st.text(), unique=True).map(tuple))
def test_native_labels(labels: tuple[str, ...]) -> None:
    """The native map keeps names and order."""
    assert list(native(labels, (0, 0)).items()) == [(label, label) for label in labels]


@pytest.mark.parametrize("kind", LABEL_MAPS)
@given(key=KEYS)
def test_a_label_map_is_a_bijection(kind: str, key: tuple[int, int]) -> None:
    """A label map gives every class a name of its own, the same each time."""
    classes = tuple("0123456789")
    names = LABEL_MAPS[kind](classes, key)
    assert tuple(names) == classes
    assert len(set(names.values())) == len(classes)
    assert LABEL_MAPS[kind](classes, key) == names


# ---- replies in later requests ---------------------------------------------------------------

SHOWN = [
    (Reply("Answer: 3"), "Answer: 3", "Answer: 3"),
    (Reply("Answer: 3\n"), "Answer: 3\n", "Answer: 3\n"),
    (Reply("<think>A loop.</think>\nAnswer: 3"), "Answer: 3", "<think>A loop.</think>\nAnswer: 3"),
    (
        Reply("<|channel|>analysis<|message|>A loop.<|end|><|channel|>final<|message|>Answer: 3"),
        "Answer: 3",
        "<think>\nA loop.\n</think>\n\nAnswer: 3",
    ),
    (
        Reply("Answer: 3<|im_end|>", reasoning_text="A loop."),
        "Answer: 3",
        "<think>\nA loop.\n</think>\n\nAnswer: 3",
    ),
    (
        Reply("", finish="length", reasoning_text="A loop"),
        "(no reply)",
        "<think>\nA loop\n</think>\n\n(no reply)",
    ),
    (Reply("\n", usage=Usage(completion=1)), "(no reply)", "(no reply)"),
    (Reply("", finish="content_filter"), "(no reply)", "(no reply)"),
    (Reply("Answer: 3\n\nCorrect.\n\nImage:\n00\n\nAnswer: 5"), "Answer: 3", "Answer: 3"),
]


@pytest.mark.parametrize(("reply", "without", "with_reasoning"), SHOWN)
async def test_replies_in_later_requests(reply: Reply, without: str, with_reasoning: str) -> None:
    """Later requests show what a reply says in the end, and its reasoning only if it is kept.

    The turn keeps the reply verbatim, and replays.
    """
    for keep, expected in ((False, without), (True, with_reasoning)):
        settings = {"context": {"keep_reasoning": keep, "policy": "all"}}
        (one,) = parse({"name": "x", "turns": 2, "streams": 1, **settings}).sessions()
        turns = await played(one, ScriptedModel([reply, "Answer: 3"]))
        assert turns[0].messages[1].text == expected
        assert turns[0].reply.text == reply.text
        assert turns[0].echo == (None if expected == reply.text else expected)
        assert await played(one, ReplayModel(turns)) == turns


@pytest.mark.parametrize("prompts", shipped())
async def test_no_reply_is_no_answer(prompts: str) -> None:
    """What stands for a missing reply is text, and nothing in it is read as an answer."""
    chosen = session(2, policy="all", prompts=prompts)
    (turn, _) = await played(chosen, ScriptedModel([Reply(""), Reply("")]))
    shown = turn.messages[1].text
    assert shown.strip()
    for labels in (("0", "1"), ("yes", "no"), ("A", "B"), ("reply", "other")):
        assert parse_answer(shown, labels).answer is None


async def test_choices_are_shown_as_answer_lines() -> None:
    """If the endpoint limits replies to the labels, its JSON is shown as the final line it stands for."""
    model = {"name": "m", "base_url": "http://127.0.0.1:9/v1", "answer_format": "choice"}
    turns = await played(session(2, model=model), ScriptedModel(['{"answer": "3"}'] * 2))
    assert [turn.answer for turn in turns] == ["3", "3"]
    assert turns[0].messages[1].text == "Answer: 3"
