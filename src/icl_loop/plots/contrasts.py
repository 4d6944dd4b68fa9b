"""Chart of contrasts: differences in late accuracy by stream, with mean and interval."""

import textwrap
from collections.abc import Sequence

import altair as alt
import polars as pl

from icl_loop.analysis import Conclusion, Contrast
from icl_loop.core.errors import InputError
from icl_loop.core.names import numbered, one_line
from icl_loop.plots.theme import PAPER, WIDTH, AnyChart, Look, finished, panel_title, panels

_ROW_HEIGHT, _LINE_HEIGHT = 44, 13
"""Height of a row, and of a line of names in it, in pixels."""
_NAME_WIDTH = 36
"""Maximum number of characters in a line of names."""
_NAME_LINES = 6
"""Maximum number of lines for a name."""
_CAPTION = (
    "filled: the primary contrast",
    "dots: means; lines: 95 % intervals; ticks: streams; band: equivalence margin",
)
_TOOLTIP = [
    alt.Tooltip("arms:N"),
    alt.Tooltip("text:N", title="difference, points"),
    alt.Tooltip("interval:N", title="95 % interval"),
    alt.Tooltip("streams:Q"),
]


def contrast_chart(conclusion: Conclusion, look: Look = PAPER) -> alt.LayerChart:
    """Return a chart of an experiment's contrasts, the primary one first and filled.

    Ticks are streams, dots are means over streams, lines are 95 % intervals. The band is the
    equivalence margin.

    Raises:
        InputError: There is no primary contrast, or it has no streams.
    """
    streams = conclusion.primary.k if conclusion.primary else 0
    caption = (f"late accuracy in {streams} streams", *_CAPTION)
    return _chart(conclusion, look, look.heading(f"Contrasts: {conclusion.title}", caption))


def _chart(conclusion: Conclusion, look: Look, title: alt.TitleParams) -> alt.LayerChart:
    primary = conclusion.primary
    if primary is None or not primary.k:
        raise InputError(f"{conclusion.title} has no primary contrast to draw")
    contrasts = [primary, *(each.contrast for each in conclusion.secondary if each.contrast.k)]
    layers = [*_background(primary.margin, look), *_rows(contrasts, look)]
    breaks = max(_wrapped(each).count("\n") for each in contrasts)
    row = max(_ROW_HEIGHT, _LINE_HEIGHT * (breaks + 2))
    return finished(alt.LayerChart(layer=layers), look, title, row * len(contrasts) + 12)


def contrast_charts(conclusions: Sequence[Conclusion], look: Look = PAPER) -> AnyChart:
    """Return the contrasts of every experiment with a primary contrast.

    Raises:
        InputError: No experiment has one.
    """
    drawn = [each for each in conclusions if each.primary is not None and each.primary.k]
    if len(drawn) > 1:
        charts = [_chart(each, look, panel_title(each.title, WIDTH)) for each in drawn]
        separate = panels(charts, look.heading("Contrasts", _CAPTION), look, columns=1)
        combined: AnyChart = separate.resolve_scale(x="shared")
        return combined
    return contrast_chart(drawn[0] if drawn else conclusions[0], look)


def _background(margin: float, look: Look) -> list[alt.Chart]:
    """Return the band of the equivalence margin and the line at zero."""
    band = pl.DataFrame({"low": [-100 * margin], "high": [100 * margin]})
    x = alt.X(
        "low:Q",
        title="difference in late accuracy, points",
        axis=alt.Axis(
            labelExpr="(datum.value > 0 ? '+' : '') + datum.value",
            tickCount=10,
            titleAnchor="end",  # on narrow screens it reaches below the names
        ),
    )
    zero = alt.Chart(pl.DataFrame({"zero": [0.0]})).mark_rule(color=look.faint)
    return [
        alt.Chart(band).mark_rect(color=look.faint, opacity=0.16).encode(x=x, x2=alt.X2("high:Q")),
        zero.encode(x=alt.X("zero:Q")),
    ]


def _rows(contrasts: Sequence[Contrast], look: Look) -> list[alt.Chart]:
    """Return ticks, intervals, means and numbers, with one row per contrast."""
    names = numbered(map(_wrapped, contrasts))
    rows = pl.DataFrame(
        [
            {"lines": name, **_row(each, contrasts[0])}
            for name, each in zip(names, contrasts, strict=True)
        ],
        infer_schema_length=None,
    )
    ticks = pl.DataFrame(
        [
            {"lines": name, "difference": 100 * value}
            for name, each in zip(names, contrasts, strict=True)
            for value in each.differences
        ]
    )
    lines = "split(datum.value, '\\n')"
    centred = [  # a label of several lines begins at its tick
        {"test": f"length({lines}) == {breaks + 1}", "value": -breaks * _LINE_HEIGHT / 2}
        for breaks in range(1, 1 + max(name.count("\n") for name in names))
    ]
    axis = alt.Axis(
        grid=False,
        labelLimit=240,
        labelExpr=lines,
        labelLineHeight=_LINE_HEIGHT,
        labelOffset={"condition": centred, "value": 0} if centred else alt.Undefined,
    )
    y = alt.Y("lines:N", scale=alt.Scale(domain=names), title=None, axis=axis)
    base, colour, mean = alt.Chart(rows).encode(y=y), alt.value(look.colour(0)), alt.X("theta:Q")
    layers = [
        alt.Chart(ticks)
        .mark_tick(thickness=1.2, size=14, opacity=0.55, color=look.faint)
        .encode(x=alt.X("difference:Q"), y=y),
        base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), color=colour),
        base.transform_filter("datum.primary")
        .mark_point(filled=True, size=110, opacity=1)
        .encode(x=mean, color=colour, tooltip=_TOOLTIP),
        base.transform_filter("!datum.primary")
        .mark_point(filled=True, size=80, opacity=1, strokeWidth=2.5)
        .encode(x=mean, fill=alt.value(look.paper), stroke=colour, tooltip=_TOOLTIP),
        base.mark_text(dy=-13, fontSize=11, color=look.ink).encode(x=mean, text=alt.Text("text:N")),
    ]
    if len(contrasts) == 1:
        del layers[3]  # browsers warn about empty layers
    return layers


def _name(contrast: Contrast) -> str:
    """Return both arms, with unprintable characters replaced."""
    return one_line(" - ".join(contrast.arms))


def _wrapped(contrast: Contrast) -> str:
    """Return both arms in lines that fit beside the chart, broken after `_` or, failing that, anywhere."""
    if len(_name(contrast)) <= _NAME_WIDTH:
        return _name(contrast)
    first, second = (one_line(arm).replace("_", "_ ") for arm in contrast.arms)
    wrapper = textwrap.TextWrapper(_NAME_WIDTH, max_lines=_NAME_LINES, placeholder="…")
    lines = [*wrapper.wrap(first), *wrapper.wrap(f"- {second}")]
    return "\n".join(line.replace("_ ", "_") for line in lines)


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
