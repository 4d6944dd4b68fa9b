"""The look of charts: accessible colours, for files and for the HTML report in light or dark mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import altair as alt

from icl_loop.core.names import one_line
from icl_loop.plots.inline import InlineConcatChart

# Okabe and Ito (2008), "Color universal design": distinguishable with any colour vision. Their
# yellow is omitted because it is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
TEXT_COLOURS = ("#00609A", "#A84A00", "#00694C", "#984D76", "#1B6C9C", "#835A00", "#000000")
"""Darker versions with enough contrast for text on white (4.5 to 1, WCAG 2.2)."""
DASHES: tuple[list[int], ...] = ([], [7, 3], [2, 2], [7, 2, 2, 2])
"""Dash patterns: the first for the first round of colours, the second for the second, and so on."""
GREY = "#555555"
WIDTH, HEIGHT = 640, 380
"""Default size of the plotting area in pixels."""
_AXES = 56
"""Height of axis and legend in pixels, added where a chart is fitted to its container."""
LayerChart = TypeVar("LayerChart", bound=alt.LayerChart)
AnyChart = alt.LayerChart | alt.ConcatChart | alt.VConcatChart
FONT = "DejaVu Sans, Liberation Sans, Helvetica, Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Look:
    """Colours, size and interactivity of a chart.

    Attributes:
        colours: Colours of the arms, used in rotation.
        text_colours: Colours of the arms' names.
        ink: Colour of text, axes and marks that belong to no arm.
        faint: Colour of background marks.
        paper: Background colour.
        width: Width of the plotting area (of each panel, if there are several) in pixels, or "container"
            to fill the available width; None for the default of the chart.
        height: Height of the plotting area or of each panel in pixels; None for the default of the chart.
        title: Title in place of that of the chart, if not empty.
        captions: Whether the lines below the title are drawn.
        interactive: Whether the chart reacts to the pointer.
        points: Approximate number of points for all lines of one kind.
    """

    colours: tuple[str, ...] = COLOURS
    text_colours: tuple[str, ...] = TEXT_COLOURS
    ink: str = "#111111"
    faint: str = GREY
    paper: str = "#FFFFFF"
    width: int | str | None = None
    height: int | None = None
    title: str = ""
    captions: bool = True
    interactive: bool = False
    points: int = 4_000

    def colour(self, place: int) -> str:
        """Return the colour of the arm at `place`."""
        return self.colours[place % len(self.colours)]

    def text_colour(self, place: int) -> str:
        """Return the text colour of the arm at `place`."""
        return self.text_colours[place % len(self.text_colours)]

    def heading(self, title: str, caption: Sequence[str] = ()) -> alt.TitleParams:
        """Return the title of a figure, with `caption` in lines below it."""
        lines = [one_line(line) for line in caption] if self.captions else []
        return alt.TitleParams(
            one_line(self.title or title),
            subtitle=lines or alt.Undefined,
            anchor="start",
            limit=max(WIDTH, self.width if isinstance(self.width, int) else 0),
            offset=14,
        )

    def config(self) -> dict[str, Any]:
        """Return the Vega-Lite configuration."""
        text = {"labelColor": self.ink, "titleColor": self.ink}
        return {
            "font": FONT,
            "background": "transparent" if self.interactive else self.paper,
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
                "subtitlePadding": 5,
            },
            "aria": not self.interactive,
        }


PAPER = Look()
"""For files: black on white, fixed size."""
PAGE = Look(
    colours=tuple(f"var(--arm-{place})" for place in range(len(COLOURS))),
    text_colours=tuple(f"var(--arm-text-{place})" for place in range(len(COLOURS))),
    ink="var(--ink)",
    faint="var(--faint)",
    paper="var(--paper)",
    width="container",
    interactive=True,
    points=1_500,
)
"""For the report: CSS variables, which follow the reader's colour scheme."""


def dashes(place: int) -> list[int]:
    """Return the dash pattern of the arm at `place`."""
    return DASHES[place // len(COLOURS) % len(DASHES)]


def panel_title(name: str, width: int) -> alt.TitleParams:
    """Return the title of one of several panels, `width` pixels wide."""
    return alt.TitleParams(one_line(name), anchor="start", fontSize=12, limit=width)


def finished(
    chart: LayerChart,
    look: Look,
    title: alt.TitleParams,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> LayerChart:
    """Return a chart with size and colours; in files, also with a title.

    `height` and `width` are those of a look that has none.
    """
    if look.interactive:
        fit = alt.AutoSizeParams(type="fit", contains="padding", resize=True)
        drawn = chart.properties(width=look.width, height=height + _AXES, autosize=fit)
    else:
        size = {"width": look.width or width, "height": look.height or height}
        drawn = chart.properties(**size, title=title)
    coloured: LayerChart = drawn.configure(**look.config())
    return coloured


def panels(
    charts: Sequence[alt.LayerChart], title: alt.TitleParams, look: Look, *, columns: int = 2
) -> InlineConcatChart:
    """Return charts side by side for files."""
    bare = [chart.copy(deep=False) for chart in charts]
    for chart in bare:
        chart.config = alt.Undefined  # Vega-Lite allows a configuration only at the top level
    combined: InlineConcatChart = (
        InlineConcatChart(concat=bare, columns=min(columns, len(bare)), spacing=24)
        .properties(title=title)
        .configure(**look.config())
    )
    return combined
