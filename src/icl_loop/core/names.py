"""Names from other people's files, as they are shown."""

import unicodedata
from collections.abc import Iterable

LONGEST = 300
"""Longest name that a chart holds in full: it repeats names in every row of its data."""


def printable(text: str) -> str:
    """Return `text` with U+FFFD in place of every character that could control a terminal."""
    return "".join(char if _is_safe(char) else "\ufffd" for char in text)


def _is_safe(char: str) -> bool:
    # Python calls wide spaces unprintable, but they only take up room.
    return char.isprintable() or char == "\n" or unicodedata.category(char) == "Zs"


def one_line(text: str) -> str:
    """Return the beginning of `text` on one line, with U+FFFD in place of unprintable characters."""
    shown = printable(text[: LONGEST + 1]).replace("\n", "\ufffd")
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def distinct(names: Iterable[str]) -> list[str]:
    """Return names as a chart shows them: on one line, and numbered where they would look the same."""
    return numbered(map(one_line, names))


def numbered(names: Iterable[str]) -> list[str]:
    """Return names with a number added to each that occurred before, such as `a (2)`."""
    shown: dict[str, None] = {}
    for name in names:
        number, unique = 1, name
        while unique in shown:
            number += 1
            unique = f"{name} ({number})"
        shown[unique] = None
    return list(shown)
