"""What people see of the inference in a terminal: contrasts, the ladder of nulls, the verdict."""

from collections.abc import Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from icl_loop.analysis import (
    ArmMetrics,
    Checkpoint,
    Conclusion,
    Contrast,
    Estimate,
    NullQuestion,
    Secondary,
    sentence,
)
from icl_loop.analysis.baseline import ArmBaseline
from icl_loop.analysis.spending import Spending
from icl_loop.terminal.formatting import percent, printable

_ANSWERS = {True: "yes", False: "not shown", None: "not tested"}


def metrics_table(metrics: Iterable[ArmMetrics]) -> Table:
    """Return the table of how the arms answered and what they cost."""
    rows = list(metrics)
    several = len({row.experiment for row in rows}) > 1
    table = _table("how they answered: balanced accuracy in %, entropy of answers in bits")
    table.add_column("arm", overflow="fold")
    for heading in ("balanced", "entropy early", "late", "top late", "use of feedback", "shown"):
        table.add_column(heading, justify="right")
    table.add_column("s a reply", justify="right", no_wrap=True)
    for row in rows:
        name = f"{row.experiment} / {row.arm}" if several else row.arm
        table.add_row(Text(printable(name)), *_metric_cells(row))
    return table


def spending_table(spent: Iterable[Spending]) -> Table:
    """Return the table of what the arms took, and what a cache of prefixes could serve of it."""
    rows = list(spent)
    several = len({row.experiment for row in rows}) > 1
    table = _table("what they took; prefix: what a prefix cache could serve; $ without and with it")
    table.add_column("arm", overflow="fold")
    for heading in ("requests", "in", "cached", "prefix", "out", "$", "$ reported", "$ prefix"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        name = f"{row.experiment} / {row.arm}" if several else row.arm
        share = "–" if row.prefix_share is None else f"{row.prefix_share:.1%}"
        money = (row.usd, row.usd_reported, row.usd_prefix)
        table.add_row(
            Text(printable(name)),
            *(f"{count:,}" for count in (row.requests, row.prompt, row.cached)),
            share,
            f"{row.completion:,}",
            *("–" if usd is None else f"{usd:,.2f}" for usd in money),
        )
    return table


def probes_table(asked: Iterable[Checkpoint]) -> Table:
    """Return the table of accuracy on probes, an arm a row, a checkpoint a column."""
    rows: dict[str, dict[int, Estimate]] = {}
    for each in asked:
        rows.setdefault(each.arm, {})[each.after_turn] = each.accuracy
    places = sorted({after for row in rows.values() for after in row})
    table = _table("probes: accuracy in % on held-out samples, the same at every checkpoint")
    table.add_column("arm", overflow="fold")
    for after in places:
        table.add_column(f"after {after}", justify="right")
    for arm, row in rows.items():
        cells = [percent(row[after]) if after in row else "–" for after in places]
        table.add_row(Text(printable(arm)), *cells)
    return table


def baseline_table(shaded: Iterable[ArmBaseline]) -> Table:
    """Return the table of the arms beside their baselines."""
    rows = list(shaded)
    learner = printable(rows[0].learner) if rows else ""
    table = _table(f"beside the baseline, {learner} shown the same; accuracy in %")
    table.add_column("arm", overflow="fold")
    for heading in ("baseline late", "more wrong", "efficiency", "as the baseline after"):
        table.add_column(heading, justify="right")
    for row in rows:
        efficiency = row.learning_efficiency
        after = row.equivalent_examples
        table.add_row(
            Text(printable(row.arm)),
            "–" if row.late.mean is None else f"{100 * row.late.mean:.1f}",
            _mean(row.excess_regret, "+z.1f"),
            "–" if efficiency is None else f"{efficiency:z.0%}",
            "–" if after is None else f"{after:.0f} turns",
        )
    return table


def _metric_cells(row: ArmMetrics) -> list[str]:
    return [
        f"{100 * row.balanced_accuracy:.1f}",
        _mean(row.entropy_early, "z.2f"),
        _mean(row.entropy_late, "z.2f"),
        _mean(row.top_share_late, ".0%"),
        _mean(row.feedback_use, "+z.2f"),
        _mean(row.exposure, "z.1f"),
        f"{row.latency_s:.2f}",
    ]


def _mean(estimate: Estimate, how: str) -> str:
    return "–" if estimate.mean is None else format(estimate.mean, how)


def verdict_lines(conclusion: Conclusion) -> Iterator[RenderableType]:
    """Yield the primary contrast, the others, the ladder, the notes and, last, the sentence."""
    if conclusion.primary is not None:
        yield _contrasts_table("primary contrast", [Secondary(conclusion.primary, None)])
    if conclusion.secondary:
        yield _contrasts_table("secondary contrasts", conclusion.secondary)
    if conclusion.primary is not None:
        yield _ladder_table(conclusion.ladder)
    for warning in conclusion.warnings:
        yield Text(printable(f"note: {warning}"))
    yield Text(printable(sentence(conclusion)), "bold")


def _contrasts_table(title: str, rows: Iterable[Secondary]) -> Table:
    table = _table(f"{title}: late accuracy, in points, with 95 % t interval over streams")
    adjusted = list(rows)
    several = any(each.p_holm is not None for each in adjusted)
    table.add_column("arms", overflow="fold")
    for heading in (
        "streams",
        "difference",
        "interval",
        "p t",
        "p sign-flip",
        "detectable",
        "equal",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    if several:
        table.add_column("p Holm", justify="right", no_wrap=True)
    for row in adjusted:
        cells = [*_cells(row.contrast), *([_p(row.p_holm)] if several else [])]
        table.add_row(_pair(row.contrast), *cells)
    return table


def _cells(contrast: Contrast) -> list[str]:
    equal = {True: "yes", False: "no", None: "–"}[contrast.equivalent]
    least = "–" if contrast.mde is None else f"{100 * contrast.mde:.1f}"
    ps = _p(contrast.p_t), _p(contrast.p_sign_flip)
    return [str(contrast.k), _points(contrast.theta), _interval(contrast), *ps, least, equal]


def _ladder_table(rungs: Iterable[NullQuestion]) -> Table:
    table = _table("ladder of nulls")
    table.add_column("question", overflow="fold")
    table.add_column("answer", no_wrap=True)
    table.add_column("arms", overflow="fold")
    for heading in ("difference", "interval", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    for rung in rungs:
        contrast = rung.contrast
        told = (
            ("", "", "", "")
            if contrast is None
            else (_pair(contrast), _points(contrast.theta), _interval(contrast), _p(contrast.p))
        )
        table.add_row(rung.question, _ANSWERS[rung.holds], *told)
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _pair(contrast: Contrast) -> Text:
    return Text(printable(" – ".join(contrast.arms)))


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+z.1f}"


def _interval(contrast: Contrast) -> str:
    if contrast.interval is None:
        return "–"
    low, high = contrast.interval
    return f"{100 * low:+z.1f} to {100 * high:+z.1f}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
