"""Analysis of saved transcripts: no key, no network, no model."""

from icl_loop.analysis.curves import (
    ArmSummary,
    Estimate,
    arm_curves,
    as_json,
    session_curves,
    summarize,
    warnings,
)
from icl_loop.analysis.frame import find, frame, tabulate

__all__ = [
    "ArmSummary",
    "Estimate",
    "arm_curves",
    "as_json",
    "find",
    "frame",
    "session_curves",
    "summarize",
    "tabulate",
    "warnings",
]
