"""Tests of verification: saved sessions replay, and the first difference is reported."""

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from builders import experiment
from icl_loop.cli import app
from icl_loop.core.errors import TranscriptError
from icl_loop.experiment import Experiment
from icl_loop.replay.verification import Cause, Difference, examine, examine_all
from icl_loop.runner.run import Run
from icl_loop.transcripts import read
from icl_loop.transcripts.header import VERSION, identity
from icl_loop.transcripts.schema import line_of

Lines = list[dict[str, Any]]
Edit = Callable[[Lines], object]
ARMS = [
    {"name": "label", "feedback": {"kind": "label"}},
    {"name": "feedback", "feedback": {"kind": "correctness"}},
    {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
    {"name": "stateless", "context": {"policy": "stateless"}},
    {"name": "notes", "context": {"policy": "notes(every=4, tokens=40)"}},
]


async def played(made: Experiment, out: Path) -> Path:
    """Play an experiment and return the folder of its transcripts."""
    return (await Run(made, out).play()).folder


def edit(path: Path, change: Edit) -> Path:
    """Edit the lines of a transcript, renew their checksums, and return the path."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    change(lines)
    path.write_bytes(b"".join(map(line_of, lines)))
    return path


async def difference(path: Path) -> Difference:
    """Return the difference that verifying a transcript finds."""
    found = (await examine(path)).difference
    assert found is not None
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment with every kind of arm, two streams and probes."""
    made = experiment(arms=ARMS, probes={"at": [0, 6, 12], "count": 2})
    return asyncio.run(played(made, tmp_path_factory.mktemp("saved")))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of that folder to edit."""
    return Path(shutil.copytree(saved, tmp_path / "small"))


def test_every_kind_of_session_replays(folder: Path) -> None:
    """Sessions of every kind replay, whether in one process or in two."""
    paths = sorted(folder.glob("*.jsonl"))
    found = examine_all(paths)
    assert [finding.path for finding in found] == paths
    assert [(each.turns, each.ended, each.difference) for each in found] == [(12, True, None)] * 10
    assert examine_all(paths, jobs=2) == found


async def test_an_unfinished_session_replays(folder: Path) -> None:
    """A transcript cut anywhere, even within a line, replays up to its last whole turn."""
    path = folder / "label-0.jsonl"
    path.write_bytes(path.read_bytes()[:-3000])
    finding = await examine(path)
    assert (finding.difference, finding.ended) == (None, False)
    assert 0 < finding.turns < 12


def turn(number: int, **fields: object) -> Edit:
    """Return an edit that sets fields of a turn; a function maps the old value to the new one."""

    def change(lines: Lines) -> None:
        (line,) = [each for each in lines if each.get("turn") == number]
        for name, value in fields.items():
            line[name] = value(line[name]) if callable(value) else value

    return change


def header(**fields: object) -> Edit:
    """Return an edit that sets fields of the header and renews its id."""

    def change(lines: Lines) -> None:
        for name, value in fields.items():
            lines[0][name] = lines[0][name] | value if isinstance(value, dict) else value
        lines[0]["id"] = identity(lines[0])

    return change


def setting(table: str, **changes: object) -> Edit:
    """Return an edit that changes a table of the recorded settings and renews the id."""

    def change(lines: Lines) -> None:
        lines[0]["settings"][table] |= changes
        header()(lines)

    return change


def without(kind: str, place: int) -> Edit:
    """Return an edit that removes a line of a kind."""

    def change(lines: Lines) -> None:
        del lines[[number for number, line in enumerate(lines) if line["type"] == kind][place]]

    return change


def last_turn_removed(lines: Lines) -> None:
    """Remove the last turn and the probes after it, but not the end line."""
    del lines[-4:-1]


def other(label: str) -> str:
    """Return another label."""
    return "3" if label != "3" else "4"


HUGE = [[0, 10**15], [3, 10**15]]
USAGE = {"prompt": 0, "cached": 0, "completion": 1, "reasoning": 0}
EDITS: Mapping[str, tuple[str, Edit, Cause, int | None, str | None]] = {
    "told": ("label", turn(3, told="Well done."), "content", 3, "told"),
    "last told": ("label", turn(11, told="Well done."), "content", 11, "told"),
    "stateless told": ("stateless", turn(3, told="Well done."), "content", 3, "told"),
    "reply": ("label", turn(4, reply="I cannot say."), "content", 4, "answer"),
    "wordier reply": ("label", turn(4, reply="So:\n{}".format), "content", 5, "request"),
    "question": ("label", turn(4, question="What?"), "content", 4, "question"),
    "answer": ("label", turn(4, answer=other), "content", 4, "answer"),
    "correct": ("label", turn(4, correct=lambda was: not was), "content", 4, "correct"),
    "outcome": ("label", turn(4, outcome="refusal"), "content", 4, "outcome"),
    "label": ("label", turn(5, label=other), "content", 5, "label"),
    "request": ("label", turn(4, request="0" * 32), "content", 4, "request"),
    "kept": ("label", turn(4, kept=[[1, 3]]), "content", 4, "kept"),
    "kept of a later turn": ("label", turn(4, kept=[[0, 9]]), "format", None, None),
    "kept of huge numbers": ("label", turn(4, kept=HUGE), "format", None, None),
    "counted": ("label", turn(4, counted=17), "content", 4, "counted"),
    "prefix": ("label", turn(4, prefix=17), "content", 4, "prefix"),
    "calibration": ("label", turn(4, calibration=1.5), "content", 4, "calibration"),
    "usage": ("label", turn(4, usage=USAGE | {"prompt": 9_999}), "content", 5, "calibration"),
    "negative usage": ("label", turn(11, usage=USAGE | {"completion": -1}), "format", None, None),
    "turn removed": ("label", without("turn", 4), "format", None, None),
    "probe removed": ("label", without("probe", 2), "content", 6, "request"),
    "last probe removed": ("label", without("probe", -1), "content", 12, "type"),
    "note removed": ("notes", without("note", 0), "content", 4, "request"),
    "last turn removed": ("label", last_turn_removed, "content", 11, "type"),
    "turn added": (
        "stateless",
        lambda lines: lines.insert(-1, {**lines[-4], "turn": 12}),
        "content",
        12,
        "type",
    ),
    "header edited": ("label", lambda lines: lines[0].update(seed=8), "checksum", None, None),
    "unknown setting": ("label", setting("task", colour="red"), "settings", None, None),
    "other feedback": ("label", setting("feedback", kind="none"), "settings", None, "system"),
    "system edited": ("label", header(system="Hi."), "settings", None, "system"),
    "data changed": ("label", header(dataset={"sha256": "0" * 64}), "data", None, None),
    "data missing": ("label", setting("task", dataset="idx:no/such"), "data", None, None),
}


@pytest.mark.parametrize("name", EDITS, ids=lambda name: name.replace(" ", "-"))
async def test_the_first_difference_is_reported(folder: Path, name: str) -> None:
    """Verification reports the cause, turn and field of the first difference."""
    arm, change, cause, number, field = EDITS[name]
    found = await difference(edit(folder / f"{arm}-0.jsonl", change))
    assert (found.cause, found.turn, found.field) == (cause, number, field), found
    assert found.message


async def test_both_values_are_reported(folder: Path) -> None:
    """A difference in a field has the expected and the found value, also in its message."""
    path = folder / "label-0.jsonl"
    told = read(path).turns[3].feedback.told
    found = await difference(edit(path, turn(3, told="Well done.")))
    assert (found.expected, found.found) == (told, "Well done.")
    assert told in found.message
    assert "Well done." in found.message


async def test_another_version_is_mentioned(folder: Path) -> None:
    """A difference in a transcript that another version played names both versions."""
    path = edit(folder / "label-0.jsonl", turn(3, told="Well done."))
    found = await difference(edit(path, lambda lines: lines[0].update(icl_loop="0.0.9")))
    assert f"played by icl_loop 0.0.9, verified by {VERSION}" in found.message


async def test_a_damaged_line_is_reported(folder: Path) -> None:
    """A line that does not match its checksum is reported as a checksum that differs."""
    path = folder / "label-0.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"outcome":"ok"', b'"outcome":"no"', 1))
    assert (await difference(path)).cause == "checksum"


async def test_a_session_that_ends_before_a_probe_replays(tmp_path: Path) -> None:
    """A session whose window is full after a turn, before the probe due there, replays."""
    made = experiment(
        probes={"at": [*range(12)], "count": 1},
        model={"context_window": 1_400, "name": "reference/nearest"},
        context={"policy": "all", "reserve": 0},
    )
    paths = sorted((await played(made, tmp_path)).glob("*.jsonl"))
    for path in paths:
        saved = read(path)
        assert saved.end is not None
        assert saved.end.status == "context_full"
        assert len(saved.probes) == len(saved.turns)
    assert [(await examine(path)).difference for path in paths] == [None] * len(paths)


async def test_a_donor_that_is_missing_or_changed_is_reported(folder: Path) -> None:
    """A yoked session does not replay if its donor is missing or was told something else."""
    donor = folder / "feedback-1.jsonl"
    edit(donor, turn(3, told="Well done."))
    assert (await difference(folder / "yoked-0.jsonl")).cause == "donor"
    donor.unlink()
    found = await difference(folder / "yoked-0.jsonl")
    assert found.cause == "donor"
    assert "feedback-1.jsonl is missing" in found.message


async def test_a_changed_prompt_set_file_is_reported(tmp_path: Path) -> None:
    """A session played with a prompt set file does not replay once the file is changed or missing."""
    own = tmp_path / "own.toml"
    own.write_text('extend = "plain"')
    context = {"policy": "notes(every=4, tokens=40)"}
    made = experiment(task={"prompts": str(own)}, context=context, streams=1)
    (path,) = (await played(made, tmp_path)).glob("*.jsonl")
    assert (await examine(path)).difference is None
    own.write_text('extend = "plain"\ntold.correct = "Yes!"\ntold.incorrect = "No!"')
    found = await difference(path)
    assert (found.cause, found.field) == ("content", "told")
    own.unlink()
    found = await difference(path)
    assert found.cause == "settings"
    assert str(own) in found.message


async def test_a_file_that_is_not_a_transcript_raises(tmp_path: Path) -> None:
    """A file without a transcript's header raises an error instead of giving a finding."""
    path = tmp_path / "notes.jsonl"
    path.write_text('{"type":"shopping"}\n')
    with pytest.raises(TranscriptError, match=r"notes\.jsonl, line 1"):
        await examine(path)


def test_shared_causes_are_printed_once(folder: Path) -> None:
    """Every session has its line, missing data are explained once, and the exit code is 1."""
    for path in folder.glob("stateless-*.jsonl"):
        edit(path, EDITS["data missing"][1])
    edit(folder / "label-0.jsonl", turn(3, told="Well done."))
    done = CliRunner().invoke(app, ["replay", "--verify", str(folder)])
    assert done.exit_code == 1
    assert done.stdout.count("12 turns replay\n") == 7
    assert done.stdout.count("cannot be replayed: data\n") == 2
    assert "label-0.jsonl: content: turn 3: told is 'Well done.'" in done.stdout
    assert done.stderr.count("no/such") == 1
    assert "sessions that do not replay: 3 of 10" in done.stderr


def test_the_other_files_are_verified(folder: Path) -> None:
    """An invalid file has its error, the others are verified, and the exit code is 2."""
    (folder / "x.jsonl").write_text("{}\n")
    done = CliRunner().invoke(app, ["replay", "--verify", "--json", str(folder)])
    assert done.exit_code == 2
    assert "x.jsonl, line 1" in done.stderr
    found = json.loads(done.stdout)
    assert [each["replays"] for each in found] == [not each["error"] for each in found]
    (unread,) = (each for each in found if each["error"])
    assert (len(found), Path(unread["path"]).name) == (11, "x.jsonl")
