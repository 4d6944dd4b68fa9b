"""`icl-loop init`: write a commented experiment file."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from icl_loop.core.errors import InputError, reason_of
from icl_loop.core.toml_files import parse_toml
from icl_loop.experiment import parse
from icl_loop.experiment.reference import commented_file, file_schema
from icl_loop.terminal.console import print_json, print_text

TURNS = 100  # enough samples for it are in every shipped data set


def init(
    file: Annotated[Path, Argument(help="The file to write.")] = Path("experiment.toml"),
    dataset: Annotated[
        str, Option(help="digits, mnist:test, iris, csv:FILE, folder:DIR, …")
    ] = "digits",
    model: Annotated[
        str, Option(help="A built-in model, or the endpoint's name of a model.")
    ] = "reference/nearest",
    base_url: Annotated[
        str | None, Option(help="Address of an OpenAI-compatible endpoint, if not OpenAI's own.")
    ] = None,
    schema: Annotated[
        bool, Option("--schema", help="Print the JSON Schema of experiment files, for editors.")
    ] = False,
) -> None:
    """Write an experiment file with every setting, its meaning and its default as comments."""
    if schema:
        print_json(file_schema())
        return
    chosen = {"name": file.stem, "turns": TURNS, "task.dataset": dataset, "model.name": model}
    address = (
        {} if base_url is None else {"model.base_url": base_url, "model.context_window": "auto"}
    )
    text = commented_file({**chosen, **address})
    parse(parse_toml(text.encode(), str(file)), str(file))
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise InputError(f"{file} exists; name another file, or remove it") from None
    except OSError as error:
        raise InputError(f"{file} cannot be written: {reason_of(error)}") from None
    print_text(f"wrote {file}; next: icl-loop try {file}, then icl-loop run {file}")
