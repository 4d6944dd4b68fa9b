"""The verdict in words, with its numbers."""

from collections.abc import Callable

from icl_loop.analysis.contrasts import STOP_AT, Contrast
from icl_loop.analysis.inference import Conclusion
from icl_loop.analysis.model_differences import ModelDifference
from icl_loop.analysis.significance import FEWEST_FOR_SIGNIFICANCE, least_p

_ROUNDING = 1e-9
"""Differences below this are errors of rounding."""
_LEAST_SHOWN = 0.0005
"""A smaller difference would be shown as 0.0 points."""


def sentence(conclusion: Conclusion) -> str:
    """Return the verdict in one or two sentences, and one more if the contrast was chosen afterwards."""
    contrast, model = conclusion.primary, conclusion.model
    of = f"{model}: " if model else ""
    if contrast is None or conclusion.verdict is None:
        missing = (
            "this model did not play the arms of the primary contrast"
            if model
            else "there is no primary contrast"
        )
        return f"{of}No verdict: {missing}."
    say: dict[str, Callable[[Conclusion, Contrast], str]] = {
        "learned": _learned,
        "improved": _improved,
        "different": _different,
        "equivalent": _equivalent,
        "no evidence": _no_evidence,
        "descriptive only": _descriptive,
        "invalid": _invalid,
    }
    said = of + say[conclusion.verdict](conclusion, contrast)
    return said if conclusion.recorded else f"{said} This contrast was chosen after the fact."


def difference_sentence(found: ModelDifference) -> str:
    """Return the verdict on the difference between two models in one sentence."""
    contrast = found.contrast
    first, second = contrast.arms
    said = {
        "different": "Different effects",
        "equivalent": "Equivalent effects",
        "no evidence": "No evidence of different effects",
        "descriptive only": "Descriptive only",
        "invalid": "No valid comparison, because a gate failed",
    }[found.verdict]
    if not contrast.k:
        return f"{said}: {first!r} and {second!r} have no common streams."
    (one, other), (third, fourth) = found.effects
    return (
        f"{said}: the difference between {one!r} and {other!r} with {first!r} is "
        f"{_beside(contrast, f'that between {third!r} and {fourth!r} with {second!r}')}"
        f" ({_numbers(contrast, found.p_adjusted)})."
    )


def _learned(conclusion: Conclusion, contrast: Contrast) -> str:
    return f"Learned: {_better(conclusion, contrast)}."


def _improved(conclusion: Conclusion, contrast: Contrast) -> str:
    return (
        f"Improved: {_better(conclusion, contrast)}. Whether the content of the feedback matters was"
        " not tested, because there is neither a yoked arm nor probes with flipped verdicts; this is"
        " not enough to say that it learned from feedback."
    )


def _better(conclusion: Conclusion, contrast: Contrast) -> str:
    besides = "".join(
        f", and {_beside(each)} ({_strength(conclusion, each)})" for each in conclusion.needed
    )
    stopped = f"; the run stopped at {_e(contrast)}" if conclusion.stopped_early else ""
    return f"{contrast.arms[0]!r} is {_effect(contrast)}{besides}{stopped}"


def _different(_: Conclusion, contrast: Contrast) -> str:
    return (
        f"Different: {contrast.arms[0]!r} is {_effect(contrast)}. This compares two models or designs"
        " and says nothing about learning from feedback."
    )


def _equivalent(_: Conclusion, contrast: Contrast) -> str:
    return (
        f"Equivalent: {contrast.arms[0]!r} is {_effect(contrast)}, and the difference is shown"
        f" to be smaller than {_number(contrast.margin)}."
    )


def _invalid(conclusion: Conclusion, contrast: Contrast) -> str:
    gate = conclusion.failed_gate
    reason = gate.reason if gate else "a validity gate failed"
    quoted = ""
    if gate and conclusion.reply is not None:
        text = f"“{conclusion.reply}”" if conclusion.reply else "without text"
        quoted = f" A reply of {gate.arm!r}: {text}."
    return (
        f"Invalid: {reason}.{quoted} The measured difference between {contrast.arms[0]!r} and"
        f" {contrast.arms[1]!r}, {_signed(contrast.theta)} points, shows neither learning nor"
        " equivalence."
    )


def _no_evidence(conclusion: Conclusion, contrast: Contrast) -> str:
    of = "learning" if conclusion.tests_learning else "a difference"
    measured = f"No evidence of {of}: {contrast.arms[0]!r} is {_effect(contrast)}"
    if contrast.shown(stopped_early=conclusion.stopped_early):
        return f"{measured}, but {_failed_controls(conclusion) or _uncontrolled(conclusion)}."
    if conclusion.stopped_early:
        return f"{measured}, but with {_e(contrast)}, and a run that stopped early needs {STOP_AT:.0f}."
    if contrast.significant:
        return f"{measured}, which is worse, not better."
    return f"{measured}; {_sensitivity(contrast)}."


def _uncontrolled(conclusion: Conclusion) -> str:
    if conclusion.controls:
        return (
            "no matching control without feedback ('none') was played, and feedback of a donor can do"
            " harm, so this does not show learning from feedback"
        )
    return (
        "without a matching control this does not show learning from feedback: the first arm must"
        " receive feedback on its own answers, and the control none"
    )


def _failed_controls(conclusion: Conclusion) -> str:
    early = conclusion.stopped_early
    lacking = (each for each in conclusion.needed if not each.shown(stopped_early=early))
    return " and ".join(
        f"it is not shown to be above {each.arms[1]!r} ({_signed(each.theta)} points,"
        f" {_strength(conclusion, each)})"
        for each in lacking
    )


def _sensitivity(contrast: Contrast) -> str:
    """Return which difference could have been detected."""
    if contrast.k < FEWEST_FOR_SIGNIFICANCE:
        return (
            f"with {contrast.k} streams the smallest attainable p is {least_p(contrast.k):.4f}, so no"
            f" difference could have been significant; {FEWEST_FOR_SIGNIFICANCE} streams are needed"
        )
    if contrast.mde is None:
        return "the difference was the same in every stream, so the detectable effect is unknown"
    return f"a true difference of {_number(contrast.mde)} would have been found with 80 % power"


def _descriptive(_: Conclusion, contrast: Contrast) -> str:
    if not contrast.k:
        return "Descriptive only: no stream is finished in both arms."
    first = contrast.arms[0]
    return (
        f"Descriptive only: {first!r} is {_beside(contrast)}"
        f" in late accuracy, over {_streams(contrast.k)};"
        f" significance needs at least {FEWEST_FOR_SIGNIFICANCE} streams."
    )


def _effect(contrast: Contrast) -> str:
    """Return effect, interval, p-value and number of streams."""
    return f"{_beside(contrast)} in late accuracy ({_numbers(contrast, contrast.p)})"


def _numbers(contrast: Contrast, p: float | None) -> str:
    limits = " to ".join(map(_signed, contrast.interval or ()))
    interval = f"95 % interval {limits}, " if limits else ""
    test = f" by {contrast.test}" if contrast.test else ""
    return f"{interval}{_p(p)}{test}, {_streams(contrast.k)}"


def _beside(contrast: Contrast, other: str | None = None) -> str:
    """Return how the first arm compares with the second, or with what `other` names."""
    theta, named = contrast.theta, other or repr(contrast.arms[1])
    if theta is None:
        return f"{_number(theta)} above {named}"
    if abs(theta) < _ROUNDING:
        return f"equal to {named}"
    size = _number(abs(theta)) if abs(theta) >= _LEAST_SHOWN else "less than 0.1 points"
    return f"{size} {'below' if theta < 0 else 'above'} {named}"


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:+z.1f}"


def _number(value: float | None) -> str:
    """Return a share in percentage points."""
    return "an unknown number of points" if value is None else f"{100 * value:.1f} points"


def _strength(conclusion: Conclusion, contrast: Contrast) -> str:
    """Return the deciding number."""
    return _e(contrast) if conclusion.stopped_early else _p(contrast.p)


def _e(contrast: Contrast) -> str:
    return f"an e-value of {contrast.e_value:.1f}"


def _p(p: float | None) -> str:
    if p is None:
        return "not tested"
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


def _streams(count: int) -> str:
    return f"{count} stream{'s' if count != 1 else ''}"
