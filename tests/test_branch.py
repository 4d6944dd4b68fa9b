"""Tests of branches: sessions that share the first turns of a saved one."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from builders import experiment, transcripts_of
from icl_loop.analysis import frame, sessions
from icl_loop.analysis.baseline import baseline
from icl_loop.cli import app
from icl_loop.core.errors import InputError, RequestRefused, SettingsMismatch
from icl_loop.core.messages import Message, Reply, Usage
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment
from icl_loop.replay.branching import branches
from icl_loop.replay.verification import examine
from icl_loop.runner.run import Run, RunResult
from icl_loop.transcripts import read, read_header
from icl_loop.transcripts.checksum import without_checksum
from icl_loop.transcripts.reader import shared_lines, whole_lines
from icl_loop.transcripts.writer import begin

ARMS = [
    {"name": "none", "feedback": {"kind": "none"}},
    {"name": "feedback", "feedback": {"kind": "correctness"}},
    {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
    {"name": "notes", "context": {"policy": "notes(every=4, tokens=40)"}},
    {"name": "shown", "context": {"exemplars": 1, "policy": "last(4)"}},
    {"name": "late", "feedback": {"kind": "correctness", "delay": 2}},
]
PROBES = {"at": [0, 6], "count": 2}


async def run(made: Experiment, out: Path) -> RunResult:
    """Play an experiment into a folder."""
    return await Run(made, out).play()


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small experiment with every kind of arm."""
    out = tmp_path_factory.mktemp("parents")
    return asyncio.run(run(experiment(arms=ARMS, probes=PROBES), out)).folder


def branched(folder: Path, at: int, *changes: str, arm: str = "none") -> Experiment:
    """Return the experiment of the branches of an arm."""
    return branches(sorted(folder.glob(f"{arm}-*.jsonl")), at, changes)


async def replays(paths: Sequence[Path]) -> bool:
    """Return whether all of these transcripts replay."""
    return all([(await examine(path)).difference is None for path in paths])


def body(path: Path) -> list[bytes]:
    """Return the lines of a transcript without the header and without times."""
    return transcripts_of(path.parent)[path.name].splitlines()[1:]


@settings(max_examples=12)
@given(at=st.integers(1, 11), arm=st.sampled_from([str(arm["name"]) for arm in ARMS]))
def test_an_unchanged_branch_equals_its_parent(
    parents: Path, tmp_path_factory: pytest.TempPathFactory, at: int, arm: str
) -> None:
    """A branch without changes equals its parent except for times, wherever it begins."""
    out = tmp_path_factory.mktemp("branches")
    (out / "small").symlink_to(parents)  # so that donors are found
    result = asyncio.run(run(branched(parents, at, arm=arm), out))
    assert result.complete
    assert [path.name for path in result.paths] == [f"{arm}-at{at}-{k}.jsonl" for k in (0, 1)]
    for stream, path in enumerate(result.paths):
        assert body(path) == body(parents / f"{arm}-{stream}.jsonl")
    assert asyncio.run(replays(result.paths))


def test_branches_keep_contrasts_and_say_what_changed(tmp_path: Path) -> None:
    """Arms of branches are named by what changed; recorded contrasts are between the branches."""
    analysis = {"primary": ["feedback", "none"], "secondary": [["feedback", "late"]]}
    made = experiment(arms=ARMS, analysis=analysis)
    folder = asyncio.run(run(made, tmp_path)).folder
    paths = [path for path in sorted(folder.glob("*.jsonl")) if "late" not in path.name]
    branch = branches(paths, 5, ["context.policy=last(3)"], turns=14)
    names = [f"{arm}-at5_policy=last-3_turns=14" for arm in ("feedback", "none")]
    assert {*names} < {*branch.arms}
    for session in branch.sessions():
        assert session.header().analysis.primary == tuple(names)
        assert session.header().analysis.secondary == ()
    [alone] = branches(paths[:1], 5, ["context.policy=last(3)"]).arms
    assert alone == "feedback-at5_policy=last-3"
    many = [f"context.{key}" for key in ("policy=all", "replies=answer", "reserve=999")]
    [named] = branches(paths[:1], 5, [*many, "task.prompts=plain-ja"]).arms
    assert len(named) < 100


async def test_a_branch_copies_shared_lines(parents: Path, tmp_path: Path) -> None:
    """A branch copies its parent's lines byte for byte and then plays its own settings."""
    before = transcripts_of(parents)
    result = await run(branched(parents, 5, "feedback.kind=label"), tmp_path)
    assert transcripts_of(parents) == before
    for stream, path in enumerate(result.paths):
        mine, parent = whole_lines(path), whole_lines(parents / f"none-{stream}.jsonl")
        shared = shared_lines(parent, 5)
        assert mine[1 : 1 + len(shared)] == list(shared)
        turns = read(path).turns
        told = [turn.feedback.told for turn in turns]
        assert len(set(told[:5])) == 1
        assert all(turn.label in turn.feedback.told for turn in turns[5:])
        header = read_header(path)
        assert header.experiment == "small-branches"
        assert header.branch is not None
        assert header.branch.at == 5
        assert header.branch.parent == json.loads(without_checksum(parent[0]))
    assert await replays(result.paths)


CHANGES = [
    ["context.policy=stateless"],
    ["context.policy=last(3)", "context.replies=answer"],
    ["task.prompts=plain-ja"],
    ["task.labels=abstract", "feedback.kind=label"],
    ["model.name=reference/prototype", "feedback.kind=label"],
    ["probes.at=[3, 7, 12]", "probes.count=3"],
    ["answers.rule=last"],
    ["context.policy=notes(every=3, tokens=40)"],
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: changes[0])
@pytest.mark.parametrize("arm", ["feedback", "notes"])
async def test_branches_of_all_kinds_replay(
    parents: Path, tmp_path: Path, arm: str, changes: list[str]
) -> None:
    """A branch under other settings of any kind verifies without its parent."""
    result = await run(branched(parents, 7, *changes, arm=arm), tmp_path)
    assert result.complete
    assert await replays(result.paths)


async def test_a_branch_of_a_branch(parents: Path, tmp_path: Path) -> None:
    """A branch can be branched before and after the turn at which it left its parent."""
    first = await run(branched(parents, 6, "feedback.kind=label"), tmp_path)
    for at in (3, 9):
        again = await run(branches(first.paths, at, ["context.policy=last(2)"]), tmp_path)
        assert {path.parent.name for path in again.paths} == {"small-branches"}
        assert await replays(again.paths)
        parent, mine = read(first.paths[0]).turns[:at], read(again.paths[0]).turns[:at]
        assert mine == parent


async def test_a_yoked_branch_keeps_its_donor(parents: Path, tmp_path: Path) -> None:
    """A branch of a yoked session keeps its donor, unless its feedback changes."""
    (tmp_path / "small").symlink_to(parents)
    kept = await run(branched(parents, 4, "context.policy=last(2)", arm="yoked"), tmp_path)
    assert read(kept.paths[0]).header.donor == read(parents / "yoked-0.jsonl").header.donor
    freed = await run(branched(parents, 4, "feedback.kind=label", arm="yoked"), tmp_path)
    assert read(freed.paths[0]).header.donor is None
    assert await replays([*kept.paths, *freed.paths])


async def test_a_branch_may_be_longer_than_its_parent(parents: Path, tmp_path: Path) -> None:
    """A longer branch continues the same stream of samples."""
    made = branches([parents / "none-0.jsonl"], 12, turns=20)
    (path,) = (await run(made, tmp_path)).paths
    longer = await run(experiment(arms=ARMS[:1], turns=20, streams=1), tmp_path / "longer")
    samples = [[turn.sample for turn in read(each).turns] for each in (path, *longer.paths)]
    assert samples[0] == samples[1]
    assert await replays([path])


async def test_an_interrupted_branch_resumes(parents: Path, tmp_path: Path) -> None:
    """A branch cut anywhere and resumed equals the one never cut, shared turns included."""
    made = branched(parents, 5, "feedback.kind=label", "probes.at=[1, 9]")
    whole = await run(made, tmp_path / "whole")
    path = whole.paths[0]
    data = path.read_bytes()
    first = len(b"".join(whole_lines(path)[:7]))
    lines = [len(b"".join(whole_lines(path)[:kept])) for kept in (1, 2, 5)]
    for cut in (40, *lines, first, first + 40, len(data) - 300):
        part = tmp_path / f"cut{cut}" / "small-branches" / path.name
        part.parent.mkdir(parents=True)
        part.write_bytes(data[:cut])
        assert (await run(made, tmp_path / f"cut{cut}")).complete
        assert transcripts_of(part.parent) == transcripts_of(path.parent)
    arm = read_header(path).arm
    other = branches([parents / "none-0.jsonl"], 5, ["feedback.kind=flipped"], arm=arm)
    with pytest.raises(SettingsMismatch, match=r"feedback\.kind"):
        await run(other, tmp_path / "whole")


class _Once:
    """Answers the first request and refuses the others."""

    def __init__(self) -> None:
        self._asked = False

    async def complete(self, messages: Sequence[Message]) -> Reply:  # noqa: ARG002  whatever is asked
        """Return a reply to the first request."""
        if self._asked:
            raise RequestRefused("no more")
        self._asked = True
        return Reply("Answer: 3")


async def test_a_branch_that_ends_at_once_replays(parents: Path, tmp_path: Path) -> None:
    """A branch that ends before its first own turn replays, with or without a note."""
    full = branched(parents, 6, "context.policy=all", "model.context_window=1500", "probes.at=[]")
    ended = await run(full, tmp_path / "full")
    noting = branched(parents, 6, "context.policy=notes(every=4, tokens=40)", "probes.at=[]")
    stopped = await Run(noting, tmp_path / "noted", open_model=lambda _: _Once()).play()
    assert [len(read(path).turns) for path in (*ended.paths, *stopped.paths)] == [6] * 4
    assert all(read(path).end for path in ended.paths)
    assert any(read(path).notes for path in stopped.paths)
    assert await replays([*ended.paths, *stopped.paths])


class _Costly:
    """Answers with a usage that counts towards a budget."""

    async def complete(self, messages: Sequence[Message]) -> Reply:  # noqa: ARG002  whatever is asked
        return Reply("Answer: 3", Usage(prompt=100, completion=1))


async def test_shared_turns_are_not_charged_again(tmp_path: Path) -> None:
    """A budget counts only the branch's own turns, also on resume."""
    made = experiment(streams=1, context={"policy": "stateless"})
    parent = await Run(made, tmp_path, open_model=lambda _: _Costly()).play()
    made = branches(parent.paths, 8, ["feedback.kind=none"])
    for _ in range(2):
        playing = Run(made, tmp_path, open_model=lambda _: _Costly(), max_tokens=100_000)
        (path,) = (await playing.play()).paths
    assert playing.budget.spent.prompt == 4 * 100
    assert frame([path])["prompt"].sum() == 12 * 100


async def test_branches_can_be_analysed(parents: Path, tmp_path: Path) -> None:
    """Branches are an experiment of their own in the analysis."""
    for changes in ([], ["feedback.kind=label"]):
        result = await run(branched(parents, 5, *changes), tmp_path)
    folder = result.folder
    turns = frame([folder, parents])
    assert set(turns["experiment"].unique()) == {"small", "small-branches"}
    assert sessions([folder])["arm"].n_unique() == 2
    assert turns.filter(experiment="small-branches").height == 4 * 12


async def test_the_baseline_of_a_branch_reads_both_prompt_sets(
    parents: Path, tmp_path: Path
) -> None:
    """The baseline of a branch with another prompt set equals its parent's in shared turns."""
    path = (
        await run(branched(parents, 6, "task.prompts=plain-ja", arm="feedback"), tmp_path)
    ).paths[0]
    mine, parent = [await baseline(read(each)) for each in (path, parents / "feedback-0.jsonl")]
    assert (len(mine), mine[:6]) == (12, parent[:6])


WRONG: dict[str, tuple[int, list[str], str]] = {
    "a turn too late": (13, [], r"--at 13: .*none-0\.jsonl has 12 whole turns"),
    "no turn": (0, [], "--at 0"),
    "nothing left": (12, [], "no turn is left to play"),
    "another stream": (5, ["task.dataset=iris"], "task.dataset would change the stream"),
    "another seed": (5, ["seed=3"], "seed would change the stream"),
    "another encoding": (5, ["task.encoding=ascii"], "cannot change task.encoding"),
    "no such key": (5, ["feedback.knd=label"], "did you mean 'kind'"),
    "no such kind": (5, ["feedback.kind=labels"], "did you mean 'label'"),
    "a donor": (5, ["feedback.kind=yoked", "feedback.donor=feedback"], "donor of its parent"),
    "no change at all": (5, ["label"], "--set"),
}


@pytest.mark.parametrize("name", WRONG, ids=lambda name: name.replace(" ", "-"))
def test_invalid_branches_are_rejected(parents: Path, name: str) -> None:
    """A turn out of range or an invalid change gives an error that names it."""
    at, changes, words = WRONG[name]
    with pytest.raises(InputError, match=words):
        branched(parents, at, *changes)


def test_errors_name_what_was_given(parents: Path) -> None:
    """An error about a branch names the option that caused it, or the parent if none did."""
    path = parents / "none-0.jsonl"
    with pytest.raises(InputError, match=r"^--model, model\.name = ''"):
        branches([path], 5, model="")
    with pytest.raises(InputError, match=r"^--set, feedback = 'label': must be a table"):
        branches([path], 5, ["feedback=label"])
    with pytest.raises(InputError, match=r"^--turns 5 .*--at 5"):
        branches([path], 5, turns=5)


async def test_a_prompt_set_that_is_gone_can_be_replaced(tmp_path: Path) -> None:
    """A session whose prompt set is gone can be branched with another; else the error names it."""
    prompts = tmp_path / "my.toml"
    prompts.write_text('extend = "plain"\n[told]\ncorrect = "Yes."')
    made = experiment(turns=3, streams=1, task={"prompts": str(prompts)})
    (path,) = (await Run(made, tmp_path).play()).paths
    prompts.unlink()
    with pytest.raises(InputError, match=r"feedback-0\.jsonl: recorded settings, task\.prompts"):
        branches([path], 2)
    (branch,) = branches([path], 2, ["task.prompts=plain"]).sessions()
    assert branch.settings.task.prompts == "plain"


def test_an_unfinished_parent_can_be_branched(parents: Path, tmp_path: Path) -> None:
    """An unfinished parent can be branched at its whole turns only."""
    path = tmp_path / "none-0.jsonl"
    lines = whole_lines(parents / "none-0.jsonl")
    shared = [lines[0], *shared_lines(lines, 6)]
    path.write_bytes(b"".join(shared)[:-20])
    with pytest.raises(InputError, match=r"has 5 whole turns \(unfinished\)"):
        branches([path], 6)
    (session,) = branches([path], 5, ["feedback.kind=label"]).sessions()
    assert sum(isinstance(event, Turn) for event in session.shared_events) == 5


def test_branches_with_one_file_name_are_rejected(parents: Path) -> None:
    """Two parents whose branches would have the same file name are rejected."""
    paths = [parents / "none-0.jsonl", parents / "feedback-0.jsonl"]
    with pytest.raises(InputError, match="would both become mine-0"):
        branches(paths, 5, arm="mine")


def test_the_command_plays_branches(parents: Path, tmp_path: Path) -> None:
    """`branch` plays the branches, and a second call finds them finished."""
    command = ["branch", *map(str, parents.glob("none-*.jsonl")), "--at", "5", "--arm", "told"]
    for _ in range(2):
        done = CliRunner().invoke(
            app, [*command, "--model", "reference/prototype", "--out", str(tmp_path)]
        )
        assert done.exit_code == 0
        assert "small-branches (2 sessions)" in done.stdout
    (path, _) = sorted((tmp_path / "small-branches").glob("*.jsonl"))
    header = read_header(path)
    assert header.settings["model"]["name"] == "reference/prototype"
    assert path.name == "told-0.jsonl"


def test_a_built_in_model_drops_the_address(tmp_path: Path) -> None:
    """A branch with a built-in model drops the address and parameters of the endpoint."""
    model = {"name": "gpt-x", "base_url": "http://127.0.0.1:9/v1", "params": {"top_p": 1}}
    (session, *_) = experiment(model=model).sessions()
    path = tmp_path / "small" / "feedback-0.jsonl"
    begin(path, session.header(), whole_lines(_played(tmp_path))[1:])
    (branch,) = branches([path], 5, model="simulated/chance").sessions()
    assert (branch.settings.model.base_url, branch.settings.model.params) == (None, {})
    (branch,) = branches([path], 5, model="gpt-y").sessions()
    assert branch.settings.model.base_url == "http://127.0.0.1:9/v1"


def _played(out: Path) -> Path:
    """Return a transcript of a small session."""
    return asyncio.run(run(experiment(streams=1), out / "played")).paths[0]
