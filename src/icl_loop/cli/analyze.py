"""`icl-loop analyze`: compare the arms of saved sessions."""

from itertools import repeat
from typing import Annotated

from typer import Option

from icl_loop.analysis import (
    checkpoints,
    conclude_each,
    frame,
    measure,
    probes,
    sessions,
    summarise,
    variance_components,
    verdict_effects,
    warnings,
)
from icl_loop.analysis.answer_problems import problems
from icl_loop.analysis.baseline import LEARNER, ArmBaseline, compare_with_baseline
from icl_loop.analysis.curves import summary_fields
from icl_loop.analysis.graded_learning import (
    graded_arms,
    graded_contrasts,
    graded_fields,
    graded_turns,
)
from icl_loop.analysis.json_output import conclusions_fields, effect_fields
from icl_loop.analysis.metrics import metrics_fields
from icl_loop.analysis.side_requests import checkpoint_fields
from icl_loop.analysis.spending import spending
from icl_loop.analysis.use_of_feedback import feedback_use_contrasts, feedback_use_fields
from icl_loop.cli import options
from icl_loop.core.errors import StoppedShort
from icl_loop.terminal.chart_baseline import chart_baseline
from icl_loop.terminal.console import print_json
from icl_loop.terminal.results_tables import neighbours, print_results


def analyze(
    paths: options.TranscriptsOrExports,
    primary: options.Primary = None,
    learner: Annotated[
        str | None,
        Option(
            "--baseline",
            metavar="LEARNER",
            help=f"Compare with a learner that sees exactly what the model saw, such as {LEARNER}.",
        ),
    ] = None,
    price: options.Price = None,
    json: options.AsJson = False,
) -> None:
    """Print accuracy, contrasts between arms, simpler explanations, usage, and the verdict."""
    pair, rates = options.pair_of_arms(primary), options.parse_price(price)
    turns = frame(paths)
    baselines: list[ArmBaseline] = []
    if learner is not None:
        found = chart_baseline(turns, learner, paths=paths, required=True)
        if found.turns is None or found.note:
            raise StoppedShort(found.note)
        baselines = compare_with_baseline(turns, found.turns, sessions(paths), learner)
    if not json:
        print_results(turns, paths, pair, baselines, rates)
        return
    summaries, probed = summarise(turns), probes(paths)
    asked, effects = checkpoints(probed), verdict_effects(probed)
    nearest = neighbours(turns, paths)
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
            spending(turns, rates, paths),
            baselines or repeat(None, len(summaries)),
            strict=True,
        )
    ]
    conclusions = conclude_each(turns, pair, sessions(paths), probed, paths)
    concluded, graded = conclusions_fields(conclusions), graded_turns(turns, paths)
    scored = None
    if graded is not None:
        scored = graded_fields(graded_arms(graded), graded_contrasts(graded, conclusions))
    all_warnings = [*warnings(summaries), *concluded["warnings"]]
    print_json(
        {
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
    )
