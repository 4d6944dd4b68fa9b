"""Tests of imports between layers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import icl_loop
from icl_loop.cli.lazy_commands import COMMANDS, load_command

ROOT = Path(icl_loop.__file__).parent
LAYERS = (
    "cli",
    "api",
    "report",
    "terminal",
    "replay",
    "planning",
    "runner",
    "export",
    "plots",
    "experiment",
    "analysis",
    "transcripts",
    "server",
    "loop",
    "models",
    "context",
    "tasks",
    "core",
)
HEIGHT = {layer: height for height, layer in enumerate(reversed(LAYERS))}


def source_files() -> list[Path]:
    """Return all source files except those of the package itself."""
    return sorted(path for path in ROOT.rglob("*.py") if not path.match("icl_loop/__*__.py"))


def layer_of(path: Path) -> str:
    """Return the layer that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the layers that a file imports from, including inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "icl_loop":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("icl_loop.")
            }
    return found


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    """A layer imports only from itself and from lower layers."""
    layer = layer_of(path)
    up = {other for other in imported(path) - {layer} if HEIGHT[other] >= HEIGHT[layer]}
    assert not up, f"{layer} imports from {', '.join(sorted(up))}, which is not below it"


def test_layers_are_complete() -> None:
    """LAYERS lists exactly the existing modules and packages."""
    assert {layer_of(path) for path in source_files()} == HEIGHT.keys()


def loaded_by(code: str) -> set[str]:
    """Return the modules that a new Python process has loaded after running `code`."""
    shown = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_starting_loads_little() -> None:
    """The package and the command line load no library that is slow to import, until it is used."""
    slow = {"altair", "numpy", "openai", "polars", "pydantic", "ray", "scipy", "sklearn", "textual"}
    loaded = loaded_by("import icl_loop, icl_loop.cli")
    assert not slow & loaded
    assert len(loaded) < 350


def test_commands_load_optional_libraries_when_used() -> None:
    """No command's module loads Ray, textual or openai."""
    commands = "\n".join(f"load_command({name!r})" for name in COMMANDS)
    loaded = loaded_by(
        f"import icl_loop.runner.engines.ray\nfrom icl_loop.cli.lazy_commands import load_command\n{commands}"
    )
    assert not {"openai", "ray", "textual"} & loaded


@pytest.mark.parametrize("name", COMMANDS)
def test_command_summaries(name: str) -> None:
    """The summary in the list of commands is the first sentence of the command's own help."""
    assert (load_command(name).help or "").partition("\n")[0] == COMMANDS[name]


@pytest.mark.parametrize("name", icl_loop.__all__)
def test_public_names(name: str) -> None:
    """Every public name can be imported from the package."""
    assert getattr(icl_loop, name).__module__.startswith("icl_loop.")


def test_unknown_public_name() -> None:
    """A name that the package does not have raises AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        icl_loop.runn  # noqa: B018
