"""The settings of feedback, and how a yoked arm takes them from its donor."""

from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, Field, model_validator

from icl_loop.core.errors import InputError
from icl_loop.experiment.validation import STRICT, one_of, translated_errors
from icl_loop.tasks.feedback import DONOR_KINDS, FEEDBACK_KINDS, YOKED, FeedbackPolicy, Only
from icl_loop.tasks.prompts import Form

_OF_DONOR = ("delay", "only", "form", "every")
"""Settings that a yoked arm takes from its donor."""


class FeedbackSettings(BaseModel):
    """`[feedback]`: what the model is told after each answer."""

    model_config = STRICT

    kind: Annotated[str, one_of(FEEDBACK_KINDS)] = "correctness"
    """Kind of feedback: correctness, label, none, flipped, yoked or demonstrations."""
    donor: str | None = None
    """Arm whose feedback a yoked arm is told, from another stream; required if kind is yoked."""
    donor_kind: Annotated[str, one_of(DONOR_KINDS)] = "correctness"
    """Kind of the donor's feedback; a yoked arm takes it, noise, delay, only, form and every from its
    donor."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Probability of telling the opposite of the score."""
    delay: int = Field(default=0, ge=0)
    """Turns by which feedback is late."""
    form: Annotated[Form, one_of(get_args(Form))] = "plain"
    """Form of verdicts: plain, echo (repeats the answer), reason (names evidence) or reward (1 or 0)."""
    every: int = Field(default=1, ge=1)
    """Answers whose verdicts are told together, after the last of them."""
    only: Annotated[Only, one_of(get_args(Only))] = "both"
    """Which feedback is told: both, positive or negative."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if (self.kind == YOKED) != (self.donor is not None):
            raise ValueError(
                "donor is required for a yoked arm: the name of an arm with feedback to tell"
                if self.donor is None
                else f"donor = {self.donor!r} is not allowed for kind = {self.kind!r}, only for yoked"
            )
        if self.kind != YOKED and "donor_kind" in self.model_fields_set:
            raise ValueError(f"donor_kind is not allowed for kind = {self.kind!r}, only for yoked")
        with translated_errors():
            self.policy()
        return self

    def like_donor(self, donor: "FeedbackSettings") -> Self:
        """Return the settings of a yoked arm with the form of its donor's feedback.

        Without its noise, which the words of the donor have already.

        Raises:
            InputError: They state another form.
        """
        form: dict[str, Any] = {key: getattr(donor, key) for key in _OF_DONOR}
        form["donor_kind"] = donor.kind
        for key, taken in {**form, "noise": donor.noise}.items():
            own = getattr(self, key)
            if key in self.model_fields_set and own != taken:
                raise InputError(
                    f"feedback.{key} = {own!r}: a yoked arm takes it from its donor {self.donor!r},"
                    f" where it is {taken!r}; leave it out"
                )
        return self.model_copy(update={**form, "noise": 0.0})

    def policy(self, donor_told: tuple[str, ...] | None = None) -> FeedbackPolicy:
        """Return the feedback policy of a session, given what its donor was told."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "donor"}
        return FeedbackPolicy(**values, donor=donor_told)
