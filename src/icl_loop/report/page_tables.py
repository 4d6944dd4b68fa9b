"""Rows of the report's tables, as text."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from icl_loop.analysis import ArmMetrics, ArmSummary, Checkpoint, Conclusion, Contrast, Estimate
from icl_loop.analysis.baseline import ArmBaseline
from icl_loop.analysis.inference import NullQuestion
from icl_loop.analysis.side_requests import NoteUsage
from icl_loop.analysis.spending import Spending
from icl_loop.plots.answer_charts import (
    ALL,
    MOST_LABELS,
    answer_shares,
    halves,
    labels_of,
    outcome_shares,
)
from icl_loop.terminal.formatting import percent

CELLS = {True: "yes", False: "not shown", None: "not tested"}
_NONE = "–"


def arm_rows(
    summaries: Sequence[ArmSummary],
    metrics: Sequence[ArmMetrics],
    baselines: Sequence[ArmBaseline],
    spent: Sequence[Spending],
) -> list[dict[str, Any]]:
    """Return one row per arm for several tables."""
    several = len({each.experiment for each in summaries}) > 1
    late = {(each.experiment, each.arm): each for each in baselines}
    return [
        {
            "name": f"{summary.experiment} / {summary.arm}" if several else summary.arm,
            "sessions": summary.sessions,
            "complete": summary.complete,
            "turns": summary.turns,
            "chance": f"{100 * summary.chance:.1f}",
            "early": percent(summary.early),
            "late": percent(summary.late),
            "all": percent(summary.accuracy),
            **_baseline_cells(late.get((summary.experiment, summary.arm))),
            "balanced": f"{100 * measured.balanced_accuracy:.1f}",
            "entropy_early": number(measured.entropy_early, "z.2f"),
            "entropy_late": number(measured.entropy_late, "z.2f"),
            "top_early": number(measured.top_share_early, ".0%"),
            "top_late": number(measured.top_share_late, ".0%"),
            "use": number(measured.feedback_use, "+z.2f"),
            "exposure": number(measured.exposure, "z.1f"),
            **_cost_cells(took),
            "reasoning": f"{measured.tokens['reasoning']:,}",
            "seconds": f"{measured.latency_s:.2f}",
            "outcomes": summary.outcomes,
        }
        for summary, measured, took in zip(summaries, metrics, spent, strict=True)
    ]


def _cost_cells(spent: Spending) -> dict[str, str]:
    share = spent.prefix_share
    return {
        "requests": f"{spent.requests:,}",
        "prompt": f"{spent.prompt:,}",
        "cached": f"{spent.cached:,}",
        "prefix": _NONE if share is None else f"{share:.1%}",
        "replies": f"{spent.completion:,}",
        "usd": _NONE if spent.usd is None else f"{spent.usd:,.2f}",
        "usd_prefix": _NONE if spent.usd_prefix is None else f"{spent.usd_prefix:,.2f}",
    }


def _baseline_cells(baseline: ArmBaseline | None) -> dict[str, str]:
    if baseline is None:
        return {"baseline": _NONE, "efficiency": _NONE, "equivalent": _NONE}
    efficiency, after = baseline.learning_efficiency, baseline.equivalent_examples
    return {
        "baseline": percent(baseline.late),
        "efficiency": _NONE if efficiency is None else f"{efficiency:z.0%}",
        "equivalent": _NONE if after is None else f"{after:.0f}",
    }


def contrast_rows(conclusion: Conclusion) -> list[dict[str, str]]:
    """Return the primary and the secondary contrasts."""
    first = [(conclusion.primary, "primary", _NONE)] if conclusion.primary else []
    others = [(each.contrast, "secondary", p(each.p_holm)) for each in conclusion.secondary]
    return [
        {"role": role, **_contrast(contrast), "p_holm": holm}
        for contrast, role, holm in [*first, *others]
    ]


def _contrast(contrast: Contrast) -> dict[str, str]:
    return {
        "arms": " – ".join(contrast.arms),
        "streams": str(contrast.k),
        "theta": points(contrast.theta),
        "interval": interval(contrast),
        "p_t": p(contrast.p_t),
        "p_sign_flip": p(contrast.p_sign_flip),
        "mde": _NONE if contrast.mde is None else f"{100 * contrast.mde:.1f}",
        "equal": {True: "yes", False: "no", None: _NONE}[contrast.equivalent],
    }


def question_rows(conclusion: Conclusion) -> list[dict[str, str]]:
    """Return the questions about simpler explanations."""
    return [_question(each) for each in conclusion.ladder] if conclusion.primary else []


def _question(asked: NullQuestion) -> dict[str, str]:
    cells = {"arms": "", "theta": "", "interval": "", "p": ""}
    if asked.contrast is not None:
        made = _contrast(asked.contrast)
        cells = {key: made[key] for key in ("arms", "theta", "interval")}
        cells["p"] = p(asked.contrast.p)
    return {"question": asked.question, "answer": CELLS[asked.holds], **cells}


def answer_tables(turns: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the confusion matrices of each arm, for both halves of the turns."""
    several = turns["experiment"].n_unique() > 1
    return [
        {
            "name": f"{experiment} / {arm}" if several else arm,
            "halves": _answer_halves(part),
        }
        for (experiment, arm), part in turns.group_by("experiment", "arm", maintain_order=True)
    ]


def _answer_halves(turns: pl.DataFrame) -> list[dict[str, Any]] | None:
    """Return the matrices of one arm, or None if it has too many labels."""
    labels = labels_of(turns)
    if len(labels) > MOST_LABELS:
        return None
    return [
        {"half": half, **_answer_table(played, labels)} for half, played in halves(turns).items()
    ]


def _answer_table(turns: pl.DataFrame, labels: list[str]) -> dict[str, Any]:
    if turns.is_empty():
        return {"answers": [], "rows": []}
    shares = answer_shares(turns)
    cells = {(label, answer): share for label, answer, share in shares.iter_rows()}
    answers = [*labels, *sorted(set(shares["answer"]) - set(labels))]
    asked = [label for label in [*labels, ALL] if (label in set(shares["label"]))]
    return {
        "answers": answers,
        "rows": [
            {
                "label": label,
                "cells": [_shade(cells.get((label, answer), 0.0)) for answer in answers],
                "right": [answer == label for answer in answers],
            }
            for label in asked
        ],
    }


def _shade(share: float) -> tuple[int, int]:
    """Return a share in percent and its shade from 0 to 10."""
    return round(100 * share), min(10, round(10 * share + 0.4) if share else 0)


def outcome_rows(turns: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the number and share of turns by outcome for each arm."""
    shares = outcome_shares(turns)
    return [
        {
            "name": name,
            "cells": {
                outcome: f"{count:,} ({share:.1%})"
                for outcome, count, share in part.select("outcome", "turns", "share").iter_rows()
            },
        }
        for (name,), part in shares.group_by("name", maintain_order=True)
    ]


def probe_table(checks: Sequence[Checkpoint]) -> dict[str, Any]:
    """Return probe accuracy with one row per arm and one column per checkpoint."""
    places = sorted({each.after_turn for each in checks})
    several = len({each.experiment for each in checks}) > 1
    found: dict[tuple[str, str], dict[int, Checkpoint]] = {}
    for each in checks:
        found.setdefault((each.experiment, each.arm), {})[each.after_turn] = each
    return {
        "places": places,
        "rows": [
            {
                "name": f"{experiment} / {arm}" if several else arm,
                "cells": [_probed(row.get(place)) for place in places],
            }
            for (experiment, arm), row in found.items()
        ],
    }


def _probed(check: Checkpoint | None) -> dict[str, str] | None:
    if check is None:
        return None
    return {"accuracy": percent(check.accuracy), "of": f"{check.right:,} of {check.asked:,}"}


def note_rows(noted: Sequence[NoteUsage]) -> list[dict[str, Any]]:
    """Return the number and length of the notes of each arm."""
    several = len({each.experiment for each in noted}) > 1
    return [
        {
            "name": f"{each.experiment} / {each.arm}" if several else each.arm,
            "sessions": each.sessions,
            "notes": str(each.most)
            if each.fewest == each.most
            else f"{each.fewest} to {each.most}",
            "length": f"{each.length:,.0f}",
            "longest": f"{each.longest:,}",
        }
        for each in noted
    ]


def number(estimate: Estimate, how: str) -> str:
    """Return a mean, or a dash if undefined."""
    return _NONE if estimate.mean is None else format(estimate.mean, how)


def points(value: float | None) -> str:
    """Return a difference in percentage points."""
    return _NONE if value is None else f"{100 * value:+z.1f}"


def interval(contrast: Contrast) -> str:
    """Return the interval of a contrast in percentage points."""
    if contrast.interval is None:
        return _NONE
    low, high = contrast.interval
    return f"{100 * low:+z.1f} to {100 * high:+z.1f}"


def p(value: float | None) -> str:
    """Return a p-value, or a dash if undefined."""
    if value is None:
        return _NONE
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
