"""How charts look: colours that any eye tells apart, on paper and on a page in light or dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

# Okabe and Ito (2008), "Color universal design": told apart with any colour vision. Yellow is
# left out, being too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
TEXT_COLOURS = ("#00609A", "#A84A00", "#00694C", "#984D76", "#1B6C9C", "#835A00", "#000000")
"""The same, dark enough on white for text (4.5 to 1, WCAG 2.2)."""
DASHES: tuple[list[int], ...] = ([], [7, 3], [2, 2], [7, 2, 2, 2])
"""Strokes of the first arms, of those that take the colours for the second time, and so on."""
GREY = "#555555"
WIDTH, HEIGHT = 640, 380
"""Pixels of the plot without its titles and names."""
AnyChart = alt.LayerChart | alt.ConcatChart | alt.VConcatChart
FONT = "DejaVu Sans, Liberation Sans, Helvetica, Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Look:
    """What a chart is drawn with.

    Attributes:
        colours: Of the arms, taken in turn.
        text_colours: Of their names.
        ink: Of text, axes and marks of no arm.
        faint: Of what stands behind.
        paper: Of the ground.
        width: Pixels, or "container" for as much as there is.
        lively: Whether the pointer is answered.
        points: About as many points have all lines of one kind together.
    """

    colours: tuple[str, ...] = COLOURS
    text_colours: tuple[str, ...] = TEXT_COLOURS
    ink: str = "#111111"
    faint: str = GREY
    paper: str = "#FFFFFF"
    width: int | str = WIDTH
    lively: bool = False
    points: int = 4_000

    def colour(self, place: int) -> str:
        """Return the colour of the arm at `place`."""
        return self.colours[place % len(self.colours)]

    def text_colour(self, place: int) -> str:
        """Return the colour of its name."""
        return self.text_colours[place % len(self.text_colours)]

    def config(self) -> dict[str, Any]:
        """Return what Vega-Lite is to be told."""
        text = {"labelColor": self.ink, "titleColor": self.ink}
        return {
            "font": FONT,
            "background": "transparent" if self.lively else self.paper,
            "view": {"stroke": None},
            "axis": {
                **text,
                "grid": True,
                "gridOpacity": 0.18,
                "gridColor": self.faint,
                "domainColor": self.faint,
                "tickColor": self.faint,
                "titleFontWeight": "normal",
                "titleFontSize": 12,
                "labelFontSize": 11,
                "titlePadding": 8,
            },
            "legend": {**text, "titleFontWeight": "normal"},
            "header": text,
            "title": {
                "color": self.ink,
                "subtitleColor": self.faint,
                "fontWeight": "normal",
                "fontSize": 15,
                "subtitleFontSize": 12,
            },
            "aria": not self.lively,
        }


PAPER = Look()
"""For files: black on white, of a fixed size."""
PAGE = Look(
    colours=tuple(f"var(--arm-{place})" for place in range(len(COLOURS))),
    text_colours=tuple(f"var(--arm-text-{place})" for place in range(len(COLOURS))),
    ink="var(--ink)",
    faint="var(--faint)",
    paper="var(--paper)",
    width="container",
    lively=True,
    points=1_500,
)
"""For the report: the page's own colours, which turn with the reader's scheme."""


def dashes(place: int) -> list[int]:
    """Return the stroke of the arm at `place`."""
    return DASHES[place // len(COLOURS) % len(DASHES)]


def finished(
    chart: alt.LayerChart, look: Look, title: alt.TitleParams, height: int = HEIGHT
) -> alt.LayerChart:
    """Return a chart with its size, its colours and, on paper, its title."""
    room = _AXES if look.lively else 0
    sized = chart.properties(width=look.width, height=height + room)
    if not look.lively:
        drawn: alt.LayerChart = sized.properties(title=title).configure(**look.config())
        return drawn
    lively: alt.LayerChart = sized.properties(autosize=_FIT).configure(**look.config())
    return lively


_AXES = 56
"""Pixels that axis and legend take of the height where a chart is fitted into its place."""
_FIT = alt.AutoSizeParams(type="fit", contains="padding", resize=True)


def panels(
    charts: Sequence[alt.LayerChart],
    title: str,
    *,
    columns: int = 2,
    pixels: int = 300,
    subtitle: Sequence[str] = (),
) -> alt.ConcatChart:
    """Return small multiples on paper, each `pixels` wide."""
    bare = [_bare(chart).properties(width=pixels) for chart in charts]
    side: alt.ConcatChart = (
        alt.ConcatChart(concat=bare, columns=min(columns, len(bare)), spacing=24)
        .properties(
            title=alt.TitleParams(
                title, subtitle=list(subtitle), anchor="start", subtitleColor=GREY, offset=14
            )
        )
        .configure(**PAPER.config())
    )
    return side


def _bare(chart: alt.LayerChart) -> alt.LayerChart:
    """Return a chart without a configuration of its own, which only the whole may have."""
    copy: alt.LayerChart = chart.copy(deep=False)
    copy.config = alt.Undefined
    return copy
