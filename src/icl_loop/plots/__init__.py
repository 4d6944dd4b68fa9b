"""Charts: PNG, SVG, PDF and offline HTML from one specification each."""

from icl_loop.plots.answer_charts import confusion_chart, outcome_chart
from icl_loop.plots.chart_files import check_format, save
from icl_loop.plots.contrasts import contrast_chart, contrast_charts
from icl_loop.plots.curves import compared_chart, curve_chart
from icl_loop.plots.graded_learning import calibration_chart, score_chart
from icl_loop.plots.probes import probe_chart
from icl_loop.plots.theme import AnyChart, Look
from icl_loop.plots.token_usage import exposure_chart, token_chart, token_panels
from icl_loop.plots.what_if import what_if_chart

__all__ = [
    "AnyChart",
    "Look",
    "calibration_chart",
    "check_format",
    "compared_chart",
    "confusion_chart",
    "contrast_chart",
    "contrast_charts",
    "curve_chart",
    "exposure_chart",
    "outcome_chart",
    "probe_chart",
    "save",
    "score_chart",
    "token_chart",
    "token_panels",
    "what_if_chart",
]
