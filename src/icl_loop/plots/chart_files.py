"""Writing charts to files: PNG, SVG, PDF, or HTML that works offline."""

import base64
import json
from pathlib import Path
from typing import Any

import vl_convert

from icl_loop.core.errors import InputError, StoppedShort, nearest, reason_of
from icl_loop.plots.theme import FONT, AnyChart

FORMATS = (".png", ".svg", ".pdf", ".html")
_FONTS = Path(__file__).parent / "fonts"
_OFFLINE = {"actions": {"export": True, "source": False, "compiled": False, "editor": False}}
"""The page's menu offers only export, nothing that contacts another site."""


def save(chart: AnyChart, path: Path | str) -> None:
    """Write a chart to `path` in the format of its extension.

    Raises:
        InputError: The extension is not .png, .svg, .pdf or .html.
        StoppedShort: The file cannot be written.
    """
    path = Path(path)
    check_format(path)
    try:
        if path.suffix == ".html":
            chart.save(path, inline=True, embed_options=_OFFLINE, json_kwds={"cls": _InScript})
        elif path.suffix == ".svg":
            path.write_text(_svg(chart), encoding="utf-8", newline="\n")
        elif path.suffix == ".pdf":
            path.write_bytes(vl_convert.vegalite_to_pdf(_with_own_font(chart)))
        else:
            chart.save(path, scale_factor=2)
    except OSError as error:
        raise StoppedShort(f"{path} cannot be written: {reason_of(error)}") from None


def check_format(path: Path) -> None:
    """Raise InputError if `save` does not support the extension of `path`."""
    if path.suffix not in FORMATS:
        hint = nearest(path.suffix, FORMATS)
        raise InputError(f"{path} must end in .png, .svg, .pdf or .html: {hint}")


def _svg(chart: AnyChart) -> str:
    """Return a chart as SVG, laid out with a font that it embeds."""
    svg = str(vl_convert.vegalite_to_svg(_with_own_font(chart)))
    head, tag, rest = svg.partition(">")
    data = base64.b64encode((_FONTS / "Aileron-Regular.ttf").read_bytes()).decode()
    face = f'@font-face{{font-family:"Aileron";src:url("data:font/ttf;base64,{data}")}}'
    return f"{head}{tag}<style>{face}</style>{rest}"


def _with_own_font(chart: AnyChart) -> dict[str, Any]:
    """Return the specification of a chart that uses the font in this package."""
    vl_convert.register_font_directory(str(_FONTS))
    specification: dict[str, Any] = chart.to_dict()
    specification["config"]["font"] = f"Aileron, {FONT}"
    return specification


class _InScript(json.JSONEncoder):
    """Escapes `<` in JSON, so that no name can close the surrounding script element."""

    def encode(self, o: Any) -> str:  # noqa: ANN401  the base class takes anything
        return super().encode(o).replace("<", r"\u003c")
