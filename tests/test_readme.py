"""Tests of the README and its guides: their commands exist."""

import re
from pathlib import Path

from builders import experiment, played, session
from exchange_picture import PICTURE, exchange_picture
from icl_loop.analysis import frame, tabulate
from icl_loop.cli.lazy_commands import COMMANDS
from icl_loop.runner.run import Run

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("running", "data", "python")),
]
TEXT = {page: page.read_text() for page in PAGES}


def test_commands_exist() -> None:
    """Every `icl-loop` command on these pages exists."""
    shown = set(re.findall(r"icl-loop ([a-z][\w-]*) ", "".join(TEXT.values())))
    assert shown
    assert shown <= COMMANDS.keys()


def test_the_picture_of_an_exchange() -> None:
    """The picture of an exchange is drawn from the published transcript, as `make docs` does."""
    assert PICTURE.read_text() == exchange_picture()


async def test_tabulate(tmp_path: Path) -> None:
    """Turns in memory and saved turns give the same frame, except for path, model and latency."""
    chosen = session(8, model="simulated/chance")
    table = tabulate({("feedback", 0): await played(chosen)}, chance=0.1, experiment="small")

    made = experiment(
        turns=8, streams=1, model={"name": "simulated/chance"}, feedback={"kind": "label"}
    )
    saved = frame((await Run(made, tmp_path).play()).paths)
    assert table.columns == saved.columns
    drop = ("path", "model", "latency_s")
    assert table.drop(drop).rows() == saved.drop(drop).rows()
