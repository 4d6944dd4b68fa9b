"""The output and error consoles of the command line, and its exit codes."""

import codecs
import io
import json
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress

import typer
from rich.console import Console

from icl_loop.core.names import printable

DONE, STOPPED_SHORT, BAD_INPUT = 0, 1, 2
PIPE_WIDTH = 120
"""Width of tables that are written to a file or a pipe."""


_SIMILAR = str.maketrans(
    "–…·±→←▶▲▁▂▃▄▅▆▇█▀┈─━│┃╭╮╰╯╸╺",
    "-..~><>^_.-=+*%##.--||++++--",
)
"""ASCII characters that look most like those that tables and charts are drawn with."""


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


out = _console(stderr=False)
err = _console(stderr=True)


def prepare_streams() -> None:
    """Open standard streams that are closed; print characters that they cannot encode in ASCII."""
    codecs.register_error("icl_loop.ascii", _in_ascii)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # else its descriptor would be that of the next file
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115, PTH123  open until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="icl_loop.ascii")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Return similar characters, or "?", for the ones that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    similar = error.object[error.start : error.end].translate(_SIMILAR)
    return similar.encode("ascii", "replace").decode(), error.end


def drop_output() -> None:
    """Let no more output be written, so that it cannot fail once more when the process ends."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def print_text(text: str, console: Console = out, style: str | None = None) -> None:
    """Print text as it is, without markup, wrapping or control characters."""
    console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error or a warning to the error console."""
    print_text(text, err, "red")


def print_json(value: object) -> None:
    """Print JSON in which characters that could control a terminal are escaped.

    Where the encoding of the output does not have every character, all but ASCII are escaped.
    """
    has_all = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not has_all, indent=2, allow_nan=False)
    pairs = zip(text, printable(text), strict=True)
    typer.echo("".join(char if char == kept else json.dumps(char)[1:-1] for char, kept in pairs))


def this_command(changes: Mapping[str, str] | None = None, without: str | None = None) -> str:
    """Return the command line as it was entered, with other values of options, `without` a flag."""
    words = ["icl-loop", *(word for word in sys.argv[1:] if word != without)]
    for option, value in (changes or {}).items():
        for place, word in enumerate(words):
            if word.startswith(f"{option}="):
                words[place] = f"{option}={value}"
            elif word == option:
                words[place + 1 : place + 2] = [value]
    return shlex.join(words)
