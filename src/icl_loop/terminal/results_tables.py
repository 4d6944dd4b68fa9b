"""Tables of results: accuracy, answers, usage, probes, baseline, contrasts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from icl_loop.analysis import (
    ArmMetrics,
    ArmSummary,
    Checkpoint,
    Conclusion,
    Contrast,
    Estimate,
    sentence,
)
from icl_loop.analysis.baseline import ArmBaseline
from icl_loop.analysis.inference import NullQuestion, Secondary
from icl_loop.analysis.spending import Spending
from icl_loop.runner.run import StoppedSession
from icl_loop.terminal.formatting import (
    UNKNOWN,
    arm_names,
    arm_table,
    dollars,
    mean,
    new_table,
    percent,
    printable,
    whole_percent,
)


def accuracy_table(summaries: Sequence[ArmSummary]) -> Table:
    """Return the table of accuracy: early, late, over all turns, and in windows of turns.

    In a narrow terminal the intervals go below their means.
    """
    ends: dict[int, int] = {}
    for window in (window for row in summaries for window in row.windows):
        ends[window.first] = max(window.last, ends.get(window.first, 0))
    headings = [f"{first}-{last}" for first, last in sorted(ends.items())]
    numbers = ("sessions", "early", "late", "all", *headings, "unparsed")
    table = new_table("Accuracy in % (± half the 95% t interval over sessions)", ["arm"], numbers)
    table.padding = (0, 0, 0, 0)
    for name, row in zip(arm_names(summaries), summaries, strict=True):
        accuracies = {window.first: percent(window.accuracy) for window in row.windows}
        table.add_row(
            name,
            str(row.sessions),
            *map(percent, (row.early, row.late, row.accuracy)),
            *(accuracies.get(first, "") for first in sorted(ends)),
            str(row.turns - row.outcomes.get("ok", 0)),
        )
    return table


def answers_table(metrics: Sequence[ArmMetrics]) -> Table:
    """Return the table of metrics of the answers."""
    return arm_table(
        "Answers (balanced accuracy and shares in %, entropy in bits)",
        metrics,
        {
            "balanced": lambda row: f"{100 * row.balanced_accuracy:.1f}",
            "entropy, early": lambda row: mean(row.entropy_early, "z.2f"),
            "entropy, late": lambda row: mean(row.entropy_late, "z.2f"),
            "most common, late": lambda row: whole_percent(row.top_share_late.mean),
            "feedback use": lambda row: mean(row.feedback_use, "+z.2f"),
            "turns shown": lambda row: mean(row.exposure, "z.1f"),
            "s per reply": lambda row: f"{row.latency_s:.2f}",
        },
    )


def usage_table(spent: Sequence[Spending]) -> Table:
    """Return the table of requests, tokens and cost."""
    table = arm_table(
        "Usage and cost",
        spent,
        {
            "requests": lambda row: f"{row.requests:,}",
            "tokens in": lambda row: f"{row.prompt:,}",
            "cached": lambda row: f"{row.cached:,}",
            "prefix": lambda row: (
                UNKNOWN if (share := row.prefix_share) is None else f"{share:.1%}"
            ),
            "out": lambda row: f"{row.completion:,}",
            "$": lambda row: dollars(row.usd),
            "$ reported": lambda row: dollars(row.usd_reported),
            "$ prefix": lambda row: dollars(row.usd_prefix),
        },
    )
    table.caption_justify = "left"
    table.caption = (
        "prefix: share of the input that a prompt cache could serve. $: without a cache, with the"
        " reported cache hits, with all of the prefix cached.\n"
    )
    return table


def probes_table(asked: Iterable[Checkpoint]) -> Table:
    """Return the table of accuracy on probes: a row per arm, a column per checkpoint."""
    rows: dict[str, dict[int, Estimate]] = {}
    for each in asked:
        rows.setdefault(each.arm, {})[each.after_turn] = each.accuracy
    places = sorted({after for row in rows.values() for after in row})
    title = "Probes: accuracy in % on held-out samples, the same at every checkpoint"
    table = new_table(title, ["arm"], [f"after {after}" for after in places])
    for arm, row in rows.items():
        cells = [percent(row[after]) if after in row else UNKNOWN for after in places]
        table.add_row(Text(printable(arm)), *cells)
    return table


def baseline_table(compared: Sequence[ArmBaseline]) -> Table:
    """Return the table that compares the arms with their baselines."""
    learner = printable(compared[0].learner) if compared else ""
    return arm_table(
        f"Compared with the baseline ({learner} on the same context)",
        compared,
        {
            "baseline late, %": lambda row: percent(replace(row.late, interval=None)),
            "more errors": lambda row: mean(row.excess_regret, "+z.1f"),
            "efficiency": lambda row: (
                UNKNOWN if row.learning_efficiency is None else f"{row.learning_efficiency:z.0%}"
            ),
            "baseline reaches it after": lambda row: (
                UNKNOWN
                if row.equivalent_examples is None
                else f"{row.equivalent_examples:.0f} turns"
            ),
        },
    )


def stops_table(stops: Iterable[StoppedSession]) -> Table:
    """Return the table of the sessions that stopped early, and why."""
    table = new_table("Stopped sessions", ["session", "reason"], [])
    for stop in stops:
        name = f"{stop.session.arm}-{stop.session.stream}"
        table.add_row(Text(printable(name)), Text(printable(str(stop.reason))))
    return table


def conclusion_tables(conclusion: Conclusion) -> Iterator[RenderableType]:
    """Yield the tables of the contrasts and null questions, the warnings, and the verdict."""
    if conclusion.primary is not None:
        yield _contrasts_table("Primary contrast", [Secondary(conclusion.primary, None)])
    if conclusion.secondary:
        yield _contrasts_table("Secondary contrasts", conclusion.secondary)
    if conclusion.primary is not None:
        yield _questions_table(conclusion.ladder)
    for warning in conclusion.warnings:
        yield Text(printable(f"note: {warning}"))
    yield Text(printable(sentence(conclusion)), "bold")


def _contrasts_table(title: str, rows: Sequence[Secondary]) -> Table:
    columns: dict[str, Callable[[Contrast], str]] = {
        "streams": lambda contrast: str(contrast.k),
        "diff.": lambda contrast: _points(contrast.theta),
        "95% interval": _interval,
        "t p": lambda contrast: _p(contrast.p_t),
        "sign-flip p": lambda contrast: _p(contrast.p_sign_flip),
        "detectable": lambda contrast: _points(contrast.mde).removeprefix("+"),
        "equal": lambda contrast: {True: "yes", False: "no", None: UNKNOWN}[contrast.equivalent],
    }
    holm = ["Holm p"] if any(row.p_holm is not None for row in rows) else []
    title = f"{title} (difference in late accuracy, in points, over streams)"
    table = new_table(title, ["arms"], [*columns, *holm])
    table.padding = (0, 0, 0, 0)
    for row in rows:
        cells = [cell(row.contrast) for cell in columns.values()]
        table.add_row(_pair(row.contrast), *cells, *(_p(row.p_holm) for _ in holm))
    return table


def _questions_table(questions: Iterable[NullQuestion]) -> Table:
    answers = {True: "yes", False: "not shown", None: "not tested"}
    table = new_table(
        "Null hypotheses", ["question", "answer", "arms"], ("difference", "95% interval", "p")
    )
    for question in questions:
        contrast = question.contrast
        cells: Sequence[str | Text] = ()
        if contrast is not None:
            numbers = _points(contrast.theta), _interval(contrast), _p(contrast.p)
            cells = _pair(contrast), *numbers
        table.add_row(question.question, answers[question.holds], *cells)
    return table


def _pair(contrast: Contrast) -> Text:
    return Text(printable(" – ".join(contrast.arms)))


def _points(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:+z.1f}"


def _interval(contrast: Contrast) -> str:
    if contrast.interval is None:
        return UNKNOWN
    low, high = contrast.interval
    return f"{100 * low:+z.1f} to {100 * high:+z.1f}"


def _p(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
