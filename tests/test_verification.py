"""The laws of verification: what was saved is derived again, and a difference has its cause."""

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
from icl_loop.transcripts import identity, line_of, read

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
    """Change the lines of a transcript as an editor would, and return its path."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    change(lines)
    path.write_bytes(b"".join(map(line_of, lines)))
    return path


def named_again(lines: Lines) -> None:
    """Give a header the id that what it says now has."""
    lines[0]["id"] = identity(lines[0])


def other_version(lines: Lines) -> None:
    """Make a transcript one that another version played."""
    lines[0]["icl_loop"] = "0.0.9"


async def difference(path: Path) -> Difference:
    """Return the first difference of a transcript that has one."""
    found = (await examine(path)).difference
    assert found is not None
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transcripts of arms of all kinds, two streams each, with probes."""
    made = experiment(arms=ARMS, probes={"at": [0, 6], "count": 2})
    return asyncio.run(played(made, tmp_path_factory.mktemp("saved")))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of them to be edited."""
    return Path(shutil.copytree(saved, tmp_path / "small"))


def test_every_kind_of_session_replays(folder: Path) -> None:
    """Sessions of every kind are derived again whole, in one process or in two."""
    paths = sorted(folder.glob("*.jsonl"))
    found = examine_all(paths)
    assert [finding.path for finding in found] == paths
    assert [(each.turns, each.ended, each.difference) for each in found] == [(12, True, None)] * 10
    assert examine_all(paths, jobs=2) == found


async def test_an_unfinished_session_replays_as_far_as_it_goes(folder: Path) -> None:
    """What was cut off, even within a line, leaves turns that replay and a session that can go on."""
    path = folder / "label-0.jsonl"
    path.write_bytes(path.read_bytes()[:-3000])
    finding = await examine(path)
    assert (finding.difference, finding.ended) == (None, False)
    assert 0 < finding.turns < 12


def turn(number: int, **fields: object) -> Edit:
    """Return an edit of a turn's fields; what is a function makes the new value of the old."""

    def change(lines: Lines) -> None:
        (line,) = [each for each in lines if each.get("turn") == number]
        for name, value in fields.items():
            line[name] = value(line[name]) if callable(value) else value

    return change


def both(*edits: Edit) -> Edit:
    """Return the edits one after another."""
    return lambda lines: [each(lines) for each in edits]


def other(label: str) -> str:
    """Return another label."""
    return "3" if label != "3" else "4"


def without(kind: str, place: int) -> Edit:
    """Return an edit that takes out a line of a kind."""

    def change(lines: Lines) -> None:
        del lines[[number for number, line in enumerate(lines) if line["type"] == kind][place]]

    return change


def said_wrong(lines: Lines) -> None:
    """Change the label of a turn, and the judgement with it so that they agree."""
    (line,) = [each for each in lines if each.get("turn") == 5]
    line["label"] = other(line["label"])
    line["correct"] = line["answer"] == line["label"]


EDITED: Mapping[str, tuple[str, Edit, int | None, str, str]] = {
    "a told text": ("label", turn(3, told="Well done."), 3, "told was 'Well done.'", "turn 4"),
    "the told of the last turn": ("label", turn(11, told="Well done."), 11, "told", "no fingerp"),
    "a told that none sees": ("stateless", turn(3, told="Well done."), 3, "told", "no fingerprint"),
    "a reply": ("label", turn(4, reply="I cannot say."), 4, "answer was", "request of turn 5"),
    "a reply that answers the same": (
        "label",
        turn(4, reply=lambda text: f"So:\n{text}"),
        5,
        "not the one that was sent",
        "vouches for turn 4",
    ),
    "a question": ("label", turn(4, question="What?"), 4, "question was", "request of turn 4"),
    "an answer": ("label", turn(4, answer=other), 4, "answer was", "correct is"),
    "a judgement": ("label", turn(4, correct=lambda was: not was), 4, "correct was", "correct is"),
    "an outcome": ("label", turn(4, outcome="refusal"), 4, "outcome was", "no fingerprint"),
    "a label": ("label", turn(5, label=other), 5, "label was", "turn 5 has the label"),
    "a label and its judgement": ("stateless", said_wrong, 5, "label was", "no fingerprint"),
    "a fingerprint": ("label", turn(4, request="0" * 32), 4, "not the one", "another fingerprint"),
    "what was shown": ("label", turn(4, kept=[[1, 3]]), 4, "kept was", "another fingerprint"),
    "a turn shown that never was": ("label", turn(4, kept=[[0, 9]]), None, "no run", "only ever"),
    "turns beyond number shown": (
        "label",
        turn(4, kept=[[0, 10**15], [3, 10**15]]),
        None,
        "no run",
        "only ever",
    ),
    "a note of turns beyond number": (
        "notes",
        lambda lines: next(each for each in lines if each["type"] == "note").update(
            kept=[[0, 10**15], [3, 10**15]]
        ),
        None,
        "no run",
        "only ever",
    ),
    "a count": ("label", turn(4, counted=17), 4, "counted was 17", "no fingerprint vouches"),
    "a prefix": ("label", turn(4, prefix=17), 4, "prefix was 17", "no fingerprint vouches"),
    "a calibration": ("label", turn(4, calibration=1.5), 4, "calibration was", "tokens before"),
    "a usage": (
        "label",
        turn(4, usage={"prompt": 9_999, "cached": 0, "completion": 1, "reasoning": 0}),
        5,
        "calibration was",
        "the calibration of turn 5",
    ),
    "an impossible usage": (
        "label",
        turn(11, usage={"prompt": 0, "cached": 0, "completion": -1, "reasoning": 0}),
        11,
        "usage",
        "no fingerprint",
    ),
    "a setting": (
        "label",
        lambda lines: lines[0]["settings"]["feedback"].update(kind="correctness"),
        None,
        "the id was",
        "digest",
    ),
    "the frame": (
        "label",
        lambda lines: lines[0].update(system="Hi."),
        None,
        "the id was",
        "digest",
    ),
    "a turn taken out": ("label", without("turn", 4), None, "expected turn 4", "appended"),
    "a probe taken out": ("label", without("probe", 2), 6, "is missing", "no fingerprint"),
    "a note taken out": ("notes", without("note", 0), 4, "", "another fingerprint"),
    "the last turn taken out": ("label", without("turn", 11), 12, "counts 12", "no fingerprint"),
    "turns added to the end": (
        "label",
        lambda lines: lines.insert(-1, {**lines[-4], "turn": 12}),
        12,
        "over before it",
        "no fingerprint",
    ),
}


@pytest.mark.parametrize("name", EDITED, ids=lambda name: name.replace(" ", "-"))
async def test_an_edit_by_hand_is_told_as_one(folder: Path, name: str) -> None:
    """An edit of a transcript is found at its turn, called an edit, and what tells so is said."""
    arm, change, turn_of_it, what, since = EDITED[name]
    found = await difference(edit(folder / f"{arm}-0.jsonl", change))
    assert (found.cause, found.turn) == ("edited", turn_of_it), found
    assert what in found.what
    assert since in found.since


OTHERS: Mapping[str, tuple[str, Edit, Cause, str, str]] = {
    "a setting that this version has not": (
        "label",
        both(lambda lines: lines[0]["settings"]["task"].update(colour="red"), named_again),
        "settings",
        "colour",
        "played by this version",
    ),
    "settings that give another frame": (
        "label",
        both(lambda lines: lines[0]["settings"]["feedback"].update(kind="none"), named_again),
        "settings",
        "system was",
        "another frame",
    ),
    "a frame of another version": (
        "label",
        both(
            lambda lines: lines[0]["settings"]["feedback"].update(kind="none"),
            named_again,
            other_version,
        ),
        "version",
        "system was",
        "0.0.9",
    ),
    "data that have changed": (
        "label",
        both(lambda lines: lines[0]["dataset"].update(sha256="0" * 64), named_again),
        "data",
        "SHA-256",
        "not in the transcript",
    ),
    "data that are missing": (
        "label",
        both(lambda lines: lines[0]["settings"]["task"].update(dataset="idx:no/such"), named_again),
        "data",
        "no/such",
        "not in the transcript",
    ),
    "words of another version": (
        "stateless",
        both(turn(3, told="Well done."), other_version),
        "version",
        "told was 'Well done.'",
        "does not contradict itself",
    ),
}


@pytest.mark.parametrize("name", OTHERS, ids=lambda name: name.replace(" ", "-"))
async def test_other_causes_are_told_apart(folder: Path, name: str) -> None:
    """Other settings, data and versions are told from an edit where the file agrees with itself."""
    arm, change, cause, what, since = OTHERS[name]
    found = await difference(edit(folder / f"{arm}-0.jsonl", change))
    assert found.cause == cause, found
    assert what in found.what
    assert since in found.since


async def test_an_edit_of_an_old_transcript_is_an_edit(folder: Path) -> None:
    """A file that contradicts itself was edited, whichever version played it."""
    change = both(turn(3, told="Well done."), other_version)
    assert (await difference(edit(folder / "label-0.jsonl", change))).cause == "edited"


async def test_a_probe_that_does_not_fit_is_no_probe_missing(tmp_path: Path) -> None:
    """A session whose window has room for its last turn, but for no probe after it, replays."""
    probes, model = (
        {"at": [*range(12)], "count": 1},
        {"context_window": 1_400, "name": "reference/nearest"},
    )
    made = experiment(probes=probes, model=model, context={"policy": "all", "reserve": 0})
    paths = sorted((await played(made, tmp_path)).glob("*.jsonl"))
    for path in paths:
        saved = read(path)
        assert saved.end is not None
        assert saved.end.status == "context_full"
        assert len(saved.probes) == len(saved.turns)
    assert [(await examine(path)).difference for path in paths] == [None] * len(paths)


async def test_a_donor_that_is_missing_or_changed_is_named(folder: Path) -> None:
    """A yoked session whose donor is gone, or was told something else, lacks its donor."""
    donor = folder / "feedback-1.jsonl"
    edit(donor, turn(3, told="Well done."))
    assert (await difference(folder / "yoked-0.jsonl")).cause == "donor"
    donor.unlink()
    found = await difference(folder / "yoked-0.jsonl")
    assert (found.cause, "feedback-1.jsonl is missing" in found.what) == ("donor", True)


WORDING = Path(__file__).parent.parent / "src/icl_loop/tasks/prompts/en.toml"


async def test_a_prompts_file_that_changed_is_a_setting(tmp_path: Path) -> None:
    """PromptSection in a file of one's own that were changed since are other settings, not an edit."""
    own = tmp_path / "own.toml"
    text = WORDING.read_text()
    own.write_text(text)
    made = experiment(task={"prompts": str(own)}, streams=1)
    (path,) = (await played(made, tmp_path)).glob("*.jsonl")
    assert (await examine(path)).difference is None
    own.write_text(text.replace('correct = "', 'correct = "Yes! ', 1))
    assert own.read_text() != text
    found = await difference(path)
    assert found.cause == "settings", found
    assert str(own) in found.since


async def test_a_prompts_file_that_is_gone_is_a_setting(tmp_path: Path) -> None:
    """A session, even one with notes, whose prompt set file is gone lacks a setting, and says which."""
    own = tmp_path / "own.toml"
    own.write_text(WORDING.read_text())
    context = {"policy": "notes(every=4, tokens=40)"}
    made = experiment(task={"prompts": str(own)}, context=context, streams=1)
    (path,) = (await played(made, tmp_path)).glob("*.jsonl")
    own.unlink()
    found = await difference(path)
    assert (found.cause, str(own) in found.what) == ("settings", True)


async def test_what_is_no_transcript_is_wrong_input(tmp_path: Path) -> None:
    """A file that does not begin as a transcript does is no finding but wrong input."""
    path = tmp_path / "notes.jsonl"
    path.write_text('{"type":"shopping"}\n')
    with pytest.raises(TranscriptError, match=r"notes\.jsonl, line 1"):
        await examine(path)


def test_what_sessions_lack_is_said_once(folder: Path) -> None:
    """Missing data are said once, each session has its line, and the exit code is 1."""
    missing, cause = OTHERS["data that are missing"][1], "other data"
    for path in folder.glob("stateless-*.jsonl"):
        edit(path, missing)
    for path in folder.glob("label-0.jsonl"):
        edit(path, turn(3, told="Well done."))
    done = CliRunner().invoke(app, ["replay", "--verify", str(folder)])
    assert done.exit_code == 1
    assert done.stdout.count("12 turns replay\n") == 7
    assert done.stdout.count(f"cannot be derived again: {cause}\n") == 2
    assert "label-0.jsonl, turn 3: told was 'Well done.', is now" in done.stdout
    assert done.stderr.count("no/such") == 1
    assert "not replayed: 3 of 10 sessions" in done.stderr


def test_a_file_that_is_no_transcript_leaves_the_others(folder: Path) -> None:
    """Beside a file that is no transcript the others are verified; it has its error, the exit is 2."""
    (folder / "x.jsonl").write_text("{}\n")
    done = CliRunner().invoke(app, ["replay", "--verify", "--json", str(folder)])
    assert done.exit_code == 2
    assert "x.jsonl, line 1" in done.stderr
    found = json.loads(done.stdout)
    assert [each["replays"] for each in found] == [not each["error"] for each in found]
    (unread,) = (each for each in found if each["error"])
    assert (len(found), Path(unread["path"]).name) == (11, "x.jsonl")
    assert "x.jsonl, line 1" in unread["error"]
