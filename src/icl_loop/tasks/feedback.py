"""Feedback: which phrase a model is told about an answer.

The wording of the phrases is in the prompt set. The choice of a phrase never affects
`Feedback.correct`, which is fixed first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.records import keyed_index
from icl_loop.tasks.prompts import Form

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

FEEDBACK_PHRASES: Mapping[str, tuple[Phrase, Phrase]] = {
    "correctness": ("correct", "incorrect"),
    "label": ("revealed_correct", "revealed_incorrect"),
    "none": ("recorded", "recorded"),
    "flipped": ("incorrect", "correct"),
    "demonstrations": ("correct", "correct"),  # past replies are shown with the right label
}
"""The phrases for a right and for a wrong answer, by kind of feedback."""
YOKED = "yoked"
"""The kind that repeats what a donor session was told, whatever the answers."""
FEEDBACK_KINDS = (*FEEDBACK_PHRASES, YOKED)
DONOR_KINDS = ("correctness", "label", "flipped")
"""The kinds that judge the answers, so that a session with one of them can be a donor."""


@dataclass(frozen=True, slots=True)
class FeedbackPolicy:
    """How the feedback of a session is chosen.

    Attributes:
        kind: One of `FEEDBACK_KINDS`.
        noise: Probability that right and wrong are swapped, drawn once per turn.
        delay: Number of turns by which feedback comes late. Before the first, the model is told
            that its answers are recorded.
        only: Which of right and wrong is told. In place of the other, the model is told that its
            answer is recorded.
        donor: What the donor session was told, turn by turn, for the kind `yoked`.
        donor_kind: The kind of the donor's feedback; `delay`, `only`, `form` and `every` are the
            donor's, too.
        form: How verdicts are worded.
        every: Number of answers whose verdicts are told together, after the last of them. Before,
            the model is told that its answers are recorded.
    """

    kind: str = "correctness"
    noise: float = 0.0
    delay: int = 0
    only: Only = "both"
    donor: tuple[str, ...] | None = None
    donor_kind: str = "correctness"
    form: Form = "plain"
    every: int = 1

    def __post_init__(self) -> None:
        if self.kind not in FEEDBACK_KINDS:
            raise InputError(
                f"unknown feedback {self.kind!r}: {nearest(self.kind, FEEDBACK_KINDS)}"
            )
        if self.donor_kind not in DONOR_KINDS:
            raise InputError(
                f"unknown donor_kind {self.donor_kind!r}: {nearest(self.donor_kind, DONOR_KINDS)}"
            )
        changed = {"noise": self.noise, "delay": self.delay, "only": self.only != "both"}
        if any(changed.values()) and self.announced_kind not in ("correctness", "flipped"):
            key = next(key for key, is_set in changed.items() if is_set)
            raise InputError(
                f"{key} applies to the kinds 'correctness' and 'flipped', not {self.announced_kind!r}"
            )
        if not 0 <= self.noise <= 1:
            raise InputError(f"noise must be between 0 and 1, got {self.noise}")
        if self.delay < 0:
            raise InputError(f"delay must be 0 turns or more, got {self.delay}")
        if self.every < 1:
            raise InputError(f"every must be 1 turn or more, got {self.every}")
        if self.kind == "demonstrations" and (self.form != "plain" or self.every > 1):
            key = "every" if self.form == "plain" else "form"
            raise InputError(f"{key} does not apply to the kind 'demonstrations'")

    @property
    def announced_kind(self) -> str:
        """The kind that the session seems to have: that of the donor if it is yoked."""
        return self.donor_kind if self.kind == YOKED else self.kind

    @property
    def announcement(self) -> str:
        """The name of the sentence that announces the feedback; noise and donors stay hidden."""
        if self.announced_kind not in ("correctness", "flipped"):
            return self.announced_kind
        if self.delay:
            return "delayed"
        return "correctness" if self.only == "both" else self.only

    @property
    def unspoken(self) -> bool | None:
        """The verdict for which one-sided feedback says that the answer is recorded, or None."""
        return {"positive": False, "negative": True}.get(self.only)

    def judged_after(self, turn: int) -> range:
        """Return the turns about which the model is told after `turn`."""
        last = turn - self.delay
        is_due = last >= 0 and (last + 1) % self.every == 0
        return range(last + 1 - self.every, last + 1) if is_due else range(0)

    def told_after(self, turn: int) -> int:
        """Return the turn after which the model is told about `turn`."""
        return self.batch_of(turn) + self.every - 1 + self.delay

    def batch_of(self, turn: int) -> int:
        """Return the first of the turns about which the model is told together with `turn`."""
        return turn // self.every * self.every

    def phrase(self, turn: int, key: tuple[int, int], *, correct: bool) -> Phrase:
        """Return the phrase for the answer of `turn`, if seed and stream of the session are `key`."""
        drawn = keyed_index(2**53, *key, "feedback noise", turn) / 2**53
        right, wrong = FEEDBACK_PHRASES[self.kind]
        phrase = right if correct != (drawn < self.noise) else wrong
        if (self.only, phrase) in (("positive", "incorrect"), ("negative", "correct")):
            return "recorded"
        return phrase
