"""The HTML report: one self-contained file that works offline."""

from icl_loop.report.page import WINDOWS, page
from icl_loop.report.page_budget import MOST_BYTES, MOST_TURNS
from icl_loop.report.page_data import packed, unpacked

__all__ = ["MOST_BYTES", "MOST_TURNS", "WINDOWS", "packed", "page", "unpacked"]
