"""A chart to a file: PNG, SVG, or a page that works offline."""

import json
from pathlib import Path
from typing import Any

from icl_loop.errors import InputError, StoppedShort, nearest
from icl_loop.plots.look import AnyChart

FORMATS = (".png", ".svg", ".html")


def save(chart: AnyChart, path: Path) -> None:
    """Write the chart to `path`; its ending says how.

    Raises:
        InputError: The ending is none of .png, .svg, .html.
        StoppedShort: The file cannot be written.
    """
    check_format(path)
    try:
        if path.suffix == ".html":
            chart.save(path, inline=True, embed_options=_OFFLINE, json_kwds={"cls": _InScript})
        else:
            chart.save(path, scale_factor=2)
    except OSError as error:
        raise StoppedShort(f"{path} cannot be written: {error.strerror}") from None


_OFFLINE = {"actions": {"export": True, "source": False, "compiled": False, "editor": False}}
"""What the menu of the page offers: nothing that goes to another site."""


class _InScript(json.JSONEncoder):
    """Writes JSON without `<`, so that no name in it can end the script element it stands in."""

    def encode(self, o: Any) -> str:  # noqa: ANN401  the base class takes anything
        return super().encode(o).replace("<", r"\u003c")


def check_format(path: Path) -> None:
    """Raise InputError if `path` does not end in a format that `save` writes."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: a plot is .png, .svg or .html; {nearest(path.suffix, FORMATS)}")
