"""Tests of the shipped experiments and the shipped transcripts."""

import json
import tarfile
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from builders import experiment, unpacked
from command_line import Command
from icl_loop.analysis import conclude_each, frame, sentence, sessions
from icl_loop.core.errors import InputError
from icl_loop.experiment import Donor, Session, load
from icl_loop.experiment.shipped import shipped
from icl_loop.export import export
from icl_loop.loop import play
from icl_loop.models import is_built_in, open_model
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run
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


def test_experiments_by_name() -> None:
    """Every shipped experiment is in the wheel and can be loaded by its name; a file comes first."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = build["targets"]["wheel"]["force-include"]
    assert included == {
        f"experiments/{path.name}": f"icl_loop/experiments/{path.name}" for path in EXPERIMENTS
    }
    assert [shipped()[path.stem] for path in EXPERIMENTS] == EXPERIMENTS
    assert load("quickstart") == load(ROOT / "experiments" / "quickstart.toml")


def test_distributions_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel and the source distribution hold every file of the package and every experiment."""
    backend = pytest.importorskip("hatchling.build", reason="needs the extra [dev]")
    monkeypatch.chdir(ROOT)
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "src/icl_loop/tasks/datasets/library_desk.csv" in package
    experiments = {f"experiments/{path.name}" for path in EXPERIMENTS}
    with zipfile.ZipFile(tmp_path / backend.build_wheel(str(tmp_path))) as wheel:
        missing = {name.removeprefix("src/") for name in package} - set(wheel.namelist())
        assert not missing
        assert {f"icl_loop/{name}" for name in experiments} <= set(wheel.namelist())
    with tarfile.open(tmp_path / backend.build_sdist(str(tmp_path))) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert package | experiments <= names


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file called like a shipped experiment is read; an unknown name gets the nearest one."""
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text('name = "mine"')
    assert load("quickstart").name == "mine"
    with pytest.raises(InputError, match="did you mean 'novel'"):
        load("novell")
    with pytest.raises(InputError, match="cannot read"):
        load("novel.toml")


def test_every_experiment_is_documented() -> None:
    """The README of the experiments names each of them."""
    text = (ROOT / "experiments" / "README.md").read_text()
    assert all(f"`{path.name}`" in text for path in EXPERIMENTS)


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
async def test_the_saved_run_replays(path: Path) -> None:
    """Every shipped transcript can be replayed."""
    transcript = read(path)
    assert await verify(transcript) == transcript.header.turns


@pytest.mark.parametrize("name", ["words", "iris", "digits"])
def test_published_results(name: str, tmp_path: Path) -> None:
    """The verdict on the page of results is that of the published transcripts."""
    folder = unpacked(ROOT / "transcripts" / "smollm2.tar.xz", tmp_path, f"smollm2-{name}")
    [conclusion] = conclude_each(frame([folder]), None, sessions([folder]))
    text = (ROOT / "docs" / "results.md").read_text().replace("\n> ", " ")
    assert sentence(conclusion) in text


PUBLISHED = {"condition": "no history", "setup": "a model", "source": "a table", "accuracy": 0.25}


@pytest.mark.parametrize("name", ["icrl", "streambench", "manyshot"])
def test_arms_of_the_literature_state_their_source(name: str) -> None:
    """Every arm of these files but controls of ours mirrors a published condition, with its source."""
    made = load(name)
    assert made.arms.keys() - made.published.keys() <= {"none", "yoked"}
    assert all("arXiv" in each.source for each in made.published.values())


async def test_published_results_stay_beside_ours(icl_loop: Command, tmp_path: Path) -> None:
    """A published result is recorded, survives an export and is shown beside ours; it hinders no resuming."""
    mirror = {"name": "mirror", "context": {"policy": "stateless"}, "published": PUBLISHED}
    arms = [mirror, {"name": "own"}]
    result = await Run(experiment(arms=arms), tmp_path / "runs").play()
    for path in result.paths:
        stated = read(path).header.analysis.published
        assert (stated and stated.accuracy) == (0.25 if path.name.startswith("mirror") else None)
    export(result.paths, "parquet", tmp_path / "x.parquet")
    for saved in (tmp_path / "runs", tmp_path / "x.parquet"):
        found = {
            arm["arm"]: arm["published"]
            for arm in json.loads(icl_loop("analyze", saved, "--json").stdout)["arms"]
        }
        assert found["own"] is None
        assert found["mirror"].items() >= PUBLISHED.items()
        assert "no history" in icl_loop("analyze", saved, "--published").stdout
    mirror["published"] = {**PUBLISHED, "accuracy": 0.5}
    assert (await Run(experiment(arms=arms), tmp_path / "runs").play()).paths == result.paths


def test_published_results_are_checked(icl_loop: Command) -> None:
    """A misspelt key, an accuracy in percent and a run without published results are errors in words."""
    for wrong, words in ({"acuracy": 0.1}, "acuracy"), ({"accuracy": 17.2}, "accuracy = 17.2"):
        with pytest.raises(InputError, match=f"arm 'mirror', published, {words}"):
            experiment(arms=[{"name": "mirror", "published": {**PUBLISHED, **wrong}}])
    done = icl_loop("analyze", ROOT / "transcripts" / "sample", "--published")
    assert done.returncode == 2
    assert "states a published result" in done.stderr
