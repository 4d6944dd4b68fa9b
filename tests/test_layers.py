"""The law of the layers: imports only point down."""

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
HEIGHT = {room: height for height, room in enumerate(reversed(LAYERS))}


def rooms() -> list[Path]:
    """Return every source file but the package's own front door."""
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room_of(path: Path) -> str:
    """Return the room that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the rooms that a file imports from, wherever in the file it does."""
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


@pytest.mark.parametrize("path", rooms(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    """A room imports only from rooms on lower layers, or from itself."""
    room = room_of(path)
    up = {other for other in imported(path) - {room} if HEIGHT[other] >= HEIGHT[room]}
    assert not up, f"{room} imports from {', '.join(sorted(up))}, which is not below it"


def test_every_room_has_its_layer() -> None:
    """The layers name every room there is, and no other."""
    assert {room_of(path) for path in rooms()} == HEIGHT.keys()


def test_what_is_large_is_imported_only_when_needed() -> None:
    """The package and its command line import neither Ray nor textual nor the client of any vendor."""
    code = (
        "import sys, icl_loop, icl_loop.plots, icl_loop.cli, icl_loop.runner.engines.ray\n"
        "sys.exit(bool({'openai', 'ray', 'textual'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
