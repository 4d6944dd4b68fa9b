"""Feedback rules and label maps."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_loop.core.errors import InputError
from icl_loop.tasks.feedback import (
    FEEDBACK_RULES,
    FeedbackRule,
    Phrase,
    ScoredAnswer,
    feedback_rule,
)
from icl_loop.tasks.labels import LABEL_MAPS, label_map
from icl_loop.tasks.prompts import FeedbackPhrases, open_prompt_set, parser, shipped

JUDGEMENTS = st.builds(ScoredAnswer, turn=st.integers(0, 10_000), correct=st.booleans())
KEYS = st.tuples(st.integers(0, 2**31), st.integers(0, 10_000))
HONEST = ("correctness", "label", "none")
RULES = pytest.mark.parametrize("rule", FEEDBACK_RULES.values(), ids=FEEDBACK_RULES)


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
def test_what_each_kind_tells(kind: str, right: Phrase, wrong: Phrase) -> None:
    """Correctness tells the verdict, label reveals the label besides, none tells neither.

    Flipped tells the opposite; demonstrations call every answer shown a right one.
    """
    rule = feedback_rule(kind)
    assert rule(ScoredAnswer(0, correct=True)) == right
    assert rule(ScoredAnswer(0, correct=False)) == wrong


@RULES
@given(judgement=JUDGEMENTS)
def test_a_rule_chooses_among_the_phrases(rule: FeedbackRule, judgement: ScoredAnswer) -> None:
    """A rule tells one of the named phrases, the same whenever it is asked."""
    assert rule(judgement) in get_args(Phrase)
    assert rule(judgement) == rule(judgement)


@pytest.mark.parametrize("rule", [FEEDBACK_RULES[kind] for kind in HONEST], ids=HONEST)
@pytest.mark.parametrize("prompts", shipped())
@given(judgement=JUDGEMENTS)
def test_honest_words(rule: FeedbackRule, prompts: str, judgement: ScoredAnswer) -> None:
    """The words of every honest rule say nothing, or what was judged; a label said is the right one."""
    words = open_prompt_set(prompts)
    heard = parser(words).parse_feedback(words.tell(rule(judgement), "7"))
    assert heard is not None
    assert heard.correct in {None, judgement.correct}
    assert heard.label in {None, "7"}


def test_every_phrase_has_words() -> None:
    """The phrases that rules choose among are those that a prompt set words."""
    assert set(get_args(Phrase)) == set(FeedbackPhrases.model_fields)


@pytest.mark.parametrize(
    ("unknown", "near"), [("corectness", "correctness"), ("labels", "label"), ("zzz", "none")]
)
def test_unknown_feedback(unknown: str, near: str) -> None:
    """An unknown kind of feedback is refused with the nearest one, or with all."""
    with pytest.raises(InputError, match=f"unknown feedback '{unknown}': .*{near}"):
        feedback_rule(unknown)


@given(st.lists(st.text(), unique=True).map(tuple))
def test_native_labels(labels: tuple[str, ...]) -> None:
    """The native map gives every class its own name, in order."""
    assert list(label_map("native", labels).items()) == [(label, label) for label in labels]


@pytest.mark.parametrize("kind", LABEL_MAPS)
@given(key=KEYS)
def test_a_label_map_is_a_bijection(kind: str, key: tuple[int, int]) -> None:
    """A label map names every class once, and no two alike."""
    classes = tuple("0123456789")
    names = label_map(kind, classes, key)
    assert tuple(names) == classes
    assert len(set(names.values())) == len(classes)
    assert label_map(kind, classes, key) == names


def test_unknown_labels() -> None:
    """An unknown label map is refused with the nearest one."""
    with pytest.raises(InputError, match="unknown labels 'nativ': did you mean 'native'"):
        label_map("nativ", ("0", "1"))
