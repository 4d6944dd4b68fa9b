"""What is shipped works: every experiment plays, the saved run replays."""

from pathlib import Path

import pytest

from icl_loop.analysis import find
from icl_loop.experiment import load
from icl_loop.models import is_built_in
from icl_loop.runner import verify
from icl_loop.transcripts import read
from making import played

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.toml"))
SAVED = find([ROOT / "transcripts" / "sample"])


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
async def test_shipped_experiments_play(path: Path, request: pytest.FixtureRequest) -> None:
    """Every arm of every shipped experiment plays three turns, with a stand-in for real models."""
    made = load(path, ["turns=3", "streams=1"])
    for session in made.sessions():
        if session.settings.task.dataset.startswith("mnist"):
            request.getfixturevalue("mnist")
        stand_in = None
        if not is_built_in(session.settings.model.name):
            changes = ["turns=3", "streams=1", "model.name=reference/nearest"]
            stand_in = next(load(path, changes).sessions()).open_model()
        turns = await played(session, stand_in)
        assert [turn.outcome for turn in turns] == ["ok"] * 3


def test_every_experiment_is_explained() -> None:
    """The README of the experiments has a section on each of them."""
    text = (ROOT / "experiments" / "README.md").read_text()
    assert all(f"`{path.name}`" in text for path in EXPERIMENTS)


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
async def test_the_saved_run_replays(path: Path) -> None:
    """Every turn of the saved run can be derived again by the present code."""
    transcript = read(path)
    assert await verify(transcript) == transcript.header.turns
