"""JSON for `analyze --json`; undefined values are null, never NaN."""

from collections.abc import Sequence
from typing import Any

from icl_loop.analysis.contrasts import Contrast
from icl_loop.analysis.inference import Conclusion, NullQuestion
from icl_loop.analysis.model_differences import ModelDifference, model_differences
from icl_loop.analysis.side_requests import VerdictEffect
from icl_loop.analysis.verdict_sentences import difference_sentence, sentence


def conclusion_fields(conclusion: Conclusion) -> dict[str, Any]:
    """Return a conclusion as JSON.

    Keys: `experiment`, `model` (null with a single one), `primary` (null without a primary contrast),
    `needed`, `secondary`, `ladder`, `sentence` and `warnings`.
    """
    return {
        "experiment": conclusion.experiment,
        "model": conclusion.model,
        "primary": _primary(conclusion),
        "needed": [contrast_fields(each) for each in conclusion.needed],
        "secondary": [
            {
                **contrast_fields(each.contrast),
                "p_adjusted": each.p_adjusted,
                "exploratory": each.exploratory,
            }
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
    contrast, gate = conclusion.primary, conclusion.failed_gate
    if contrast is None:
        return None
    return {
        **contrast_fields(contrast),
        "verdict": conclusion.verdict,
        "recorded": conclusion.recorded,
        "controls": sorted(conclusion.controls),
        "tests_learning": conclusion.tests_learning,
        "failed_gate": gate and {"reason": gate.reason, "arm": gate.arm, "reply": conclusion.reply},
        "late_turns": conclusion.late and list(conclusion.late),
        "margin": contrast.margin,
        "streams": list(contrast.streams),
        "differences": list(contrast.differences),
        "e_value": contrast.e_value,
        "stopped_early": conclusion.stopped_early,
    }


def _question(asked: NullQuestion) -> dict[str, Any]:
    contrasts = [
        {key: contrast_fields(each)[key] for key in ("arms", "theta", "ci", "p")}
        for each in asked.contrasts
    ]
    return {"question": asked.question, "contrasts": contrasts, "holds": asked.holds}


def _difference(found: ModelDifference) -> dict[str, Any]:
    fields = contrast_fields(found.contrast)
    return {
        "experiment": found.experiment,
        "models": fields.pop("arms"),
        "effects": list(map(list, found.effects)),
        **fields,
        "p_adjusted": found.p_adjusted,
        "verdict": found.verdict,
        "sentence": difference_sentence(found),
        "streams": list(found.contrast.streams),
        "differences": list(found.contrast.differences),
    }


def conclusions_fields(conclusions: Sequence[Conclusion]) -> dict[str, Any]:
    """Return the conclusions about all experiments and models as JSON.

    One gives its own keys. Several give `conclusions`, a list of them, `model_differences`, and all their
    `warnings`, each prefixed with its experiment and model.
    """
    tables = [conclusion_fields(each) for each in conclusions]
    if len(tables) == 1:
        return tables[0]
    warnings = [f"{each.title}: {text}" for each in conclusions for text in each.warnings]
    differences = [_difference(each) for each in model_differences(conclusions)]
    return {"conclusions": tables, "model_differences": differences, "warnings": warnings}
