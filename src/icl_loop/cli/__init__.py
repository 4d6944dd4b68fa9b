"""The command line, one module per command."""

import errno
import sys
from typing import Annotated, NoReturn

import typer

from icl_loop.cli.lazy_commands import SETTINGS, LazyCommands, print_version
from icl_loop.cli.limited_memory import limited_memory
from icl_loop.core.errors import OUT_OF_FILES, IclLoopError, InputError, reason_of
from icl_loop.runner.scheduler import allow_open_files
from icl_loop.terminal.console import (
    BAD_INPUT,
    DONE,
    STOPPED_SHORT,
    drop_output,
    prepare_streams,
    print_error,
)

app = typer.Typer(
    cls=LazyCommands,
    help="Test whether a language model learns within one conversation from being told whether its"
    " answers are right.\n\nExit codes: 0 done, 1 stopped short (saved turns are kept), 2 bad input.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings=SETTINGS,
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that precede a command."""


_OPEN_FILES = 24
"""Open files without which libraries fail in their own words."""
_FULL = {errno.ENOSPC, errno.EDQUOT}


def main() -> NoReturn:
    """Run the command line and exit with 0, 1 or 2."""
    prepare_streams()
    if (allowed := allow_open_files(_OPEN_FILES)) < _OPEN_FILES:
        print_error(
            f"stopped: this process may open only {allowed} files; allow at least {_OPEN_FILES} with `ulimit -n`"
        )
        sys.exit(STOPPED_SHORT)
    try:
        with limited_memory():
            app()
    except InputError as error:
        print_error(f"error: {error}")
        sys.exit(BAD_INPUT)
    except IclLoopError as error:
        print_error(f"stopped: {error}")
        sys.exit(STOPPED_SHORT)
    except OSError as error:
        if error.errno not in _FULL | OUT_OF_FILES:
            raise
        drop_output()
        what = "the output cannot be written: " * (error.errno in _FULL)
        print_error(f"stopped: {what}{reason_of(error)}")
        sys.exit(STOPPED_SHORT)
    sys.exit(DONE)
