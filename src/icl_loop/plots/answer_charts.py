"""Charts of answers: confusion matrices, early and late, and outcomes."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from icl_loop.analysis import confusion
from icl_loop.core.errors import InputError
from icl_loop.core.names import distinct
from icl_loop.plots.line_charts import heading, named
from icl_loop.plots.theme import PAPER, AnyChart, Look, finished, panel_title, panels

MOST_LABELS = 26
"""With more labels, cells are too small."""
NONE = "none"
"""Shown in place of a missing answer."""
ALL = "all"
"""Shown as the label of the row for all turns."""
CLASSES = {"right": 2, "wrong": 1, "unreadable": 5, "out_of_set": 3, "refusal": 6, "truncated": 4}
"""Outcome classes and the index of their colours; the first two were parsed."""
_AXIS = alt.Axis(grid=False, labelAngle=0, labelFontSize=9, labelOverlap=True, ticks=False)


def halves(turns: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the turns in the first and second half of the planned turns."""
    late = pl.col("turn") >= pl.col("turns") // 2
    return {"early": turns.filter(~late), "late": turns.filter(late)}


def answer_shares(
    turns: pl.DataFrame, labels: Sequence[str]
) -> tuple[pl.DataFrame, list[str], list[str]]:
    """Return the share of each answer among the turns of each label, and among all turns.

    Columns: `label` (`ALL` for all turns), `answer` (`NONE` if unparsed), `share`. The lists are the
    names of the rows and columns of a confusion matrix in order. All names are as a chart shows them.
    """
    answers = turns["answer"].unique().drop_nulls()
    known = [*labels, *sorted(set(answers) - set(labels))]
    *names, none, every = distinct([*known, NONE, ALL])
    shown = dict(zip(known, names, strict=True))

    def name(column: str, missing: str) -> pl.Expr:
        return pl.col(column).replace_strict(shown, default=None).fill_null(missing).alias(column)

    totals = turns.group_by("answer", maintain_order=True).agg(share=pl.len() / turns.height)
    shares = pl.concat(
        [
            confusion(turns).select("label", "answer", "share"),
            totals.select(label=pl.lit(None, pl.String), answer="answer", share="share"),
        ]
    ).with_columns(name("label", every), name("answer", none))
    asked = set(shares["label"])
    rows = [each for each in (*names[: len(labels)], every) if each in asked]
    return shares, rows, [*names, *([none] if turns["answer"].null_count() else [])]


def labels_of(turns: pl.DataFrame) -> list[str]:
    """Return the labels of some turns, sorted; numbers are sorted by value."""
    labels = turns["label"].unique().to_list()
    return sorted(labels, key=lambda each: (len(each), each) if each.isdigit() else (1_000, each))


def confusion_chart(turns: pl.DataFrame, look: Look = PAPER) -> AnyChart:
    """Return a confusion matrix for each half of each arm's turns.

    Raises:
        InputError: There are more than `MOST_LABELS` labels.
    """
    arms = named(turns).partition_by("name", maintain_order=True)
    most = max(arm["label"].n_unique() for arm in arms)
    if most > MOST_LABELS:
        raise InputError(
            f"a confusion matrix shows at most {MOST_LABELS} labels, but there are {most}"
        )
    maps = [
        _matrix(part, f"{arm['name'][0]}, {half}", labels_of(arm), look)
        for arm in arms
        for half, part in halves(arm).items()
    ]
    title = heading("Answers by label", turns, look, "colour: share of the label's turns")
    return panels(maps, title, look, columns=4)


def _matrix(turns: pl.DataFrame, name: str, labels: list[str], look: Look) -> alt.LayerChart:
    shares, rows, columns = answer_shares(turns, labels)
    given = [each for each in columns if each in set(shares["answer"])]
    cells = (
        alt.Chart(shares)
        .mark_rect()
        .encode(
            x=alt.X("answer:N", scale=alt.Scale(domain=given), title="answer", axis=_AXIS),
            y=alt.Y("label:N", scale=alt.Scale(domain=rows), title="label", axis=_AXIS),
            color=alt.Color(
                "share:Q",
                scale=alt.Scale(domain=[0, 1], range=["#FFFFFF", "#08306B"]),
                legend=alt.Legend(title="share", format="%"),
            ),
        )
    )
    return finished(alt.LayerChart(layer=[cells]), look, panel_title(name, 170), 170, 170)


def outcome_shares(turns: pl.DataFrame) -> pl.DataFrame:
    """Return the share of each outcome class among the turns of each arm.

    Columns: `name`, `outcome` (`right` or `wrong` if parsed), `turns`, `share`, `order`.
    """
    parsed = pl.when("correct").then(pl.lit("right")).otherwise(pl.lit("wrong"))
    outcome = pl.when(pl.col("outcome") == "ok").then(parsed).otherwise("outcome")
    counts = named(turns.drop_nulls("correct")).group_by(
        "name", outcome=outcome, maintain_order=True
    )
    places = {each: place for place, each in enumerate(CLASSES)}
    return counts.agg(turns=pl.len()).with_columns(
        share=pl.col("turns") / pl.col("turns").sum().over("name"),
        order=pl.col("outcome").replace_strict(places, default=len(places)),
    )


def outcome_chart(turns: pl.DataFrame, look: Look = PAPER) -> alt.LayerChart:
    """Return a bar per arm with its shares of right, wrong and unparsed answers."""
    shares = outcome_shares(turns)
    names = shares["name"].unique(maintain_order=True).to_list()
    classes = [each for each in CLASSES if each in set(shares["outcome"])]
    colours = [look.colour(CLASSES[each]) for each in classes]
    bars = (
        alt.Chart(shares)
        .mark_bar(height=alt.RelativeBandSize(band=0.66))
        .encode(
            x=alt.X(
                "share:Q",
                stack="zero",
                title="share of turns",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            y=alt.Y(
                "name:N",
                scale=alt.Scale(domain=names),  # with `sort`, names are part of an expression
                title=None,
                axis=alt.Axis(grid=False, labelLimit=190),
            ),
            color=alt.Color(
                "outcome:N",
                scale=alt.Scale(domain=classes, range=colours),
                legend=alt.Legend(title=None, orient="top", symbolType="square"),
            ),
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("name:N", title="arm"),
                alt.Tooltip("outcome:N"),
                alt.Tooltip("turns:Q"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    title = heading("Outcomes", turns, look)
    return finished(alt.LayerChart(layer=[bars]), look, title, 30 * len(names) + 10)
