"""Feedback rules: from a judgement to the phrase that is told.

A rule chooses among named phrases; their words are in `wording/`. What is told never reaches
back to the judgement: `Feedback.correct` is fixed before a rule is called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from icl_loop.errors import InputError, nearest

Phrase = Literal["correct", "incorrect", "revealed_correct", "revealed_incorrect", "recorded"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether the answer of a turn was right."""

    turn: int
    correct: bool


FeedbackRule = Callable[[Judgement], Phrase]


def correctness(judgement: Judgement) -> Phrase:
    """Tell whether the answer was right."""
    return "correct" if judgement.correct else "incorrect"


def label(judgement: Judgement) -> Phrase:
    """Tell whether the answer was right, and the right label."""
    return "revealed_correct" if judgement.correct else "revealed_incorrect"


def none(judgement: Judgement) -> Phrase:  # noqa: ARG001  it looks at nothing, which is its point
    """Tell only that the answer was recorded."""
    return "recorded"


FEEDBACK: Mapping[str, FeedbackRule] = {"correctness": correctness, "label": label, "none": none}


def feedback_rule(kind: str) -> FeedbackRule:
    """Return the rule of this kind."""
    try:
        return FEEDBACK[kind]
    except KeyError:
        raise InputError(f"unknown feedback {kind!r}: {nearest(kind, FEEDBACK)}") from None
