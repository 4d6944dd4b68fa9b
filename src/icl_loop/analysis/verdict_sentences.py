"""The verdict in words, with its numbers."""

from icl_loop.analysis.contrasts import STOP_AT, Contrast
from icl_loop.analysis.inference import Conclusion
from icl_loop.analysis.significance import FEWEST_FOR_SIGNIFICANCE, least_p


def sentence(conclusion: Conclusion) -> str:
    """Return the verdict in one sentence, and a second one if the contrast was chosen afterwards."""
    contrast = conclusion.primary
    if contrast is None:
        return "No verdict: there is no primary contrast."
    said = {
        "learned": _learned,
        "equivalent": _equivalent,
        "no evidence": _no_evidence,
        "descriptive only": _descriptive,
    }[conclusion.verdict or "descriptive only"](conclusion, contrast)
    return said if conclusion.recorded else f"{said} This contrast was chosen after the fact."


def _learned(conclusion: Conclusion, contrast: Contrast) -> str:
    besides = "".join(
        f", and {_points(each)} above {each.arms[1]!r} ({_strength(conclusion, each)})"
        for each in conclusion.needed
    )
    stopped = f"; the run stopped at {_e(contrast)}" if conclusion.stopped_early else ""
    return f"Learned: {contrast.arms[0]!r} is {_effect(contrast)}{besides}{stopped}."


def _equivalent(_: Conclusion, contrast: Contrast) -> str:
    return (
        f"Equivalent: {contrast.arms[0]!r} is {_effect(contrast)}, and the difference is shown"
        f" to be smaller than {_number(contrast.margin)}."
    )


def _no_evidence(conclusion: Conclusion, contrast: Contrast) -> str:
    measured = f"No evidence of learning: {contrast.arms[0]!r} is {_effect(contrast)}"
    if contrast.shown(stopped_early=conclusion.stopped_early):
        return f"{measured}, but {_failed_controls(conclusion) or _UNCONTROLLED}."
    if contrast.above:
        return f"{measured}, but with {_e(contrast)}, and a run that stopped early needs {STOP_AT:.0f}."
    if contrast.significant:
        return f"{measured}, which is worse, not better."
    return f"{measured}; {_sensitivity(contrast)}."


_UNCONTROLLED = (
    "without a matching control this does not show learning from feedback: the first arm must"
    " receive feedback on its own answers, and the control none or a donor's"
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
        return "Descriptive only: no stream is complete in both arms."
    first = contrast.arms[0]
    return (
        f"Descriptive only: {first!r} is {_points(contrast)} {_side(contrast)}"
        f" {contrast.arms[1]!r} in late accuracy, over {_streams(contrast.k)};"
        f" significance needs at least {FEWEST_FOR_SIGNIFICANCE} streams."
    )


def _effect(contrast: Contrast) -> str:
    """Return effect, interval, p-value and number of streams."""
    limits = " to ".join(map(_signed, contrast.interval or ()))
    interval = f"95 % interval {limits}, " if limits else ""
    return (
        f"{_points(contrast)} {_side(contrast)} {contrast.arms[1]!r} in late accuracy"
        f" ({interval}{_p(contrast)} by {contrast.test}, {_streams(contrast.k)})"
    )


def _side(contrast: Contrast) -> str:
    return "below" if contrast.theta is not None and contrast.theta < 0 else "above"


def _points(contrast: Contrast) -> str:
    return _number(None if contrast.theta is None else abs(contrast.theta))


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:+z.1f}"


def _number(value: float | None) -> str:
    """Return a share in percentage points."""
    return "an unknown number of points" if value is None else f"{100 * value:.1f} points"


def _strength(conclusion: Conclusion, contrast: Contrast) -> str:
    """Return the deciding number."""
    return _e(contrast) if conclusion.stopped_early else _p(contrast)


def _e(contrast: Contrast) -> str:
    return f"an e-value of {contrast.e_value:.1f}"


def _p(contrast: Contrast) -> str:
    if contrast.p is None:
        return "not tested"
    return "p < 0.0001" if contrast.p < 1e-4 else f"p = {contrast.p:.4f}"


def _streams(count: int) -> str:
    return f"{count} stream{'s' if count != 1 else ''}"
