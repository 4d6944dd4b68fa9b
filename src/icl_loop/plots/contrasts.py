"""Chart of contrasts: differences in late accuracy by stream, with mean and interval."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from icl_loop.analysis import Conclusion, Contrast
from icl_loop.core.errors import InputError
from icl_loop.plots.theme import PAPER, WIDTH, AnyChart, Look, finished, panels

_ROW = 44
"""Height of a row in pixels."""


def contrast_chart(conclusion: Conclusion, look: Look = PAPER) -> alt.LayerChart:
    """Return a chart of an experiment's contrasts, the primary one first and filled.

    Ticks are streams, dots are means over streams, lines are 95 % t intervals. The band is the
    equivalence margin.

    Raises:
        InputError: There is no primary contrast, or it has no streams.
    """
    primary = conclusion.primary
    if primary is None or not primary.k:
        raise InputError(f"{conclusion.experiment} has no primary contrast to draw")
    contrasts = [primary, *(each.contrast for each in conclusion.secondary if each.contrast.k)]
    rows = pl.DataFrame([_row(each, primary) for each in contrasts], infer_schema_length=None)
    ticks = pl.DataFrame(
        [
            {"arms": _name(each), "difference": 100 * value}
            for each in contrasts
            for value in each.differences
        ]
    )
    order = rows["arms"].to_list()
    y = alt.Y("arms:N", sort=order, title=None, axis=alt.Axis(grid=False, labelLimit=190))
    base = alt.Chart(rows).encode(y=y)
    margin = pl.DataFrame({"low": [-100 * primary.margin], "high": [100 * primary.margin]})
    main = alt.value(look.colour(0))
    secondary = (
        base.transform_filter("!datum.primary")
        .mark_point(filled=True, size=80, opacity=1, strokeWidth=2.5)
        .encode(x=alt.X("theta:Q"), fill=alt.value(look.paper), stroke=main, tooltip=_TOOLTIP)
    )
    layers = [
        alt.Chart(margin)
        .mark_rect(color=look.faint, opacity=0.16)
        .encode(x=_x("low:Q"), x2=alt.X2("high:Q")),
        alt.Chart(pl.DataFrame({"zero": [0.0]}))
        .mark_rule(color=look.faint)
        .encode(x=alt.X("zero:Q")),
        alt.Chart(ticks)
        .mark_tick(thickness=1.2, size=14, opacity=0.55, color=look.faint)
        .encode(x=alt.X("difference:Q"), y=y),
        base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), color=main),
        base.transform_filter("datum.primary")
        .mark_point(filled=True, size=110, opacity=1)
        .encode(x=alt.X("theta:Q"), color=main, tooltip=_TOOLTIP),
        *([secondary] if len(contrasts) > 1 else []),
        base.mark_text(dy=-13, fontSize=11, color=look.ink).encode(
            x=alt.X("theta:Q"), text=alt.Text("text:N")
        ),
    ]
    title = alt.TitleParams(
        text=f"Contrasts: {conclusion.experiment}",
        subtitle=[
            f"late accuracy, {primary.k} streams; filled: the primary contrast",
            "dots: means; lines: 95 % t intervals; ticks: streams; band: equivalence margin",
        ],
        anchor="start",
        subtitleColor=look.faint,
    )
    return finished(alt.LayerChart(layer=layers), look, title, _ROW * len(order) + 12)


def contrast_charts(conclusions: Sequence[Conclusion]) -> AnyChart:
    """Return the contrasts of every experiment with a primary contrast.

    Raises:
        InputError: No experiment has one.
    """
    drawn = [each for each in conclusions if each.primary is not None and each.primary.k]
    if len(drawn) > 1:
        charts = [contrast_chart(each) for each in drawn]
        return panels(charts, "Contrasts", columns=1, pixels=WIDTH)
    return contrast_chart(drawn[0] if drawn else conclusions[0])


_TOOLTIP = [
    alt.Tooltip("arms:N"),
    alt.Tooltip("text:N", title="difference, points"),
    alt.Tooltip("interval:N", title="95 % interval"),
    alt.Tooltip("streams:Q"),
]


def _x(field: str) -> alt.X:
    return alt.X(
        field, title="difference in late accuracy, points", axis=alt.Axis(labelExpr=_SIGNED)
    )


_SIGNED = "(datum.value > 0 ? '+' : '') + datum.value"


def _name(contrast: Contrast) -> str:
    first, second = (_printable(arm) for arm in contrast.arms)
    return f"{first} - {second}"


def _printable(name: str) -> str:
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in name)


def _row(contrast: Contrast, primary: Contrast) -> dict[str, object]:
    low, high = contrast.interval or (contrast.theta, contrast.theta)
    assert contrast.theta is not None and low is not None and high is not None  # noqa: S101, PT018  a drawn contrast has streams
    return {
        "arms": _name(contrast),
        "theta": 100 * contrast.theta,
        "text": f"{100 * contrast.theta:+z.1f}",
        "low": 100 * low,
        "high": 100 * high,
        "interval": f"{100 * low:+z.1f} to {100 * high:+z.1f}" if contrast.interval else "none",
        "streams": contrast.k,
        "primary": contrast is primary,
    }
