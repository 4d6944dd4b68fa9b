"""Names from people's files: how they are shown, and whether a file or folder can have them."""

import unicodedata
from collections.abc import Iterable

from icl_loop.core.errors import InputError

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
    composed = unicodedata.normalize("NFC", text[: LONGEST + 1])
    shown = printable(composed).replace("\n", "\ufffd")
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


MAX_FILE_NAME = 240
"""Most bytes of a name in UTF-8: file systems take 255, and some names get an ending."""
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in "0123456789\u00b9\u00b2\u00b3"]
)
"""Names that Windows reserves, whatever follows a dot in them."""


def check_file_name(name: str, what: str = "") -> str:
    """Return `name`; raise InputError, which begins with `what`, if some system has no such file name.

    The rules are those of Windows ("Naming Files, Paths, and Namespaces"), the strictest ones.
    """
    stem = name.partition(".")[0].rstrip()
    wrong = next((char for char in name if char in '<>:"/\\|?*' or not _is_safe(char)), None)
    if wrong is not None or "\n" in name:
        reason = f"it contains {wrong or chr(10)!a}"
    elif not name or name[-1] in ". " or name[0] == " ":
        reason = "it must not be empty, begin with a space, or end with a dot or a space"
    elif stem.lower() in _DEVICES:
        reason = f"{stem} is a device on Windows"
    elif len(name.encode()) > MAX_FILE_NAME:
        reason = f"it is longer than {MAX_FILE_NAME} bytes"
    else:
        return name
    raise InputError(f"{what}cannot be the name of a file on every system: {reason}")


def folded(name: str) -> str:
    """Return a text that is equal for names that Windows or macOS take for the same file."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
