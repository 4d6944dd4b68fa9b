"""Analysis of saved transcripts: no key, no network, no model."""

from icl_loop.analysis.contrasts import STOP_AT, Contrast, e_process, holm
from icl_loop.analysis.curves import (
    ArmSummary,
    Estimate,
    arm_curves,
    as_json,
    session_curves,
    summarise,
    warnings,
)
from icl_loop.analysis.frame import frame, tabulate
from icl_loop.analysis.image_neighbours import nearest_pictures
from icl_loop.analysis.inference import (
    Conclusion,
    NullQuestion,
    Secondary,
    Verdict,
    conclude,
    conclude_each,
)
from icl_loop.analysis.json_output import conclusion_fields, joined
from icl_loop.analysis.metrics import (
    ArmMetrics,
    confusion,
    equivalent_examples,
    excess_regret,
    feedback_use,
    learning_efficiency,
    measure,
    metrics_fields,
    nearest_shown,
)
from icl_loop.analysis.session_settings import sessions
from icl_loop.analysis.side_requests import (
    Checkpoint,
    NoteUsage,
    checkpoint_fields,
    checkpoints,
    note_usage,
    notes,
    probes,
)
from icl_loop.analysis.verdict_sentences import sentence
from icl_loop.transcripts.files import find

__all__ = [
    "STOP_AT",
    "ArmMetrics",
    "ArmSummary",
    "Checkpoint",
    "Conclusion",
    "Contrast",
    "Estimate",
    "NoteUsage",
    "NullQuestion",
    "Secondary",
    "Verdict",
    "arm_curves",
    "as_json",
    "checkpoint_fields",
    "checkpoints",
    "conclude",
    "conclude_each",
    "conclusion_fields",
    "confusion",
    "e_process",
    "equivalent_examples",
    "excess_regret",
    "feedback_use",
    "find",
    "frame",
    "holm",
    "joined",
    "learning_efficiency",
    "measure",
    "metrics_fields",
    "nearest_pictures",
    "nearest_shown",
    "note_usage",
    "notes",
    "probes",
    "sentence",
    "session_curves",
    "sessions",
    "summarise",
    "tabulate",
    "warnings",
]
