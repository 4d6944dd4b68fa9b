"""Tests of the shipped experiments and the shipped transcripts."""

from dataclasses import replace
from pathlib import Path

import pytest

from icl_loop.experiment import Donor, Session, load
from icl_loop.loop import play
from icl_loop.models import is_built_in, open_model
from icl_loop.replay.verification import verify
from icl_loop.transcripts import read
from icl_loop.transcripts.files import find
from icl_loop.transcripts.header import DonorIdentity

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.toml"))
SAVED = find([ROOT / "transcripts" / "sample"])


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
async def test_shipped_experiments_play(path: Path, request: pytest.FixtureRequest) -> None:
    """Every arm of every shipped experiment plays three turns, real models replaced by a learner."""
    made = load(path, ["streams=2"])
    for session in list(made.sessions())[: len(made.arms)]:
        if session.settings.task.dataset.startswith("mnist"):
            request.getfixturevalue("mnist")
        name = session.settings.model.name
        own = session.open_model() if is_built_in(name) else None
        model = own or open_model("reference/nearest", prompts=session.task.prompts)
        task = with_any_donor(session).task
        turns = play(task, model, session.policy, session.window)
        assert [(await anext(turns)).outcome for _ in range(3)] == ["ok"] * 3
        await turns.aclose()  # type: ignore[attr-defined]  # it is a generator


def with_any_donor(session: Session) -> Session:
    """Return a session with a made-up donor."""
    identity = DonorIdentity(arm="any", stream=0, id="", told_sha256="")
    return replace(
        session, donor=Donor(identity, (session.inputs.prompts.told.correct,) * session.turns)
    )


def test_every_experiment_is_documented() -> None:
    """The README of the experiments names each of them."""
    text = (ROOT / "experiments" / "README.md").read_text()
    assert all(f"`{path.name}`" in text for path in EXPERIMENTS)


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
async def test_the_saved_run_replays(path: Path) -> None:
    """Every shipped transcript can be replayed."""
    transcript = read(path)
    assert await verify(transcript) == transcript.header.turns
