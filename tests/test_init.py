"""Tests of `icl-loop init`, the JSON Schema of experiment files and the reference of settings."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from command_line import Command
from format_tables import SETTINGS, settings_tables
from icl_loop.experiment import load, parse
from icl_loop.experiment.experiment_file import override
from icl_loop.experiment.reference import (
    EXAMPLES,
    TABLES,
    commented_file,
    default_of,
    file_schema,
    keys,
)

SHIPPED = sorted((Path(__file__).parents[1] / "experiments").rglob("*.toml"))
ALL = {name: field for table in TABLES for name, field in keys(table)}
NEEDED = {
    "task.dataset": ["task.encoding=table"],
    "task.prompts": None,  # names a file
    "model.params": ["model.name=gpt-4o-mini"],
    "sweep": ["model.name=gpt-4o-mini"],
    "feedback.donor": ["feedback.kind=yoked"],
    "feedback.donor_kind": None,  # taken from the donor
    "price.input": ["price.output=1"],
    "price.output": ["price.input=1"],
    "price.cached": ["price.input=1", "price.output=1"],
}
"""The settings that an example needs besides itself; None if it cannot stand alone."""


def file_with(*overrides: str) -> dict[str, Any]:
    """Return the table of an experiment with two arms and these settings in the second."""
    arms = [{"name": "feedback"}, {"name": "none", "feedback": {"kind": "none"}}]
    table: dict[str, Any] = {"name": "e", "arms": arms}
    for each in overrides:
        if each.startswith("feedback."):
            arms[1] = override({"name": "none"}, [*overrides])
            return table
    return override(table, overrides)


@pytest.mark.parametrize("name", ALL)
def test_every_key_is_described(name: str) -> None:
    """Every key has a description, and a default or an example."""
    assert (ALL[name].description or "").endswith(".")
    assert default_of(ALL[name]) or name in EXAMPLES


@pytest.mark.parametrize(
    "name", sorted(EXAMPLES.keys() - {k for k, v in NEEDED.items() if v is None})
)
def test_examples_are_valid(name: str) -> None:
    """Every example can be set in an experiment file, and fits the schema."""
    table = file_with(*(NEEDED.get(name) or []), f"{name}={EXAMPLES[name]}")
    parse(table)
    Draft202012Validator(file_schema()).validate(table)


def test_the_comments_are_the_defaults() -> None:
    """The commented file, with every default uncommented, is the same experiment."""
    text = commented_file({})
    names = {name: default_of(field) for name, field in ALL.items() if default_of(field)}
    del names["context.policy"]  # is recorded in full if it is given
    del names["feedback.donor_kind"]  # only a yoked arm has one
    defaults = {f"# {name.rpartition('.')[2]} = {value}" for name, value in names.items()}
    lines = [each.removeprefix("# ") if each in defaults else each for each in text.splitlines()]
    assert len([line for line in lines if line not in text.splitlines()]) > len(TABLES)
    assert parse(tomllib.loads("\n".join(lines))) == parse(tomllib.loads(text))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_experiments_fit_the_schema(path: Path) -> None:
    """The schema accepts every shipped experiment."""
    Draft202012Validator(file_schema()).validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize("text", ["turn = 3", "[task]\nencodings = 'grid'", "[[arms]]\nturns = 1"])
def test_the_schema_refuses_unknown_keys(text: str) -> None:
    """A key that does not exist does not fit the schema, at any level."""
    table = tomllib.loads(f"name = 'e'\n{text}")
    assert not Draft202012Validator(file_schema()).is_valid(table)


def test_init_writes_a_file_that_runs(icl_loop: Command, tmp_path: Path) -> None:
    """The written file has the chosen values, can be played, and is never overwritten."""
    file = tmp_path / "flowers.toml"
    assert (
        icl_loop("init", file, "--dataset", "digits", "--model", "simulated/chance").returncode == 0
    )
    made = load(file)
    assert (made.name, made.arms["none"].model.name) == ("flowers", "simulated/chance")
    short = ("--turns", 2, "--streams", 2, "--out", tmp_path)
    assert icl_loop("run", file, *short).returncode == 0
    before = file.read_bytes()
    assert icl_loop("init", file).returncode == 2
    assert file.read_bytes() == before


@pytest.mark.parametrize("dataset", ["iris", "wine", "breast_cancer", "digits"])
def test_init_fits_the_data_set(icl_loop: Command, tmp_path: Path, dataset: str) -> None:
    """The file can be tried as it is, however few samples the data set has."""
    assert icl_loop("init", tmp_path / "e.toml", "--dataset", dataset).returncode == 0
    assert icl_loop("try", tmp_path / "e.toml", "--turns", 1).returncode == 0


def test_init_asks_an_endpoint_for_its_window(icl_loop: Command, tmp_path: Path) -> None:
    """With an address, the context window is the one that the endpoint reports."""
    endpoint = ("--model", "m", "--base-url", "http://127.0.0.1:1/v1")
    assert icl_loop("init", tmp_path / "e.toml", *endpoint).returncode == 0
    assert load(tmp_path / "e.toml").arms["none"].model.context_window == "auto"


def test_init_refuses_wrong_choices(icl_loop: Command, tmp_path: Path) -> None:
    """A model or a name that no experiment can have is refused before a file is written."""
    assert icl_loop("init", tmp_path / "a.toml", "--model", "reference/neerest").returncode == 2
    assert icl_loop("init", tmp_path / "a b.toml").returncode == 2
    assert icl_loop("init", tmp_path / "missing" / "a.toml").returncode == 2
    assert not list(tmp_path.iterdir())


def test_init_prints_the_schema(icl_loop: Command) -> None:
    """`--schema` prints the schema as JSON and writes nothing."""
    assert json.loads(icl_loop("init", "--schema").stdout) == file_schema()


def test_the_reference_is_up_to_date() -> None:
    """`docs/settings.md` ends in the tables that `make docs` writes."""
    assert SETTINGS.read_text().endswith(settings_tables())
