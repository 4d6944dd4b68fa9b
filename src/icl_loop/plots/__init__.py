"""Charts: PNG, SVG and offline HTML from one specification each."""

from icl_loop.plots.answer_charts import (
    ALL,
    HALVES,
    MOST_LABELS,
    NONE,
    answer_shares,
    confusion_chart,
    halves,
    labels_of,
    outcome_chart,
    outcome_shares,
)
from icl_loop.plots.chart_files import FORMATS, check_format, save
from icl_loop.plots.contrasts import contrast_chart, contrast_charts
from icl_loop.plots.curves import (
    MAX_POINTS,
    MAX_THIN_LINES,
    MAX_WITH_THIN,
    compared_chart,
    curve_chart,
)
from icl_loop.plots.probes import probe_chart
from icl_loop.plots.theme import COLOURS, HEIGHT, PAGE, PAPER, WIDTH, AnyChart, Look
from icl_loop.plots.token_usage import (
    exposure_chart,
    knows_tokens,
    reports_tokens,
    token_chart,
    token_panels,
)
from icl_loop.plots.what_if import what_if_chart

__all__ = [
    "ALL",
    "COLOURS",
    "FORMATS",
    "HALVES",
    "HEIGHT",
    "MAX_POINTS",
    "MAX_THIN_LINES",
    "MAX_WITH_THIN",
    "MOST_LABELS",
    "NONE",
    "PAGE",
    "PAPER",
    "WIDTH",
    "AnyChart",
    "Look",
    "answer_shares",
    "check_format",
    "compared_chart",
    "confusion_chart",
    "contrast_chart",
    "contrast_charts",
    "curve_chart",
    "exposure_chart",
    "halves",
    "knows_tokens",
    "labels_of",
    "outcome_chart",
    "outcome_shares",
    "probe_chart",
    "reports_tokens",
    "save",
    "token_chart",
    "token_panels",
    "what_if_chart",
]
