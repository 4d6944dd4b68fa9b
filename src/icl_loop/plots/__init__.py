"""Charts: PNG, SVG and offline HTML from one specification each."""

from icl_loop.plots.curves import MAX_POINTS, MAX_THIN_LINES, curve_chart
from icl_loop.plots.look import COLOURS, HEIGHT, PAGE, PAPER, WIDTH, Look
from icl_loop.plots.saving import FORMATS, check_format, save

__all__ = [
    "COLOURS",
    "FORMATS",
    "HEIGHT",
    "MAX_POINTS",
    "MAX_THIN_LINES",
    "PAGE",
    "PAPER",
    "WIDTH",
    "Look",
    "check_format",
    "curve_chart",
    "save",
]
