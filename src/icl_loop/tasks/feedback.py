"""Feedback rules: from a judgement to the phrase that is told.

A rule chooses among named phrases; their words are in `prompt set/`. What is told never reaches
back to the judgement: `Feedback.correct` is fixed before a rule is called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.records import keyed_index

Phrase = Literal[
    "correct",
    "incorrect",
    "revealed_correct",
    "revealed_incorrect",
    "recorded",
    "earlier_correct",
    "earlier_incorrect",
]
Only = Literal["both", "positive", "negative"]
_FINE = 2**53


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """Whether the answer of a turn was right."""

    turn: int
    correct: bool


FeedbackRule = Callable[[ScoredAnswer], Phrase]


def correctness(judgement: ScoredAnswer) -> Phrase:
    """Tell whether the answer was right."""
    return "correct" if judgement.correct else "incorrect"


def flipped(judgement: ScoredAnswer) -> Phrase:
    """Tell the opposite of whether the answer was right."""
    return "incorrect" if judgement.correct else "correct"


def label(judgement: ScoredAnswer) -> Phrase:
    """Tell whether the answer was right, and the right label."""
    return "revealed_correct" if judgement.correct else "revealed_incorrect"


def none(judgement: ScoredAnswer) -> Phrase:  # noqa: ARG001  it looks at nothing, which is its point
    """Tell only that the answer was recorded."""
    return "recorded"


def demonstrations(judgement: ScoredAnswer) -> Phrase:  # noqa: ARG001  the history shows right answers
    """Tell that the answer was right: the history shows the right label in its place."""
    return "correct"


FEEDBACK_RULES: Mapping[str, FeedbackRule] = {
    "correctness": correctness,
    "label": label,
    "none": none,
    "flipped": flipped,
    "demonstrations": demonstrations,
}
YOKED = "yoked"
"""The kind that tells what a donor session was told; it has no rule, but words of its own."""
FEEDBACK_KINDS = (*FEEDBACK_RULES, YOKED)


def feedback_rule(kind: str) -> FeedbackRule:
    """Return the rule of this kind."""
    try:
        return FEEDBACK_RULES[kind]
    except KeyError:
        raise InputError(f"unknown feedback {kind!r}: {nearest(kind, FEEDBACK_KINDS)}") from None


@dataclass(frozen=True, slots=True)
class FeedbackPolicy:
    """What a session is told: a kind, and what becomes of it on the way.

    Attributes:
        kind: Of `FEEDBACK_KINDS`.
        noise: Probability that a verdict is told as its opposite, drawn once for each turn.
        delay: Turns by which a verdict comes late; until the first one, answers are recorded.
        only: Which verdicts are told; an answer of the other kind is recorded.
        donor: What the donor session was told, turn by turn; for the kind `yoked`.
    """

    kind: str = "correctness"
    noise: float = 0.0
    delay: int = 0
    only: Only = "both"
    donor: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind != YOKED:
            feedback_rule(self.kind)
        changed = self.noise or self.delay or self.only != "both"
        if changed and self.kind not in ("correctness", "flipped"):
            raise InputError(
                f"noise, delay and only change verdicts, and {self.kind!r} tells none of its own"
            )
        if not 0 <= self.noise <= 1:
            raise InputError(f"noise is a probability, got {self.noise}")
        if self.delay < 0:
            raise InputError(f"a delay is a number of turns, got {self.delay}")

    @property
    def announcement(self) -> str:
        """How the feedback is announced; what a model must not know of it is not."""
        if self.kind not in ("correctness", "flipped", YOKED):
            return self.kind
        if self.delay:
            return "delayed"
        return "correctness" if self.only == "both" else self.only

    def phrase(self, turn: int, key: tuple[int, int], *, correct: bool) -> Phrase:
        """Return the phrase told of the answer of `turn`; before turn 0 there is none to tell of."""
        if turn < 0:
            return "recorded"
        turned = self.noise > 0 and _drawn(*key, turn) < self.noise
        said = feedback_rule(self.kind)(ScoredAnswer(turn, correct != turned))
        if (self.only, said) in (("positive", "incorrect"), ("negative", "correct")):
            return "recorded"
        return _EARLIER[said] if self.delay else said


def _drawn(seed: int, stream: int, turn: int) -> float:
    """Return a number in [0, 1) for a turn of a stream."""
    return keyed_index(_FINE, seed, stream, "feedback noise", turn) / _FINE


_EARLIER: Mapping[Phrase, Phrase] = {
    "correct": "earlier_correct",
    "incorrect": "earlier_incorrect",
}
