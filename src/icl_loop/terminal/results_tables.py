"""The results that are printed after a run and by `analyze`."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import polars as pl
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from icl_loop import analysis
from icl_loop.analysis import (
    ArmMetrics,
    ArmSummary,
    Checkpoint,
    Conclusion,
    VarianceComponents,
    VerdictEffect,
)
from icl_loop.analysis.answer_problems import problems
from icl_loop.analysis.baseline import ArmBaseline
from icl_loop.analysis.graded_learning import (
    GradedArm,
    graded_arms,
    graded_contrasts,
    graded_sentence,
    graded_turns,
)
from icl_loop.analysis.side_requests import choice_sentences
from icl_loop.analysis.spending import Spending, spending
from icl_loop.analysis.use_of_feedback import (
    Nearest,
    feedback_use_contrasts,
    feedback_use_sentence,
)
from icl_loop.core.names import printable
from icl_loop.models.limits import Cost
from icl_loop.runner.run import StoppedSession
from icl_loop.terminal.conclusion_tables import conclusion_tables, difference_tables
from icl_loop.terminal.console import out, print_text
from icl_loop.terminal.formatting import (
    UNKNOWN,
    arm_name,
    decimals,
    dollars,
    interval_points,
    number,
    p_value,
    percent,
    points,
    table_of,
    whole_percent,
)

MAX_NEIGHBOUR_TURNS = 50_000
"""Turns up to which nearest samples are computed, which takes about 10 s."""


def print_results(
    turns: pl.DataFrame,
    paths: Sequence[Path],
    primary: tuple[str, str] | None = None,
    baselines: Sequence[ArmBaseline] = (),
    price: Cost | None = None,
) -> None:
    """Print all result tables and the verdict on `turns`, which were read from `paths`.

    `primary` and `price` replace the recorded contrast and the model's list price.
    """
    probed = analysis.probes(paths)
    conclusions = analysis.conclude_each(turns, primary, analysis.sessions(paths), probed, paths)
    summaries = analysis.summarise(turns)
    _print_problems(turns, paths)
    _print_accuracy(turns, summaries)
    _print_answers(turns, paths, conclusions)
    spent = spending(turns, price, paths)
    if any(arm.requests for arm in spent):
        out.print(_usage_table(spent))
    _print_probes(probed)
    if baselines:
        out.print(_baseline_table(baselines))
    if (graded := graded_turns(turns, paths)) is not None:
        out.print(graded_table(graded_arms(graded)))
        for each in graded_contrasts(graded, conclusions):
            print_text(graded_sentence(each))
    for warning in [*analysis.warnings(summaries), *choice_sentences(turns, paths)]:
        print_text(f"note: {warning}")
    for conclusion in conclusions:
        if len(conclusions) > 1:
            out.rule(printable(conclusion.title), align="left")
        _print_parts(conclusion_tables(conclusion))
    _print_parts(difference_tables(analysis.model_differences(conclusions)))


def _print_parts(parts: Iterable[RenderableType]) -> None:
    for part in parts:
        out.print(part, soft_wrap=isinstance(part, Text))


def _print_accuracy(turns: pl.DataFrame, summaries: Sequence[ArmSummary]) -> None:
    """Print the accuracy of each arm, and how it varies if streams were repeated."""
    out.print(accuracy_table(summaries))
    for model in analysis.models_played(turns):
        if "(served as" in model:
            print_text(f"note: model {model}")
    if variances := analysis.variance_components(turns):
        out.print(_variance_table(variances))


def _print_problems(turns: pl.DataFrame, paths: Sequence[Path]) -> None:
    for problem in problems(turns, paths):
        print_text(f"note: {problem.text}", style="yellow")


def _print_probes(probed: pl.DataFrame) -> None:
    if asked := analysis.checkpoints(probed):
        out.print(probes_table(asked))
    if effects := analysis.verdict_effects(probed):
        out.print(_effects_table(effects))


def _print_answers(
    turns: pl.DataFrame, paths: Sequence[Path], conclusions: Sequence[Conclusion]
) -> None:
    nearest = neighbours(turns, paths)
    out.print(_answers_table(analysis.measure(turns, nearest)))
    for experiment, contrast in feedback_use_contrasts(turns, nearest, conclusions):
        print_text(feedback_use_sentence(experiment, contrast))


def neighbours(turns: pl.DataFrame, paths: Sequence[Path]) -> Nearest:
    """Return the nearest shown turn of each turn; none if there are too many turns."""
    return {} if turns.height > MAX_NEIGHBOUR_TURNS else analysis.nearest_turns(paths)


def accuracy_table(summaries: Sequence[ArmSummary]) -> Table:
    """Return the table of accuracy: early, late, over all turns, and in windows of turns.

    The model is in the title; several models have a column. In a narrow terminal the intervals go below
    their means. With fewer than three sessions there
    are none.
    """
    ends: dict[int, int] = {}
    for window in (window for row in summaries for window in row.windows):
        ends[window.first] = max(window.last, ends.get(window.first, 0))
    windows = {f"{first}-{last}": _window(first) for first, last in sorted(ends.items())}
    models = {row.model or UNKNOWN for row in summaries}
    by = f" of {printable(models.pop())}" if len(models) == 1 and summaries[0].model else ""
    model: dict[str, Callable[[ArmSummary], str]] = (
        {} if len(models) < 2 else {"model": lambda row: row.model or UNKNOWN}
    )
    return table_of(
        f"Accuracy{by} in % (mean, 95% interval over sessions)",
        summaries,
        {"arm": arm_name(summaries), **model},
        {
            "sessions": lambda row: str(row.sessions),
            "early": lambda row: percent(row.early),
            "late": lambda row: percent(row.late),
            "all": lambda row: percent(row.accuracy),
            **windows,
            "unparsed": lambda row: str(row.turns - row.outcomes.get("ok", 0)),
        },
        gap=0,
    )


def _variance_table(rows: Sequence[VarianceComponents]) -> Table:
    """Return the table of the standard deviations of late accuracy."""
    return table_of(
        "Standard deviation of late accuracy, in points (one-way analysis of variance)",
        rows,
        {"arm": arm_name(rows)},
        {
            "streams": lambda row: str(row.streams),
            "sessions": lambda row: str(row.sessions),
            "between streams": lambda row: _deviation(row.between_streams),
            "between repeats": lambda row: _deviation(row.between_repeats),
        },
    )


def _deviation(variance: float | None) -> str:
    return UNKNOWN if variance is None else f"{100 * math.sqrt(variance):.1f}"


def _window(first: int) -> Callable[[ArmSummary], str]:
    return lambda row: "".join(
        percent(each.accuracy) for each in row.windows if each.first == first
    )


def _answers_table(metrics: Sequence[ArmMetrics]) -> Table:
    return table_of(
        "Answers (balanced accuracy and shares in %, entropy in bits)",
        metrics,
        {"arm": arm_name(metrics)},
        {
            "balanced": lambda row: f"{100 * row.balanced_accuracy:.1f}",
            "entropy, early": lambda row: number(row.entropy_early.mean, "z.2f"),
            "entropy, late": lambda row: number(row.entropy_late.mean, "z.2f"),
            "most common, late": lambda row: whole_percent(row.top_share_late.mean),
            "feedback use": lambda row: number(row.feedback_use.mean, "+z.2f"),
            "tried": lambda row: whole_percent(row.labels_tried.mean),
            "refuted": lambda row: whole_percent(row.refuted_repeats.mean),
            "greedy": lambda row: whole_percent(row.greedy_share.mean),
            "turns shown": lambda row: number(row.exposure.mean, "z.1f"),
            "s per reply": lambda row: number(row.latency_s, ".2f"),
        },
        caption="feedback use: P(answer repeated | called right) - P(repeated | called wrong), for the most"
        " similar sample shown. tried: labels answered to samples of a class. refuted: answers to a"
        " class that repeat the last one if that was called wrong. greedy: answers that give the label"
        " last told for the class.\n",
    )


def _usage_table(spent: Sequence[Spending]) -> Table:
    return table_of(
        "Usage and cost",
        spent,
        {"arm": arm_name(spent)},
        {
            "requests": lambda row: f"{row.requests:,}",
            "tokens in": lambda row: f"{row.prompt:,}",
            "cached": lambda row: f"{row.cached:,}",
            "served": lambda row: number(row.cached_share, ".1%"),
            "prefix": lambda row: number(row.prefix_share, ".1%"),
            "out": lambda row: f"{row.completion:,}",
            "$": lambda row: dollars(row.usd),
            "$ reported": lambda row: dollars(row.usd_reported),
            "$ prefix": lambda row: dollars(row.usd_prefix),
        },
        caption="served: share of the input that the endpoint reported as cached. prefix: share that a prompt cache could serve. $: without a cache, with"
        " the reported cache hits, with all of the prefix cached.\n",
    )


def probes_table(asked: Sequence[Checkpoint]) -> Table:
    """Return the table of accuracy on probes: a row per arm and verdicts, a column per checkpoint."""
    accuracy = {(each.experiment, each.line, each.after_turn): each.accuracy for each in asked}

    def after(place: int) -> Callable[[Checkpoint], str]:
        def cell(row: Checkpoint) -> str:
            found = accuracy.get((row.experiment, row.line, place))
            return percent(found) if found else UNKNOWN

        return cell

    rows = list({(each.experiment, each.line): each for each in asked}.values())
    name = arm_name(rows)
    return table_of(
        "Probes: accuracy in % on held-out samples, the same at every checkpoint",
        rows,
        {"arm": lambda row: name(row) + row.line.removeprefix(row.arm)},
        {f"after {place}": after(place) for place in sorted({each.after_turn for each in asked})},
    )


def _effects_table(effects: Sequence[VerdictEffect]) -> Table:
    name = arm_name(effects)
    return table_of(
        "Counterfactual probes: accuracy as told minus with other verdicts, in points, over streams",
        effects,
        {"arm": name, "verdicts": lambda row: row.verdicts},
        {
            "after": lambda row: str(row.after_turn),
            "streams": lambda row: str(row.contrast.k),
            "diff.": lambda row: points(row.contrast.theta),
            "95% interval": lambda row: interval_points(row.contrast),
            "p": lambda row: p_value(row.contrast.p),
        },
        gap=0,
    )


def _baseline_table(compared: Sequence[ArmBaseline]) -> Table:
    return table_of(
        f"Compared with the baseline ({printable(compared[0].learner)} on the same context)",
        compared,
        {"arm": arm_name(compared)},
        {
            "baseline late, %": lambda row: number(row.late.mean, ".1%").removesuffix("%"),
            "more errors": lambda row: number(row.excess_regret.mean, "+z.1f"),
            "efficiency": lambda row: number(row.learning_efficiency, "z.0%"),
            "baseline reaches it after": lambda row: (
                number(row.equivalent_examples, ".0f")
                + " turns" * (row.equivalent_examples is not None)
            ),
        },
    )


def stops_table(stops: Iterable[StoppedSession]) -> Table:
    """Return the table of the sessions that stopped early, and why."""
    return table_of(
        "Stopped sessions",
        list(stops),
        {
            "session": lambda row: row.session.file_name.removesuffix(".jsonl"),
            "reason": lambda row: str(row.reason),
        },
        {},
    )


def graded_table(arms: Sequence[GradedArm]) -> Table:
    """Return the table of log loss, Brier score and calibration error: early and late."""
    return table_of(
        "Log loss in bits, Brier score and calibration error of the labels (lower is better)",
        arms,
        {"arm": arm_name(arms)},
        {
            "turns": lambda row: f"{row.graded} of {row.turns}",
            "guessing": lambda row: f"{row.guess:.2f}",
            "loss early": lambda row: decimals(row.log_loss_early),
            "loss late": lambda row: decimals(row.log_loss_late),
            "Brier early": lambda row: decimals(row.brier_early),
            "Brier late": lambda row: decimals(row.brier_late),
            "error early": lambda row: number(row.calibration_early.error, ".2f"),
            "error late": lambda row: number(row.calibration_late.error, ".2f"),
        },
        gap=0,
    )
