"""Rendered output, and hostile text to test it with."""

import unicodedata
from io import StringIO

from rich.console import Console, RenderableType

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e9\u2066\x9b31m\r\x00\u200b [bold]x[/nope]"


def shown(what: RenderableType, width: int = 120) -> str:
    """Return the text that a pipe would get."""
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def is_plain(text: str) -> bool:
    """Return whether a text has no control, format or unassigned characters."""
    return all(unicodedata.category(mark)[0] != "C" for mark in text.replace("\n", ""))
