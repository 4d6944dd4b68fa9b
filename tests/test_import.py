"""Tests of importing sessions from files of other programs."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings

from command_line import Command
from drawn_transcripts import save, several, transcripts
from icl_loop.analysis import frame, sessions, summarise
from icl_loop.core.errors import TranscriptError
from icl_loop.core.records import Note, Turn
from icl_loop.experiment.settings import ArmName
from icl_loop.export import export
from icl_loop.export.importing import import_files
from icl_loop.transcripts import Transcript, read
from icl_loop.transcripts.schema import line_fields

SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"
TABLE = """session,turn,arm,answer,label,told
a,2,feedback,dog,cat,Incorrect.
a,1,feedback,cat,cat,Correct.
b,1,none,"Well, I say cat",cat,Noted.
b,2,none,,dog,
"""
CHAT: Mapping[str, Any] = {
    "messages": [
        {"role": "system", "content": "Sort."},
        {"role": "user", "content": "Miaow"},
        {"role": "assistant", "content": "cat"},
        {"role": "user", "content": "Correct.\n\nWoof"},
        {"role": "assistant", "content": "Answer: cat"},
        {"role": "user", "content": "Purr"},
        {"role": "assistant", "content": "cat"},
    ],
    "targets": ["cat", "dog", "cat"],
}
NOT_IN_INSPECT = {
    *("counted", "prefix", "limit", "calibration", "label_logprobs", "served", "finish", "at"),
    *("request", "echo", "reasoning_text"),
}
"""Fields that a log does not hold, or holds in another form; the texts among them have their own checks."""


@pytest.fixture(autouse=True)
def event_loops_do_not_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Inspect from patching the event loops of this process, which other tests share."""
    if importlib.util.find_spec("nest_asyncio2") is not None:
        monkeypatch.setattr("nest_asyncio2.apply", lambda *_, **__: None)


def chats(path: Path, *lines: Mapping[str, Any]) -> Path:
    """Write a file of chats and return its path."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _said(transcript: Transcript) -> list[tuple[object, ...]]:
    """Return what was asked, answered and told, in order."""
    return [
        (each.question, each.feedback.told, each.label, *_reply(each))
        if isinstance(each, Turn)
        else _reply(each)
        for each in transcript.conversation
    ]


def _reply(event: Turn | Note) -> tuple[str, str | None]:
    return event.reply.text, event.reply.reasoning_text or None


@given(drawn=transcripts())
@settings(max_examples=30)
def test_a_chat_is_imported_as_it_was_exported(
    tmp_path_factory: pytest.TempPathFactory, drawn: Transcript
) -> None:
    """Conversation, labels, names, seed, plan and end of a session survive export and import."""
    folder = tmp_path_factory.mktemp("any")
    export([save([drawn], folder / "saved")], "openai-jsonl", folder / "x.openai.jsonl")
    [made] = import_files([folder / "x.openai.jsonl"], folder, name="back")
    found, header = read(made.path), drawn.header
    assert _said(found) == _said(drawn)
    for name in ("labels", "arm", "stream", "repeat", "seed", "turns", "system", "created"):
        assert getattr(found.header, name) == getattr(header, name)
    assert found.header.exemplars == header.exemplars
    assert (found.end and found.end.status) == (drawn.end and drawn.end.status)


@given(drawn=several())
@settings(max_examples=10)
def test_a_log_is_imported_as_it_was_exported(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Transcript]
) -> None:
    """All that a log holds of turns, notes and the settings of an arm survives export and import."""
    pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    folder = tmp_path_factory.mktemp("any")
    export([save(drawn, folder / "saved")], "inspect", folder / "logs")
    made = {each.header.stream: each for each in import_files([folder / "logs"], folder, name="x")}
    assert made.keys() == {each.header.stream for each in drawn}
    first = {each.header.arm: each.header for each in reversed(drawn)}
    for before in drawn:
        after, header = read(made[before.header.stream].path), before.header
        assert _said(after) == _said(before)
        assert after.header.settings == first[header.arm].settings
        assert (after.header.analysis, after.header.donor) == (header.analysis, header.donor)
        assert after.header.exemplars == header.exemplars
        for played, found in zip(before.conversation, after.conversation, strict=True):
            kept = {name: line_fields(played)[name] for name in _kept(played)}
            assert {name: line_fields(found)[name] for name in kept} == kept


def _kept(event: Turn | Note) -> list[str]:
    return [name for name in line_fields(event) if name not in NOT_IN_INSPECT]


@pytest.mark.parametrize("to", ["openai-jsonl", "inspect"])
def test_an_import_is_analysed_as_its_original(tmp_path: Path, to: str) -> None:
    """Sessions that were exported and imported have the same answers, scores and arms."""
    if to == "inspect":
        pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    place = tmp_path / ("logs" if to == "inspect" else "x.openai.jsonl")
    export([SAMPLE], to, place)
    import_files([place], tmp_path, name="sample")
    before, after = frame([SAMPLE]), frame([tmp_path / "sample"])
    columns = ("arm", "stream", "turn", "label", "answer", "outcome", "correct", "told_right")
    order = ("arm", "stream", "turn")
    assert before.select(columns).sort(order).equals(after.select(columns).sort(order))
    if to == "inspect":
        shown = (*order, "exposure", "prompt", "sample")
        assert before.select(shown).sort(order).equals(after.select(shown).sort(order))


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_table_becomes_sessions(tmp_path: Path, ending: str) -> None:
    """Rows become turns in order; answers are labels or replies; what is not known is null."""
    path, saved = tmp_path / f"own.{ending}", tmp_path / "table.csv"
    saved.write_text(TABLE)
    table = pl.read_csv(saved)
    if ending == "parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="," if ending == "csv" else "\t")
    first, second = import_files([path], tmp_path)
    turns = frame([first.path, second.path])
    assert turns["answer"].to_list() == ["cat", "dog", "cat", None]
    assert turns["correct"].to_list() == [True, False, True, False]
    assert turns["told_right"].to_list() == [True, False, None, None]
    assert turns["experiment"].unique().to_list() == ["own-imported"]
    for column in ("exposure", "latency_s", "prompt", "sample", "counted"):
        assert turns[column].null_count() == 4
    known = sessions([first.path, second.path])
    assert known["imported"].to_list() == [path.name] * 2
    assert known["seed"].null_count() == known["dataset"].null_count() == 2
    assert [summary.chance for summary in summarise(turns)] == [0.5, 0.5]


def test_a_chat_of_another_program_becomes_a_session(tmp_path: Path) -> None:
    """Feedback at the beginning of a question is told apart from it; without any it is null."""
    [made] = import_files([chats(tmp_path / "own.jsonl", CHAT)], tmp_path)
    turns = read(made.path).turns
    assert [turn.question.text for turn in turns] == ["Miaow", "Woof", "Purr"]
    assert [turn.feedback.told for turn in turns] == ["Correct.", "", ""]
    assert [turn.answer for turn in turns] == ["cat", "cat", "cat"]
    assert made.header.system == "Sort."
    lines = [json.loads(line) for line in made.path.read_bytes().splitlines()]
    assert lines[2]["told"] is None
    assert lines[1]["kept"] is None


def test_questions_asked_on_their_own_become_turns(tmp_path: Path) -> None:
    """A log whose samples have one reply each is one stream without past turns; epochs are repeats."""
    log = pytest.importorskip("inspect_ai.log", reason="needs the extra [inspect]")
    model = pytest.importorskip("inspect_ai.model")
    samples = [
        log.EvalSample(
            id=name,
            epoch=epoch,
            input="Which?",
            target=name,
            messages=[
                model.ChatMessageUser(content="Which?"),
                model.ChatMessageAssistant(content=f"Answer: {'cat' if epoch == 1 else name}"),
            ],
        )
        for name in ("cat", "dog")
        for epoch in (1, 2)
    ]
    spec = log.EvalSpec(
        created="2026-01-02T03:04:05+00:00",
        task="pets/small",
        dataset=log.EvalDataset(name="pets"),
        model="openai/gpt",
        config=log.EvalConfig(),
    )
    log.write_eval_log(log.EvalLog(eval=spec, samples=samples), tmp_path / "pets.eval")
    import_files([tmp_path / "pets.eval"], tmp_path)
    turns = frame([tmp_path / "pets-small-imported"]).sort("repeat", "turn")
    assert turns["arm"].unique().to_list() == ["openai-gpt"]
    assert turns["stream"].to_list() == [0] * 4
    assert turns["repeat"].to_list() == [0, 0, 1, 1]
    assert turns["correct"].to_list() == [True, False, True, True]
    assert turns["exposure"].to_list() == [0] * 4


@pytest.mark.parametrize(
    "command",
    [
        ["analyze"],
        ["analyze", "--json"],
        ["plot", "-o", "x.svg"],
        ["report", "-o", "x.html"],
        ["replay", "--session", "a-0"],
        ["export", "-o", "x.parquet"],
        ["export", "-o", "x.openai.jsonl"],
    ],
    ids=" ".join,
)
def test_an_import_is_read_by(icl_loop: Command, tmp_path: Path, command: list[str]) -> None:
    """Commands that do not need the requests read imported sessions."""
    (tmp_path / "own.csv").write_text(TABLE.replace("feedback", "a"))
    done = icl_loop("import", tmp_path / "own.csv", "--out", tmp_path)
    assert done.returncode == 0
    arguments = [str(tmp_path / each) if each.startswith("x.") else each for each in command[1:]]
    done = icl_loop(command[0], tmp_path / "own-imported", *arguments)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    assert "nan" not in done.stdout.lower().split()


@pytest.mark.parametrize(
    "command",
    [
        ["replay", "--verify"],
        ["branch", "--at", "1"],
        ["rescore", "--set", "answers.rule=last"],
        ["what-if", "--policy", "all"],
    ],
    ids=" ".join,
)
def test_an_import_cannot_be_replayed(
    icl_loop: Command, tmp_path: Path, command: list[str]
) -> None:
    """Commands that need the requests refuse imported sessions and name the file."""
    (tmp_path / "own.csv").write_text(TABLE)
    [first, _] = import_files([tmp_path / "own.csv"], tmp_path)
    done = icl_loop(command[0], first.path, *command[1:])
    assert done.returncode == 2
    assert "was imported from own.csv" in done.stderr


@pytest.mark.parametrize("name", ["usage", "kept", "told", "at", "sample"])
def test_a_session_that_was_played_has_no_unknown_values(tmp_path: Path, name: str) -> None:
    """A null that only an imported session may have is an error in any other."""
    lines = (SAMPLE / "label-0.jsonl").read_text().splitlines()
    fields = [{k: v for k, v in json.loads(line).items() if k != "crc32"} for line in lines]
    fields[1][name] = None
    path = chats(tmp_path / "label-0.jsonl", *fields)
    with pytest.raises(TranscriptError, match=f"line 2: {name} is null"):
        read(path)
    if name in ("usage", "kept", "told", "sample"):
        with pytest.raises(TranscriptError, match=f"line 2: {name} is null"):
            frame([path])


ROW = "session,turn,answer,label,told\n"


@pytest.mark.parametrize(
    ("name", "text", "complaints"),
    [
        ("x.csv", "session,turn,answer,lable,told\na,1,x,x,\n", ["'label'", "'lable'"]),
        ("x.csv", ROW + "a,1,x,x,\na,3,y,y,\n", ["line 3", "'turn'", "turn 2 is missing"]),
        ("x.csv", ROW + "a,1,x,x,\na,1,y,y,\n", ["line 3", "'turn'", "occurs twice"]),
        ("x.csv", ROW + "a,first,x,x,\na,2,y,y,\n", ["line 2", "'turn'", "'first'"]),
        ("x.csv", ROW + "a,1,x,,\n", ["line 2", "'label'", "empty"]),
        ("x.csv", ROW + ",1,x,x,\na,1,y,y,\n", ["line 2", "'session'", "empty"]),
        ("x.csv", ROW + "a,1,x,x,\n", ["only the label 'x'", "--labels"]),
        ("x.csv", ROW + "a,1,x\n", ["line 2", "3 cells"]),
        ("x.csv", ROW, ["no rows"]),
        ("x.csv", "arm," + ROW + "p,a,1,x,x,\nq,a,2,y,y,\n", ["line 3", "'arm'", "'q'", "'p'"]),
        (
            "x.csv",
            "stream," + ROW + "0,a,1,x,x,\n0,b,1,y,y,\n",
            ["line 3", "already has a session of stream 0"],
        ),
        ("x.parquet", "not Parquet", ["not a Parquet file"]),
        ("x.jsonl", "{", ["line 1", "not valid JSON"]),
        ("x.jsonl", json.dumps(CHAT).replace("cat", "\\ud800", 1), ["line 1", "half a character"]),
        ("x.jsonl", "", ["empty"]),
        ("x.jsonl", '{"text": "hi"}', ["line 1", "messages"]),
        ("x.jsonl", json.dumps({**CHAT, "targets": ["cat"]}), ["line 1", "3 replies"]),
        ("x.jsonl", json.dumps({**CHAT, "targets": "cat"}), ["line 1", "targets", "list"]),
        ("x.jsonl", json.dumps({"messages": CHAT["messages"]}), ["line 1", "targets", "missing"]),
        ("x.jsonl", json.dumps({**CHAT, "labels": ["cat"]}), ["line 1", "'dog'", "labels"]),
        (
            "x.jsonl",
            json.dumps({**CHAT, "metadata": {"stream": "one"}}),
            ["line 1", "metadata.stream", "'one'"],
        ),
        (
            "x.jsonl",
            json.dumps(
                {"messages": [{"role": "tool", "content": "5"}], "targets": [], "labels": ["a"]}
            ),
            ["line 1, message 1", "role"],
        ),
        (
            "x.jsonl",
            json.dumps({"messages": CHAT["messages"][2:3], "targets": ["cat"], "labels": ["cat"]}),
            ["line 1", "message 1", "without a question"],
        ),
        ("x.eval", "not a log", ["not a log of Inspect"]),
        ("x.txt", "", [".eval", ".jsonl", ".csv"]),
    ],
)
def test_a_wrong_file_is_one_clear_error(
    icl_loop: Command, tmp_path: Path, name: str, text: str, complaints: list[str]
) -> None:
    """A wrong file gives one line that names file, place and value, exit code 2, and no transcript."""
    if name.endswith(".eval"):
        pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    (tmp_path / name).write_text(text)
    done = icl_loop("import", tmp_path / name, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    for complaint in (name, *complaints):
        assert complaint in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed.replace(b"PK\1\2", b"PK\1\3"),
        lambda packed: packed.replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\0"),
        lambda packed: packed[: len(packed) // 2] + packed[-400:],
        lambda packed: packed[:-12] + b"\xff" * 4 + packed[-8:],
    ],
    ids=["directory", "frames", "middle", "size"],
)
def test_a_damaged_log_is_one_clear_error(
    icl_loop: Command, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """A log with damaged bytes is one error that names it, whichever of its parts is damaged."""
    pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    export([SAMPLE / "label-0.jsonl"], "inspect", tmp_path / "logs")
    [log] = (tmp_path / "logs").glob("*.eval")
    damaged = damage(log.read_bytes())
    assert damaged != log.read_bytes()
    log.write_bytes(damaged)
    done = icl_loop("import", log, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert log.name in done.stderr


def test_names_become_file_names(tmp_path: Path) -> None:
    """Arms get names that files can have, different ones even where case does not count."""
    arms = ("A", "a", "NUL.x", "\u732b", "\u72ac", "b ", "b.")
    rows = [f"s{place},0,cat,cat,Correct.,{arm}" for place, arm in enumerate(arms)]
    (tmp_path / "own.csv").write_text(
        "\n".join(["session,turn,answer,label,told,arm", *rows]), "utf-8"
    )
    given = [tmp_path / "own.csv"], tmp_path
    made = [each.header.arm for each in import_files(*given, labels=["cat", "dog"])]
    assert len({arm.casefold() for arm in made}) == len(arms)
    assert made[:3] == ["A", "a-2", "session-NUL.x"]
    assert made == [ArmName.validate_python(arm) for arm in made]


def test_nothing_is_overwritten(icl_loop: Command, tmp_path: Path) -> None:
    """A second import into the same folder is refused; with another --name it is made."""
    (tmp_path / "own.csv").write_text(TABLE)
    arguments = ["import", tmp_path / "own.csv", "--out", tmp_path]
    assert icl_loop(*arguments).returncode == 0
    again = icl_loop(*arguments)
    assert again.returncode == 2
    assert "already exists" in again.stderr
    assert icl_loop(*arguments, "--name", "second").returncode == 0
    assert icl_loop(*arguments, "--name", "third", "--labels", "cat").returncode == 2
