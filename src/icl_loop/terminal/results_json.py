"""JSON of all results on saved sessions, as `analyze --json` prints it."""

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis import (
    checkpoints,
    conclude_each,
    measure,
    probes,
    sessions,
    summarise,
    variance_components,
    verdict_effects,
    warnings,
)
from icl_loop.analysis.answer_problems import problems
from icl_loop.analysis.baseline import ArmBaseline
from icl_loop.analysis.curves import summary_fields
from icl_loop.analysis.graded_learning import (
    graded_arms,
    graded_contrasts,
    graded_fields,
    graded_turns,
)
from icl_loop.analysis.json_output import conclusions_fields, effect_fields
from icl_loop.analysis.metrics import metrics_fields
from icl_loop.analysis.published import published_results
from icl_loop.analysis.side_requests import checkpoint_fields, choice_sentences
from icl_loop.analysis.spending import spending
from icl_loop.analysis.use_of_feedback import feedback_use_contrasts, feedback_use_fields
from icl_loop.models.limits import Cost
from icl_loop.terminal.results_tables import neighbours


def results_fields(
    turns: pl.DataFrame,
    paths: Sequence[Path],
    primary: tuple[str, str] | None = None,
    baselines: Sequence[ArmBaseline] = (),
    price: Cost | None = None,
) -> dict[str, Any]:
    """Return all results and the verdict on `turns`, which were read from `paths`.

    `primary` and `price` replace the recorded contrast and the model's list price.
    """
    summaries, probed = summarise(turns), probes(paths)
    asked, effects = checkpoints(probed), verdict_effects(probed)
    nearest, settings = neighbours(turns, paths), sessions(paths)
    published = {
        (each.experiment, each.arm): each.fields()
        for each in published_results(summaries, settings, turns)
    }
    variances = {(each.experiment, each.arm): each for each in variance_components(turns)}
    arms = [
        {
            **summary_fields(summary),
            "metrics": metrics_fields(measured),
            "spending": usage.fields(),
            "baseline": baseline and baseline.fields(),
            "variance": variance.fields()
            if (variance := variances.get((summary.experiment, summary.arm)))
            else None,
            "published": published.get((summary.experiment, summary.arm)),
            "probes": [
                checkpoint_fields(each)
                for each in asked
                if (each.experiment, each.arm) == (summary.experiment, summary.arm)
            ],
            "counterfactual": [
                effect_fields(each)
                for each in effects
                if (each.experiment, each.arm) == (summary.experiment, summary.arm)
            ],
        }
        for summary, measured, usage, baseline in zip(
            summaries,
            measure(turns, nearest),
            spending(turns, price, paths),
            baselines or repeat(None, len(summaries)),
            strict=True,
        )
    ]
    conclusions = conclude_each(turns, primary, settings, probed, paths)
    concluded, graded = conclusions_fields(conclusions), graded_turns(turns, paths)
    scored = None
    if graded is not None:
        scored = graded_fields(graded_arms(graded), graded_contrasts(graded, conclusions))
    all_warnings = [*warnings(summaries), *choice_sentences(turns, paths), *concluded["warnings"]]
    return {
        "problems": [each.fields() for each in problems(turns, paths)],
        "arms": arms,
        **concluded,
        "feedback_use": [
            feedback_use_fields(*each)
            for each in feedback_use_contrasts(turns, nearest, conclusions)
        ],
        "graded": scored,
        "warnings": all_warnings,
    }
