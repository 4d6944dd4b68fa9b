"""The command line: arguments, exit codes, printing; each command has a file of its own."""

import sys
from typing import NoReturn

import typer

from icl_loop.cli.analyze import analyze
from icl_loop.cli.branch import branch
from icl_loop.cli.export import export
from icl_loop.cli.plan import plan
from icl_loop.cli.plot import plot
from icl_loop.cli.replay import replay
from icl_loop.cli.report import report
from icl_loop.cli.rescore import rescore
from icl_loop.cli.run import run
from icl_loop.cli.sample import sample
from icl_loop.cli.serve import serve
from icl_loop.cli.what_if import what_if
from icl_loop.core.errors import IclLoopError, InputError
from icl_loop.terminal.console import DONE, complain, exit_code

app = typer.Typer(
    help="Does a language model, inside one long conversation and with frozen weights, learn from"
    " being told right or wrong? Exit codes: 0 done, 1 stopped short (what is saved is kept),"
    " 2 the input was wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
for command in (
    run,
    plan,
    replay,
    branch,
    rescore,
    analyze,
    what_if,
    plot,
    report,
    export,
    sample,
    serve,
):
    app.command()(command)


def main() -> NoReturn:
    """Run the command line and exit with the code that says how it went."""
    try:
        app()
    except IclLoopError as error:
        complain(f"{'error' if isinstance(error, InputError) else 'stopped'}: {error}")
        sys.exit(exit_code(error))
    sys.exit(DONE)
