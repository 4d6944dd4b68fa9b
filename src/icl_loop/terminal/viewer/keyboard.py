"""Single keys of a terminal, as they are pressed; POSIX only."""

import importlib.util
import os
import re
import select
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

_KEY = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|[\x00-\x7f]")
_UNFINISHED = re.compile(rb"\x1b(?:[\[O][0-9;]*)?\Z")
_NAMES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\x1b": "escape",
    b"\x03": "interrupt",
    b"\x04": "interrupt",
}
_REST_S = 0.05
"""Seconds in which the rest of a key that sends several bytes must follow."""


def keys_in(data: bytes) -> list[str]:
    r"""Return the keys that a terminal sent: marks as themselves, others by name, the rest dropped.

    >>> keys_in(b"n\x1b[C g12\r")
    ['n', 'right', ' ', 'g', '1', '2', 'enter']
    """
    return [name for key in _KEY.findall(data) if (name := _name(key))]


def _name(key: bytes) -> str | None:
    key = key.replace(b"\x1bO", b"\x1b[")
    return _NAMES.get(key) or (key.decode() if key.decode().isprintable() else None)


def has_keys() -> bool:
    """Return whether somebody sees and can press keys, and there is a way to read them."""
    seen = sys.stdin.isatty() and sys.stdout.isatty()
    return seen and importlib.util.find_spec("termios") is not None


class Keyboard:
    """A terminal that hands over each key unechoed; on leaving it is as it was before.

    Ctrl-C is a key like any other. A request to end (SIGTERM, SIGHUP) leaves the terminal well, too.
    """

    def __init__(self, descriptor: int) -> None:
        """Take the terminal that is open at `descriptor`."""
        self._descriptor = descriptor
        self._before: list[Any] = []
        self._signals: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Stop the terminal from collecting lines and showing what is typed."""
        import termios  # noqa: PLC0415  there is none on every platform

        self._before = termios.tcgetattr(self._descriptor)
        changed = list(self._before)
        changed[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, changed)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._signals[number] = signal.signal(number, _leave)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Give the terminal back, and forget what was typed but not read."""
        import termios  # noqa: PLC0415  there is none on every platform

        for number, before in self._signals.items():
            signal.signal(number, before)
        termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._before)

    def pressed(self, seconds: float) -> list[str]:
        """Return the keys pressed by now, waiting for the first at most as long as this."""
        if not self._ready(seconds):
            return []
        data = os.read(self._descriptor, 1_024)
        if not data:
            return ["interrupt"]
        while _UNFINISHED.search(data) and self._ready(_REST_S):
            data += os.read(self._descriptor, 1_024)
        return keys_in(data)

    def _ready(self, seconds: float) -> bool:
        return bool(select.select([self._descriptor], [], [], max(0.0, seconds))[0])


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
