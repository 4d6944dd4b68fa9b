"""The HTML report: one self-contained file that works offline."""

from icl_loop.report.page import page

__all__ = ["page"]
