"""JSON for `analyze --json`; undefined values are null, never NaN."""

from collections.abc import Sequence
from typing import Any

from icl_loop.analysis.contrasts import Contrast
from icl_loop.analysis.inference import Conclusion, NullQuestion
from icl_loop.analysis.side_requests import VerdictEffect
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
        "secondary": [
            {**contrast_fields(each.contrast), "p_adjusted": each.p_adjusted}
            for each in conclusion.secondary
        ],
        "ladder": [_question(each) for each in conclusion.ladder],
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
        "test": contrast.test,
        "k": contrast.k,
        "mde": contrast.mde,
        "equivalent": contrast.equivalent,
    }


def effect_fields(effect: VerdictEffect) -> dict[str, Any]:
    """Return the effect of the verdicts on an arm's probes as JSON."""
    return {
        "after_turn": effect.after_turn,
        "verdicts": effect.verdicts,
        "pairs": effect.pairs,
        **contrast_fields(effect.contrast),
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


def _question(asked: NullQuestion) -> dict[str, Any]:
    fields = contrast_fields(asked.contrast) if asked.contrast else {}
    contrast = {key: fields.get(key) for key in ("arms", "theta", "ci", "p")}
    return {"question": asked.question, **contrast, "holds": asked.holds}


def conclusions_fields(conclusions: Sequence[Conclusion]) -> dict[str, Any]:
    """Return the conclusions of all experiments as JSON.

    One experiment gives its own keys. Several give `experiments`, a list of them, and all their
    `warnings`, each prefixed with its experiment.
    """
    tables = [conclusion_fields(each) for each in conclusions]
    if len(tables) == 1:
        return tables[0]
    said = [f"{each['experiment']}: {text}" for each in tables for text in each["warnings"]]
    return {"experiments": tables, "warnings": said}
