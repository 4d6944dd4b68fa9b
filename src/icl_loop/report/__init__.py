"""The page people look at: one HTML file that needs no network."""

from icl_loop.report.packing import packed, unpacked
from icl_loop.report.pages import WINDOWS, page
from icl_loop.report.shelving import MOST_BYTES, MOST_TURNS

__all__ = ["MOST_BYTES", "MOST_TURNS", "WINDOWS", "packed", "page", "unpacked"]
