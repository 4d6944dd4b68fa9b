"""The stable JSON of `analyze --json`; what is undefined is null, and nothing is NaN."""

from collections.abc import Sequence
from typing import Any

from icl_loop.analysis.contrasts import Contrast
from icl_loop.analysis.inference import Conclusion, Rung, Secondary
from icl_loop.analysis.verdict_sentences import sentence


def conclusion_fields(conclusion: Conclusion) -> dict[str, Any]:
    """Return a conclusion as JSON.

    Keys: `experiment`, `primary` (null without a primary contrast), `needed`, `secondary`, `ladder`,
    `sentence` and `warnings`.
    """
    return {
        "experiment": conclusion.experiment,
        "primary": _primary(conclusion),
        "needed": [contrast_fields(each) for each in conclusion.needed],
        "secondary": [_secondary(each) for each in conclusion.secondary],
        "ladder": [_rung(each) for each in conclusion.ladder],
        "sentence": sentence(conclusion),
        "warnings": list(conclusion.warnings),
    }


def contrast_fields(contrast: Contrast) -> dict[str, Any]:
    """Return a contrast as JSON."""
    return {
        "arms": list(contrast.arms),
        "theta": contrast.theta,
        "ci": contrast.interval and list(contrast.interval),
        "p": contrast.p,
        "p_t": contrast.p_t,
        "p_sign_flip": contrast.p_sign_flip,
        "k": contrast.k,
        "mde": contrast.mde,
        "equivalent": contrast.equivalent,
    }


def _primary(conclusion: Conclusion) -> dict[str, Any] | None:
    contrast = conclusion.primary
    if contrast is None:
        return None
    return {
        **contrast_fields(contrast),
        "verdict": conclusion.verdict,
        "recorded": conclusion.recorded,
        "controlled": conclusion.controlled,
        "margin": contrast.margin,
        "streams": list(contrast.streams),
        "differences": list(contrast.differences),
        "e_value": contrast.e_value,
        "stopped_early": conclusion.stopped_early,
    }


def _secondary(secondary: Secondary) -> dict[str, Any]:
    return {**contrast_fields(secondary.contrast), "p_holm": secondary.p_holm}


def _rung(rung: Rung) -> dict[str, Any]:
    contrast = rung.contrast
    return {
        "question": rung.question,
        "arms": contrast and list(contrast.arms),
        "theta": contrast and contrast.theta,
        "ci": contrast and contrast.interval and list(contrast.interval),
        "p": contrast and contrast.p,
        "holds": rung.holds,
    }


def joined(conclusions: Sequence[Conclusion]) -> dict[str, Any]:
    """Return the conclusions of all experiments as JSON.

    The keys of the one experiment there is as a rule; of several, `experiments` holds a table each,
    and `warnings` those of all, each with its experiment.
    """
    tables = [conclusion_fields(each) for each in conclusions]
    if len(tables) == 1:
        return tables[0]
    said = [f"{each['experiment']}: {text}" for each in tables for text in each["warnings"]]
    return {"experiments": tables, "warnings": said}
