"""Sentences on whether a design can show learning."""

from icl_loop.analysis.arm_roles import CONTENT
from icl_loop.analysis.power import POWER
from icl_loop.analysis.significance import FEWEST_FOR_SIGNIFICANCE, least_p
from icl_loop.experiment import Experiment
from icl_loop.planning.detectability import Detectability, JointPower, control_kinds

SINGLE_ARM = (
    "The design has only one arm, so nothing can be compared. Add a control, such as an arm with"
    " feedback.kind = 'none' or context.policy = 'stateless'."
)


def feasibility(found: Detectability, *, fits: int, chance: float) -> str:
    """Return the sentence about a contrast; `fits` is the number of past turns that fit the window."""
    if found.detectable is None:
        return (
            f"This design cannot show learning: with streams = {found.streams} the smallest attainable p is"
            f" {least_p(found.streams):.3g}, so no contrast can be significant;"
            f" {FEWEST_FOR_SIGNIFICANCE} streams are needed."
        )
    if found.same_task:
        return (
            f"Arms {found.first!r} and {found.second!r} differ only in the model, which reference"
            f" learners cannot assess; {_detected(found)}."
        )
    if found.can_show:
        return (
            f"This design can show learning: {_learned(found, chance)}, and {found.streams} streams of"
            f" {found.turns} turns can detect that difference."
        )
    few = fits < found.turns - 1
    room = f"about {fits} past samples fit the window, " if few else ""
    return f"This design cannot show learning: {room}{_learned(found, chance)}{_why(found)}."


def joint_feasibility(joint: JointPower) -> str:
    """Return the sentence about contrasts that show learning each, but not reliably all at once."""
    return (
        f"This design can miss learning: each of its {len(joint.contrasts)} contrasts can show it, but all"
        f" of them are significant at once with only {joint.power:.0%} power."
    )


def lacking_controls(experiment: Experiment, first: str, second: str) -> str:
    """Return what the controls of a primary contrast leave open, in a sentence; empty if nothing."""
    kinds = control_kinds(experiment, first, second)
    if kinds is None:
        return ""
    if "none" not in kinds:
        return (
            f"The verdict cannot be “learned”: no arm differs from {first!r} in nothing but"
            " feedback.kind = 'none'."
        )
    if not kinds & CONTENT:
        return (
            "The verdict can be “improved” at most, because nothing controls for the content of the"
            " feedback. Add a yoked arm or probes with flipped verdicts."
        )
    if "probes" in kinds:
        return (
            f"{first!r} must also answer its probes better as told than with flipped verdicts; the power"
            " for this is not estimated."
        )
    return ""


def context_full(first: str, turns: int) -> str:
    """Return the sentence about an arm whose context is full after `turns` turns."""
    return (
        f"This design cannot show learning: the context of arm {first!r} is full after {turns} turns,"
        " before the second half, in which the arms are compared."
    )


def _learned(found: Detectability, chance: float) -> str:
    return (
        f"the best reference learner ({found.reference}) reaches {found.reference_first:.0%} accuracy"
        f" in the second half of {found.first!r} and {found.reference_second:.0%} in"
        f" {found.second!r} (chance is {chance:.0%})"
    )


def _why(found: Detectability) -> str:
    """Return why this is not enough."""
    if found.detectable and found.difference >= found.detectable:
        return f", which is less than the difference of interest, {_points(found.sought)}"
    return f", and {_detected(found)}"


def _detected(found: Detectability) -> str:
    return (
        f"{found.streams} streams of {found.turns} turns detect differences of at least"
        f" {_points(found.detectable)} with {POWER:.0%} power"
    )


def _points(difference: float | None) -> str:
    return (
        "an unknown number of points" if difference is None else f"{100 * difference:z.0f} points"
    )
