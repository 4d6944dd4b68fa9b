"""Synthetic studies for tests: turns with given late accuracies, and the settings of their arms."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from icl_loop.analysis import Conclusion, conclude
from icl_loop.transcripts.columns import SESSION_SETTINGS


def played(late: Mapping[str, Sequence[float]], turns: int = 40, **changes: Any) -> pl.DataFrame:  # noqa: ANN401  any column
    """Return turns of arms with these late accuracies, one per stream."""
    half = turns // 2
    rows = [
        {
            "path": f"{arm}-{stream}",
            "experiment": "small",
            "arm": arm,
            "stream": stream,
            "turns": turns,
            "turn": turn,
            "sample": f"none/{turn}-{stream}",
            "status": "complete",
            "chance": 0.1,
            "label": str(turn % 10),
            "answer": str((turn + (turn - half >= round(accuracy * half) or turn < half)) % 10),
            "outcome": "ok",
            "correct": turn - half < round(accuracy * half) and turn >= half,
            "told_length": 10,
            "prompt": 0,
            "counted": 0,
            "exposure": 0,
            "finish_reason": None,
        }
        for arm, accuracies in late.items()
        for stream, accuracy in enumerate(accuracies)
        for turn in range(turns)
    ]
    return pl.DataFrame(rows).with_columns(**changes)


def settings_of(
    roles: Mapping[str, Mapping[str, object]],
    primary: Sequence[str] | None = None,
    margin: float | None = None,
    secondary: Sequence[tuple[str, str]] = (),
) -> pl.DataFrame:
    """Return the recorded settings of one session per arm."""
    rows = [
        {
            "path": f"{arm}-0",
            "experiment": "small",
            "arm": arm,
            "stream": 0,
            "repeat": 0,
            "donor_repeat": 0,
            "labels": "native",
            "policy": "block",
            "context": "block",
            "feedback": "correctness",
            "feedback_settings": json.dumps(role.get("feedback")),
            "setup": "{}",
            "primary": primary,
            "secondary": json.dumps(secondary),
            "margin": margin,
            "stopped_early": False,
            **role,
        }
        for arm, role in roles.items()
    ]
    return pl.DataFrame(rows, schema=SESSION_SETTINGS)


ABSTRACT = json.dumps({"task": {"labels": "abstract"}})
FULL: dict[str, dict[str, object]] = {
    "feedback": {},
    "yoked": {"feedback": "yoked", "donor": "feedback"},
    "none": {"feedback": "none"},
    "stateless": {"policy": "stateless", "context": "stateless"},
    "abstract": {"labels": "abstract", "setup": ABSTRACT},
    "abstract-none": {"labels": "abstract", "setup": ABSTRACT, "feedback": "none"},
    "abstract-stateless": {"labels": "abstract", "setup": ABSTRACT, "policy": "last(n=0)"},
}
HIGH = [0.6, 0.65, 0.7, 0.6, 0.75, 0.7, 0.65, 0.7]
HIGH_TOO = [0.65, 0.6, 0.7, 0.65, 0.7, 0.7, 0.65, 0.7]
LOW = [0.2, 0.15, 0.2, 0.25, 0.2, 0.3, 0.2, 0.15]


def concluded(
    late: Mapping[str, Sequence[float]], primary: tuple[str, str] = ("feedback", "yoked")
) -> Conclusion:
    """Return the conclusion about arms with these late accuracies; their names determine their roles."""
    roles = {arm: FULL[arm] for arm in late}
    return conclude(played(late), sessions=settings_of(roles, primary))
