"""Tests of imports between layers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import icl_loop

ROOT = Path(icl_loop.__file__).parent
LAYERS = (
    "cli",
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
    """Return all source files except `icl_loop/__init__.py`."""
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


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


def test_lazy_imports() -> None:
    """The package and its command line import neither Ray, textual nor openai."""
    code = (
        "import sys, icl_loop, icl_loop.plots, icl_loop.cli, icl_loop.runner.engines.ray\n"
        "sys.exit(bool({'openai', 'ray', 'textual'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
