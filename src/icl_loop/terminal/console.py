"""Where the command line prints, and the exit codes that say how it went."""

import json
import shlex
import sys

import typer
from rich.console import Console

from icl_loop.core.errors import IclLoopError, InputError
from icl_loop.terminal.formatting import printable

DONE, STOPPED_SHORT, WRONG_INPUT = 0, 1, 2
PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


out = _console(stderr=False)
err = _console(stderr=True)


def exit_code(error: IclLoopError) -> int:
    """Return 2 where the input was wrong, else 1."""
    return WRONG_INPUT if isinstance(error, InputError) else STOPPED_SHORT


def complain(text: str) -> None:
    """Print an error or a warning."""
    err.print(printable(text), style="red", markup=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line of words, in which names stand that others chose."""
    out.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print JSON in which whatever could steer a terminal is escaped; it reads back the same."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    if not all(line.isprintable() for line in text.split("\n")):
        pairs = zip(text, printable(text), strict=True)
        text = "".join(mark if mark == kept else json.dumps(mark)[1:-1] for mark, kept in pairs)
    typer.echo(text)


def this_command() -> str:
    """Return the command as it was given."""
    return shlex.join(["icl-loop", *sys.argv[1:]])
