"""Tables of contrasts and simpler explanations, with the verdict."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from icl_loop.analysis import (
    Conclusion,
    Contrast,
    ModelDifference,
    difference_sentence,
    sentence,
)
from icl_loop.analysis.inference import NullQuestion, Secondary
from icl_loop.core.names import printable
from icl_loop.terminal.formatting import (
    YES_NO,
    interval_points,
    p_value,
    points,
    table_of,
)

_Asked = tuple[NullQuestion | None, Contrast | None]
ANSWERS = {True: "yes", False: "not shown", None: "not tested"}
"""Answers to the questions about simpler explanations."""


def conclusion_tables(conclusion: Conclusion) -> Iterator[RenderableType]:
    """Yield the tables of contrasts and simpler explanations, the warnings, and the verdict."""
    if conclusion.primary is not None:
        yield _contrasts_table("Primary contrast", [Secondary(conclusion.primary, None)])
    if conclusion.secondary:
        afterwards = any(each.exploratory for each in conclusion.secondary)
        title = "Exploratory contrasts" if afterwards else "Secondary contrasts"
        yield _contrasts_table(title, conclusion.secondary)
    if conclusion.primary is not None:
        yield _questions_table(conclusion.ladder)
    for warning in conclusion.warnings:
        yield Text(printable(f"note: {warning}"))
    yield Text(printable(sentence(conclusion)), "bold")


def difference_tables(differences: Sequence[ModelDifference]) -> Iterator[RenderableType]:
    """Yield the table of differences between models, and the verdicts on them."""
    for experiment, found in groupby(differences, attrgetter("experiment")):
        rows = list(found)
        yield Rule(printable(f"{experiment} / between models"), align="left")
        contrasts = [
            Secondary(
                replace(each.contrast, equivalent=None)
                if each.verdict == "invalid"
                else each.contrast,
                each.p_adjusted,
            )
            for each in rows
        ]
        what = "difference between their primary contrasts"
        yield _contrasts_table("Models", contrasts, what, of="models")
        for each in rows:
            yield Text(printable(difference_sentence(each)), "bold")


def _contrasts_table(
    title: str,
    rows: Sequence[Secondary],
    what: str = "difference in late accuracy",
    of: str = "arms",
) -> Table:
    columns: dict[str, Callable[[Secondary], str]] = {
        "streams": lambda row: str(row.contrast.k),
        "diff.": lambda row: points(row.contrast.theta),
        "95% interval": lambda row: interval_points(row.contrast),
        "p": lambda row: p_value(row.contrast.p),
    }
    if any(row.p_adjusted is not None for row in rows):
        columns["adjusted p"] = lambda row: p_value(row.p_adjusted)
    columns |= {
        "detectable": lambda row: points(row.contrast.mde).removeprefix("+"),
        "equal": lambda row: YES_NO[row.contrast.equivalent],
    }
    title = f"{title} ({what}, in points, over streams)"
    return table_of(title, rows, {of: lambda row: _pair(row.contrast)}, columns, gap=0)


def _questions_table(questions: Sequence[NullQuestion]) -> Table:
    """Return the table of simpler explanations, with a row for each contrast."""
    rows = [
        (asked if place == 0 else None, contrast)
        for asked in questions
        for place, contrast in enumerate(asked.contrasts or [None])
    ]

    def tested(cell: Callable[[Contrast], str]) -> Callable[[_Asked], str]:
        return lambda row: cell(row[1]) if row[1] else ""

    has_p = not any(asked.stopped_early for asked in questions)
    return table_of(
        "Simpler explanations",
        rows,
        {
            "question": lambda row: row[0].question if row[0] else "",
            "answer": lambda row: ANSWERS[row[0].holds] if row[0] else "",
            "arms": tested(_pair),
        },
        {
            "difference": tested(lambda contrast: points(contrast.theta)),
            "95% interval": tested(interval_points),
            **(
                {"p": tested(lambda contrast: p_value(contrast.p))}
                if has_p
                else {"e-value": tested(lambda contrast: f"{contrast.e_value:.1f}")}
            ),
        },
    )


def _pair(contrast: Contrast) -> str:
    return " – ".join(contrast.arms)
