"""What a terminal or a pipe would get, and texts that would steer it if they could."""

import unicodedata
from io import StringIO

from rich.console import Console, RenderableType

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e9\u2066\x9b31m\r\x00\u200b [bold]x[/nope]"


def shown(what: RenderableType, width: int = 120) -> str:
    """Return what a pipe would get."""
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def is_plain(text: str) -> bool:
    """Whether no mark of a text is a control, a format sign, or stands for nothing."""
    return all(unicodedata.category(mark)[0] != "C" for mark in text.replace("\n", ""))
