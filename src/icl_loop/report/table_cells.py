"""Tables of the report, and the formats of their cells."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from icl_loop.analysis import Checkpoint, Contrast
from icl_loop.plots.answer_charts import (
    MOST_LABELS,
    answer_shares,
    halves,
    labels_of,
    outcome_shares,
)
from icl_loop.terminal.formatting import UNKNOWN


def number(value: float | None, spec: str) -> str:
    """Return a number in the given format, or a dash if undefined."""
    return UNKNOWN if value is None else format(value, spec)


def points(value: float | None, spec: str = "+z.1f") -> str:
    """Return a share or a difference in percentage points."""
    return UNKNOWN if value is None else format(100 * value, spec)


def interval(contrast: Contrast) -> str:
    """Return the interval of a contrast in percentage points."""
    return " to ".join(map(points, contrast.interval)) if contrast.interval else UNKNOWN


def p_value(value: float | None) -> str:
    """Return a p-value, or a dash if undefined."""
    return "<0.0001" if value is not None and value < 1e-4 else number(value, ".4f")


def answer_tables(turns: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the confusion matrices of each arm for both halves; None with too many labels."""
    tables = []
    for (experiment, arm), part in turns.group_by("experiment", "arm", maintain_order=True):
        labels = labels_of(part)
        matrices = {half: _matrix(played, labels) for half, played in halves(part).items()}
        shown = matrices if len(labels) <= MOST_LABELS else None
        tables.append({"experiment": experiment, "arm": arm, "halves": shown})
    return tables


def _matrix(turns: pl.DataFrame, labels: list[str]) -> dict[str, Any]:
    shares, labelled, answers = answer_shares(turns, labels)
    cells = {(label, answer): share for label, answer, share in shares.iter_rows()}
    return {
        "answers": answers,
        "rows": {
            label: [_cell(cells.get((label, answer), 0.0)) for answer in answers]
            for label in labelled
        },
    }


def _cell(share: float) -> tuple[int, int]:
    """Return a share in percent, and its shade from 0 to 10."""
    return round(100 * share), min(10, round(10 * share + 0.4)) if share else 0


def outcome_rows(turns: pl.DataFrame) -> dict[str, dict[str, tuple[int, float]]]:
    """Return the number and share of turns by arm and outcome."""
    rows: dict[str, dict[str, tuple[int, float]]] = {}
    counted = outcome_shares(turns).select("name", "outcome", "turns", "share")
    for name, outcome, count, share in counted.iter_rows():
        rows.setdefault(name, {})[outcome] = count, share
    return rows


def probe_rows(checks: Sequence[Checkpoint]) -> list[dict[int, Checkpoint]]:
    """Return the checkpoints of each arm and verdicts by the number of turns played before."""
    rows: dict[tuple[str, str], dict[int, Checkpoint]] = {}
    for each in checks:
        rows.setdefault((each.experiment, each.line), {})[each.after_turn] = each
    return list(rows.values())
