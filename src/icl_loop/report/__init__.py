"""The page people look at: one HTML file that needs no network."""

from icl_loop.report.packing import packed, unpacked
from icl_loop.report.pages import MOST_TURNS, WINDOWS, page

__all__ = ["MOST_TURNS", "WINDOWS", "packed", "page", "unpacked"]
