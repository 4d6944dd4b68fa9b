"""Feedback kinds and label maps."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_loop.core.errors import InputError
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
    heard = words.parse_feedback(words.tell(phrase, "7"))
    assert heard is not None
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
