"""Analysis of saved transcripts: no key, no network, no model."""

from icl_loop.analysis.contrasts import Contrast
from icl_loop.analysis.curves import (
    ArmSummary,
    Estimate,
    arm_curves,
    models_played,
    session_curves,
    summarise,
    warnings,
)
from icl_loop.analysis.frame import frame, tabulate
from icl_loop.analysis.inference import Conclusion, conclude, conclude_each
from icl_loop.analysis.metrics import ArmMetrics, confusion, measure
from icl_loop.analysis.model_differences import ModelDifference, model_differences
from icl_loop.analysis.neighbours import nearest_turns
from icl_loop.analysis.session_settings import sessions
from icl_loop.analysis.side_requests import (
    Checkpoint,
    VerdictEffect,
    checkpoints,
    counterfactual_contrast,
    notes,
    probes,
    verdict_effects,
)
from icl_loop.analysis.variance_components import VarianceComponents, variance_components
from icl_loop.analysis.verdict_sentences import difference_sentence, sentence

__all__ = [
    "ArmMetrics",
    "ArmSummary",
    "Checkpoint",
    "Conclusion",
    "Contrast",
    "Estimate",
    "ModelDifference",
    "VarianceComponents",
    "VerdictEffect",
    "arm_curves",
    "checkpoints",
    "conclude",
    "conclude_each",
    "confusion",
    "counterfactual_contrast",
    "difference_sentence",
    "frame",
    "measure",
    "model_differences",
    "models_played",
    "nearest_turns",
    "notes",
    "probes",
    "sentence",
    "session_curves",
    "sessions",
    "summarise",
    "tabulate",
    "variance_components",
    "verdict_effects",
    "warnings",
]
