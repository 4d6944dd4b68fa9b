"""Whether a design can show learning, in a plain sentence."""

from icl_loop.analysis.contrasts import POWER
from icl_loop.analysis.power import FEWEST_FOR_SIGN_FLIP
from icl_loop.planning.detectability import Detectability

ALONE = (
    "Nothing is compared: the design has one arm. Learning shows against another arm, such as one"
    " with feedback.kind = 'none' or context.policy = 'stateless'."
)


def verdict(found: Detectability, *, fits: int, chance: float) -> str:
    """Return the sentence about a contrast; `fits` past turns fit the window of its first arm."""
    if found.same_task:
        return (
            f"Arms {found.first!r} and {found.second!r} differ in the model alone, of which no"
            f" reference learner can tell; {_detected(found)}."
        )
    if found.can_show:
        return (
            f"This design can show learning: {_learned(found, chance)}, a difference that"
            f" {found.streams} streams of {found.turns} turns show."
        )
    few = fits < found.turns - 1
    room = f"about {fits} past samples fit the window, " if few else ""
    return f"This design cannot show learning: {room}{_learned(found, chance)}{_why(found)}."


def cut_short(first: str, turns: int) -> str:
    """Return the sentence about an arm whose context is full after so many `turns`."""
    return (
        f"This design cannot show learning: the context of arm {first!r} is full after {turns}"
        " turns, before the second half begins, in which the arms are compared."
    )


def _learned(found: Detectability, chance: float) -> str:
    return (
        f"the best reference learner ({found.reference}) answers {found.reference_first:.0%} right"
        f" in the second half under {found.first!r} and {found.reference_second:.0%} under"
        f" {found.second!r} (chance is {chance:.0%})"
    )


def _why(found: Detectability) -> str:
    """Return why that is not enough."""
    if found.detectable is not None and found.difference >= found.detectable:
        return f", less of a difference than the {_points(found.sought)} that are looked for"
    return f", and {_detected(found)}"


def _detected(found: Detectability) -> str:
    if found.detectable is None:
        are = "streams are" if found.streams > 1 else "stream is"
        return (
            f"{found.streams} {are} too few: a difference can be significant from"
            f" {FEWEST_FOR_SIGN_FLIP} streams on"
        )
    return (
        f"{found.streams} streams of {found.turns} turns show no difference below"
        f" {_points(found.detectable)} with {POWER:.0%} power"
    )


def _points(difference: float) -> str:
    return f"{100 * difference:z.0f} points"
