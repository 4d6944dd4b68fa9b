"""The commands by name; the module of a command is imported when it is used, to start quickly."""

from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import icl_loop

SETTINGS = {"help_option_names": ["-h", "--help"]}
COMMANDS = {
    "init": "Write an experiment file with every setting, its meaning and its default as comments.",
    "try": "Play a few turns of each arm, show them whole, and report what the endpoint can do.",
    "plan": "Estimate tokens, cost, time and statistical power, without calling a model.",
    "run": "Play an experiment, or resume it: complete sessions are skipped.",
    "replay": "Watch a saved session turn by turn, or verify that sessions replay.",
    "analyze": "Print accuracy, contrasts between arms, simpler explanations, usage, and the verdict.",
    "plot": "Draw accuracy over turns with chance and the baseline, or another chart.",
    "report": "Write one HTML page with the verdict, the charts and every turn; it works offline.",
    "branch": "Continue saved sessions from a turn with other feedback, policy, prompt set or model.",
    "rescore": "Parse and score saved replies by other rules, without calling a model.",
    "what-if": "Show what other context policies would have sent, without calling a model.",
    "export": "Export saved sessions as Parquet, CSV, OpenAI chat JSONL or Inspect logs.",
    "import": "Import Inspect logs, chat JSONL and tables of turns as transcripts to analyze.",
    "sample": "Print a sample, or a whole conversation, as a model sees it.",
    "serve": "Serve a built-in model as an OpenAI-compatible endpoint, to test without an API key.",
}
"""The summary of each command, in the order of use: the first line of its function's docstring."""
LARGEST = 10**15
"""Largest number that an option takes."""
_MODULES = {"try": "try_endpoint", "import": "import_logs"}  # both are keywords


def load_command(name: str) -> TyperCommand:
    """Import the module of a command and return the command."""
    module = _MODULES.get(name, name.replace("-", "_"))
    function = getattr(import_module(f"icl_loop.cli.{module}"), module)
    alone = typer.Typer(
        add_completion=False, pretty_exceptions_show_locals=False, context_settings=SETTINGS
    )
    alone.command(name)(function)
    return cast("TyperCommand", get_command(alone))


class LazyCommand(TyperCommand):
    """A command of which only the name and the summary are known until it is used."""

    def make_context(self, *args: Any, **more: Any) -> Any:  # noqa: ANN401  those of typer
        """Return the context of the imported command; raise BadParameter for a number out of range."""
        command = load_command(self.name or "")
        context = command.make_context(*args, **more)
        for param in command.params:
            value = context.params.get(param.name or "")
            if isinstance(value, int | float) and value > LARGEST:
                raise typer.BadParameter(
                    f"{value} is more than {LARGEST:,}", context, param_hint=param.opts
                )
        return context


class LazyCommands(TyperGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  those of typer
        """Take the settings of a typer group; its commands are `COMMANDS`."""
        super().__init__(**settings)
        self.commands = {
            name: LazyCommand(name, help=summary) for name, summary in COMMANDS.items()
        }


def print_version(wanted: bool) -> None:  # noqa: FBT001  typer passes the value of the option
    """Print the version and exit, if this is wanted."""
    if wanted:
        typer.echo(f"icl-loop {icl_loop.__version__}")
        raise typer.Exit
