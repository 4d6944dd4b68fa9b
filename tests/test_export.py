"""Tests of exports: they hold everything that the transcripts hold, and are written completely or not at all."""

import asyncio
import base64
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from builders import experiment, without_checksum
from command_line import Command
from drawn_transcripts import PNG, save, several, transcripts
from icl_loop.analysis import frame, probes, sessions, summarise, told
from icl_loop.analysis.baseline import request_of
from icl_loop.analysis.curves import LATE
from icl_loop.context.history import build_request
from icl_loop.context.window import from_spans
from icl_loop.core.errors import InputError, TranscriptError
from icl_loop.core.messages import Image, Message, Text, merged, system, user
from icl_loop.core.records import Turn
from icl_loop.export import export
from icl_loop.export.conversation import conversation, note_request, shown_note
from icl_loop.export.source_file import SourceFile
from icl_loop.export.tables import batches
from icl_loop.models import open_model
from icl_loop.runner.run import Run
from icl_loop.server import ServerSettings, build_app, serving
from icl_loop.transcripts import Header, Transcript, read
from icl_loop.transcripts.columns import TABLES, table_path
from icl_loop.transcripts.files import find
from icl_loop.transcripts.loading import saved_sessions
from icl_loop.transcripts.schema import line_fields

SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"
CANARY = "sk-canary-5f3759df"


@pytest.fixture(autouse=True)
def event_loops_do_not_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Inspect from patching the event loops of this process, which other tests share."""
    if importlib.util.find_spec("nest_asyncio2") is not None:
        monkeypatch.setattr("nest_asyncio2.apply", lambda *_, **__: None)


def loaded(path: Path) -> dict[str, pl.DataFrame]:
    """Return the tables of an export to Parquet."""
    return {table: pl.read_parquet(table_path(path, table)) for table in TABLES}


def rebuilt(row: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of turns or probes as the line it came from, which has these fields."""
    made = dict(row) | {
        "usage": {key: row[key] for key in ("prompt", "cached", "completion", "reasoning")},
        "served": fields["served"]
        and {"model": row["served_model"], "system_fingerprint": row["system_fingerprint"]},
        "label_logprobs": row["label_logprobs"] and json.loads(row["label_logprobs"]),
        "kept": tuple(map(tuple, row["kept"])),
        "candidates": tuple(row.get("candidates", ())),
        "type": fields["type"],
    }
    if row.get("picture") is not None:
        made["picture"] = base64.b64encode(row["picture"]).decode()
    return {key: made[key] for key in fields}


@given(drawn=several(), torn=st.sampled_from(["", '{"type":"turn","tu']))
@settings(max_examples=12)
def test_parquet_holds_what_the_transcripts_hold(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Transcript], torn: str
) -> None:
    """The tables give the same frame, probes and sessions as the transcripts, and every complete line.

    Sessions rebuilt from the tables equal those read from the transcripts.
    """
    folder = tmp_path_factory.mktemp("any")
    saved = save(drawn, folder / "saved", torn)
    done = export([saved], "parquet", folder / "out.parquet")
    tables = loaded(done.places[-1])
    turns = tables["turns"]
    if turns.height:
        expected = frame([saved])
        saved_columns = expected.drop(told.COLUMNS, "correct")  # null for chosen turns in frames
        assert_frame_equal(turns.select(saved_columns.columns), saved_columns)
        assert_frame_equal(frame([folder / "out.parquet"]), expected)
    assert_frame_equal(tables["probes"].select(probes([saved]).columns), probes([saved]))
    assert_frame_equal(tables["sessions"].select(sessions([saved]).columns), sessions([saved]))
    for path, header in tables["sessions"].select("path", "header").iter_rows():
        whole = read(Path(path))
        assert Header.model_validate_json(header) == whole.header
        mine = turns.filter(path=path).to_dicts()
        lines = [line_fields(turn) for turn in whole.turns]
        assert [rebuilt(row, line) for row, line in zip(mine, lines, strict=True)] == lines
        mine = tables["probes"].filter(path=path).to_dicts()
        lines = [line_fields(probe) for probe in whole.probes]
        assert [rebuilt(row, line) for row, line in zip(mine, lines, strict=True)] == lines
        mine = tables["notes"].filter(path=path).to_dicts()
        lines = [line_fields(note) for note in whole.notes]
        assert [rebuilt(row, line) for row, line in zip(mine, lines, strict=True)] == lines
        mine = tables["choices"].filter(path=path).to_dicts()
        lines = [line_fields(choice) for choice in whole.choices]
        assert [rebuilt(row, line) for row, line in zip(mine, lines, strict=True)] == lines
        row = tables["sessions"].row(by_predicate=pl.col("path") == path, named=True)
        assert row["status"] == (whole.end.status if whole.end else None)
        entries = (whole.turns, whole.probes, whole.notes, whole.choices)
        kinds = ("played", "probes", "notes", "choices")
        assert [row[kind] for kind in kinds] == [len(each) for each in entries]
    again, record = (saved_sessions([place]).values() for place in (folder / "out.parquet", saved))
    for exported, original in zip(again, record, strict=True):
        assert exported.read() == replace(original.read(), sound_bytes=0)
        assert exported.header() == original.header()


def test_batches_change_nothing(tmp_path: Path) -> None:
    """The tables are the same whether sessions are read one by one or together."""
    export([SAMPLE], "parquet", tmp_path / "together.parquet")
    files = [SourceFile.at(path) for path in find([SAMPLE])]
    apart = list(batches(files, lambda _: None, batch_bytes=1))
    assert len(apart) == len(files)
    for table, expected in loaded(tmp_path / "together.parquet").items():
        assert_frame_equal(pl.concat(batch[table] for batch in apart), expected)


@given(drawn=several())
@settings(max_examples=12)
def test_csv_holds_what_parquet_holds(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Transcript]
) -> None:
    """A CSV file has the rows and columns of the Parquet file; nested ones are texts."""
    folder = tmp_path_factory.mktemp("any")
    saved = save(drawn, folder / "saved")
    export([saved], "csv", folder / "out.csv")
    export([saved], "parquet", folder / "out.parquet")
    for table in TABLES:
        expected = loaded(folder / "out.parquet")[table]
        place = table_path(folder / "out.csv", table)
        plain = {
            name: pl.String if kind in (pl.Binary, pl.List) else kind
            for name, kind in expected.schema.items()
        }
        back = pl.read_csv(place, schema=plain)
        assert back.columns == expected.columns
        same = [name for name, kind in expected.schema.items() if plain[name] == kind]
        assert_frame_equal(back.select(same), expected.select(same))
        if "kept" in back.columns:
            kept = [
                [[int(end) for end in run.split("-")] for run in (text or "").split()]
                for text in back["kept"]
            ]
            assert kept == expected["kept"].to_list()


@given(drawn=transcripts(), merge=st.booleans())
def test_chat_jsonl_holds_the_conversation(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: Transcript,
    merge: bool,  # noqa: FBT001  hypothesis fills it
) -> None:
    """A line holds the messages of a session in order, merged only where the requests were.

    Each reply has the reasoning that came beside it.
    """
    folder = tmp_path_factory.mktemp("any")
    saved = save([drawn], folder / "saved")
    export([saved], "openai-jsonl", folder / "out.jsonl", merge=merge)
    (line,) = (folder / "out.jsonl").read_bytes().split(b"\n")[:-1]
    said = conversation(drawn)
    if merge and drawn.header.settings["model"]["merge_roles"]:
        said = merged(said)
    written = json.loads(line)
    messages = written["messages"]
    reasoning = [
        message.pop("reasoning_content", None)
        for message in messages
        if message["role"] == "assistant"
    ]
    shown = drawn.header.exemplars
    assert reasoning == [None] * len(shown) + [
        event.reply.reasoning_text or None for event in drawn.conversation
    ]
    about = [{"sample": each.sample, "label": each.label} for each in shown]
    assert written.get("exemplars", []) == about
    assert messages == [{"role": each.role, "content": _content(each)} for each in said]
    assert len(written["metadata"]) <= 16
    assert all(isinstance(value, str) for value in written["metadata"].values())
    assert written["metadata"]["id"] == drawn.header.id


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.has_image:
        return message.text
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, Text)
        else {"type": "image_url", "image_url": {"url": url}}
        for part in message.parts
    ]


def test_runs_are_distinguished(tmp_path: Path) -> None:
    """Where two folders hold runs of one experiment, exports name them as the analysis does."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        for file in SAMPLE.glob("label-*.jsonl"):
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
    folders = [tmp_path / "first", tmp_path / "second"]
    export(folders, "parquet", tmp_path / "out.parquet")
    expected = frame(folders).drop(told.COLUMNS)
    assert expected["experiment"].unique().sort().to_list() == ["first/sample", "second/sample"]
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet").select(expected.columns), expected)


def test_unknown_fields_are_exported(tmp_path: Path) -> None:
    """A field of turns that the schema does not declare becomes a column of JSON text."""
    header, *lines = without_checksum((SAMPLE / "label-0.jsonl").read_text()).splitlines()
    anything = {"list": [1, 'a "b"\n'], "none": None}
    more = [json.dumps(json.loads(line) | {"later": anything}) for line in lines[:3]]
    saved = tmp_path / "saved.jsonl"
    saved.write_text("\n".join([header, *more]) + "\n")
    export([saved], "parquet", tmp_path / "out.parquet")
    column = pl.read_parquet(tmp_path / "out.parquet")["later"]
    assert [json.loads(text) for text in column] == [anything] * 3


def inspect_logs(place: Path) -> Iterator[Any]:
    """Yield the logs in a folder, read by Inspect."""
    log = pytest.importorskip("inspect_ai.log", reason="needs the extra [inspect]")
    for file in sorted(place.iterdir()):
        yield log.read_eval_log(str(file), resolve_attachments=True)


@given(drawn=several())
@settings(max_examples=12)
def test_inspect_reads_every_session(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Transcript]
) -> None:
    """Inspect reads the messages, requests, scores and tokens of every session from the logs."""
    pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    folder = tmp_path_factory.mktemp("any")
    saved = save(drawn, folder / "saved")
    export([saved], "inspect", folder / "logs")
    logs = {log.eval.tags[0]: log for log in inspect_logs(folder / "logs")}
    assert logs.keys() == {each.header.arm for each in drawn}
    assert {log.eval.task for log in logs.values()} == {drawn[0].header.experiment}
    found = {sample.id: sample for log in logs.values() for sample in log.samples}
    assert found.keys() == {each.header.stream for each in drawn}
    for each in drawn:
        _same_session(found[each.header.stream], each)
    for arm, log in logs.items():
        ends = [each.end and each.end.status for each in drawn if each.header.arm == arm]
        whole = {"complete", "context_full"}.issuperset(ends)
        assert log.status == ("success" if whole else "cancelled")
        usages = [
            event.reply.usage for each in drawn if each.header.arm == arm for event in each.events
        ]
        (usage,) = [sum(log.stats.model_usage.values(), type(_any(log.stats.model_usage))())]
        assert usage.input_tokens + usage.input_tokens_cache_read == sum(u.prompt for u in usages)
        assert usage.input_tokens_cache_read == sum(u.cached for u in usages)
        assert usage.output_tokens == sum(u.completion for u in usages)
        assert usage.reasoning_tokens == sum(u.reasoning for u in usages)


def _any(usages: Mapping[str, Any]) -> Any:  # noqa: ANN401  a class of an extra
    return next(iter(usages.values()))


def _same_session(sample: Any, saved: Transcript) -> None:  # noqa: ANN401  a class of an extra
    """Assert that a sample holds the messages, requests and scores of a session."""
    turns, opening = saved.turns, system(saved.header.system or "")
    assert [_said(message) for message in sample.messages] == [
        (message.role, message.text, message.has_image) for message in conversation(saved)
    ]
    asked = [event for event in sample.events if event.event == "model"]
    judged = [event for event in sample.events if event.event == "score"]
    for played, event in zip(saved.conversation, asked, strict=True):
        if isinstance(played, Turn):
            request = request_of(saved, played)
        else:
            written = [note for note in saved.notes if note.after_turn < played.after_turn]
            standing = [
                *saved.header.exemplar_messages,
                *(shown_note(saved, written[-1]) if written else ()),
            ]
            (question,) = note_request(saved)
            request = build_request(opening, turns, from_spans(played.kept), question, standing)
        assert [_said(message) for message in event.input] == [
            (message.role, message.text, message.has_image) for message in request
        ]
        assert event.output.completion == played.reply.text
        thoughts = (
            [part.reasoning for part in event.output.message.content if part.type == "reasoning"]
            if isinstance(event.output.message.content, list)
            else []
        )
        assert thoughts == [each for each in (played.reply.reasoning_text,) if each]
    for turn, event in zip(turns, judged, strict=True):
        assert (event.score.value == "C") == turn.feedback.correct
        assert (event.score.answer, event.target) == (turn.answer, turn.label)
    assert list(sample.target) == [turn.label for turn in turns]
    right = [turn.feedback.correct for turn in turns]
    counted = [turn.feedback.correct for turn in turns if saved.header.counts(turn.index)]
    if counted:
        assert sample.scores["accuracy"].value == pytest.approx(sum(counted) / len(counted))
    assert sample.scores["accuracy"].metadata["correct"] == right


def _said(message: Any) -> tuple[str, str, bool]:  # noqa: ANN401  a class of an extra
    return (
        message.role,
        message.text,
        "image" in str([getattr(part, "type", "") for part in message.content]),
    )


@pytest.mark.parametrize(
    "text", ["attachment://0123", "data:image/png;base64,AAAA", "</script>", "x" * 500]
)
def test_hostile_texts_survive_inspect(tmp_path: Path, text: str) -> None:
    """Texts with a meaning to Inspect's own format survive unchanged."""
    pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    kept = read(SAMPLE / "label-0.jsonl")
    turn = replace(
        kept.turns[0], reply=replace(kept.turns[0].reply, text=text), question=user(text)
    )
    saved = save([replace(kept, turns=(turn,), probes=())], tmp_path / "saved")
    export([saved], "inspect", tmp_path / "logs")
    (log,) = inspect_logs(tmp_path / "logs")
    assert [message.text for message in log.samples[0].messages[1:3]] == [text, text]


@pytest.mark.parametrize("ending", ["eval", "json"])
def test_the_metrics_of_a_log_are_those_of_the_analysis(tmp_path: Path, ending: str) -> None:
    """The means in a log are those that `summarise` returns, in both of Inspect's formats."""
    pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    files = sorted(SAMPLE.glob("label-*.jsonl"))
    export(files, "inspect", tmp_path / f"out.{ending}")
    (summary,), (log,) = summarise(frame(files)), inspect_logs(tmp_path)
    scores = {score.name: score.metrics for score in log.results.scores}
    for name in ("late", "accuracy", "early"):
        assert scores[name]["mean"].value == pytest.approx(getattr(summary, name).mean)
    late = frame(files).filter(LATE).group_by("path").agg(pl.col("correct").mean())["correct"]
    error = late.std() / len(late) ** 0.5
    assert error > 0
    assert scores["late"]["stderr"].value == pytest.approx(error)


TABLES_OF_INSPECT = """
import json, sys
from inspect_ai.analysis import evals_df, messages_df, samples_df
tables = [made(sys.argv[1]) for made in (evals_df, samples_df, messages_df)]
print(json.dumps([[len(table) for table in tables], list(tables[1].columns)]))
"""
"""Runs in its own process, because Inspect does not close the event loops that it opens."""


def test_inspect_makes_data_frames(tmp_path: Path) -> None:
    """Inspect's data frames have a row per log, per session and per message.

    Inspect leaves out the system message, and told texts that no request showed.
    """
    for needed in ("inspect_ai", "pandas", "pyarrow"):
        pytest.importorskip(needed, reason=f"Inspect's data frames need {needed}")
    export([SAMPLE], "inspect", tmp_path / "logs")
    done = subprocess.run(
        [sys.executable, "-c", TABLES_OF_INSPECT, str(tmp_path / "logs")],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, columns = json.loads(done.stdout.splitlines()[-1])
    assert rows == [5, 10, 8 * 75 + 2 * 51]
    assert {"score_late", "score_accuracy", "metadata_arm"} <= set(columns)


def test_several_arms_need_several_logs(tmp_path: Path) -> None:
    """Several arms cannot be written to one log; nothing is written."""
    pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    with pytest.raises(InputError, match="there are 5: feedback, label, none, stateless, yoked"):
        export([SAMPLE], "inspect", tmp_path / "out.eval")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Inspect, the error says what to install, and nothing is written."""
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    monkeypatch.delitem(sys.modules, "icl_loop.export.inspect_log", raising=False)
    with pytest.raises(InputError, match=r"pip install 'icl-loop\[inspect\]'"):
        export([SAMPLE], "inspect", tmp_path / "logs")
    assert list(tmp_path.iterdir()) == []


def test_unfinished_and_torn_transcripts_are_mentioned(icl_loop: Command, tmp_path: Path) -> None:
    """Unfinished sessions and torn lines are mentioned; files are overwritten only with --force."""
    cut = tmp_path / "cut"
    cut.mkdir()
    whole = (SAMPLE / "label-0.jsonl").read_bytes()
    (cut / "label-0.jsonl").write_bytes(whole[: len(whole) // 2])
    arguments = ["export", SAMPLE, cut, "--to", "csv", "-o", tmp_path / "out.csv"]
    done = icl_loop(*arguments)
    assert done.returncode == 0
    assert "unfinished sessions: 1 of 11 sessions" in done.stderr
    assert "torn last line" in done.stderr
    assert done.stdout.splitlines()[-1] == f"written: {tmp_path / 'out.csv'}"
    again = icl_loop(*arguments)
    assert (again.returncode, again.stdout) == (2, "")
    assert "already exists" in again.stderr
    assert icl_loop(*arguments, "--force").returncode == 0


@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
def test_the_ending_names_the_format(icl_loop: Command, tmp_path: Path, name: str) -> None:
    """Without --to, an export has the format of the ending of its file."""
    assert icl_loop("export", SAMPLE / "label-0.jsonl", "-o", tmp_path / name).returncode == 0
    read_table = pl.read_parquet if name == "x.parquet" else pl.read_csv
    assert read_table(tmp_path / name).height == len(read(SAMPLE / "label-0.jsonl").turns)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--to", "parqet"], "did you mean 'parquet'?"),
        (["--to", "csv", "--merge"], "needs a format with messages: openai-jsonl"),
        (["--to", "csv", "-o", "nowhere/x.csv"], "there is no folder nowhere"),
        (["--to", "parquet", "-o", "x.csv"], "--to parquet does not fit -o x.csv"),
        (["--to", "inspect", "-o", "x.jsonl"], "choose --to openai-jsonl, or -o x.inspect"),
        (["-o", "x.txt"], "name the format with --to parquet or csv"),
        ([], "name the format with --to"),
        (["--to", "openai-jsonl", "-o", "FOLDER/x.jsonl"], "mistaken for a transcript"),
        (
            ["--to", "openai-jsonl", "-o", "FOLDER/label-0.jsonl", "--force"],
            "is one of the transcripts to export",
        ),
    ],
)
def test_wrong_input_is_refused(
    icl_loop: Command, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    """Wrong input gives one error and exit code 2; nothing is written."""
    for file in SAMPLE.glob("label-*.jsonl"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    given = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    before = sorted(tmp_path.iterdir())
    done = icl_loop("export", tmp_path, *given)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("to", ["parquet", "csv", "openai-jsonl", "inspect"])
def test_a_failed_export_leaves_nothing(tmp_path: Path, to: str) -> None:
    """If a transcript turns out to be damaged, nothing is left of the export."""
    if to == "inspect":
        pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    saved = tmp_path / "saved"
    saved.mkdir()
    for file in SAMPLE.glob("label-*.jsonl"):
        (saved / file.name).write_bytes(file.read_bytes())
    damaged = saved / "label-1.jsonl"
    damaged.write_bytes(damaged.read_bytes() + b'{"type":"turn"}\n')
    with pytest.raises(TranscriptError, match=r"label-1\.jsonl, line 2"):
        export([saved], to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("to", ["parquet", "csv", "openai-jsonl", "inspect"])
def test_no_key_is_in_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """No export of a run contains its API key."""
    if to == "inspect":
        pytest.importorskip("inspect_ai", reason="needs the extra [inspect]")
    monkeypatch.setenv("CANARY_KEY", CANARY)
    models = {"reference/nearest": open_model("reference/nearest", seed=7)}
    with serving(build_app(models, settings=ServerSettings(api_key=CANARY))) as base_url:
        model = {"name": "reference/nearest", "base_url": base_url, "api_key_env": "CANARY_KEY"}
        played = asyncio.run(Run(experiment(turns=3, model=model), tmp_path).play())
    assert played.complete
    place = tmp_path / "out"
    export(played.paths, to, place)
    places = [place, table_path(place, "sessions"), *place.glob("*")]
    written = [each.read_bytes() for each in places if each.is_file()]
    assert written
    assert not any(CANARY.encode() in data for data in written)
    if to in ("csv", "openai-jsonl"):
        assert any(b"reference/nearest" in data for data in written)


def test_images_are_exported_as_png(tmp_path: Path) -> None:
    """The Parquet export holds the PNG bytes of images."""
    made = experiment(turns=2, streams=1, task={"encoding": "png"})
    (path,) = asyncio.run(Run(made, tmp_path).play()).paths
    export([path], "parquet", tmp_path / "out.parquet")
    shown = [
        part.png
        for turn in read(path).turns
        for part in turn.question.parts
        if isinstance(part, Image)
    ]
    assert pl.read_parquet(tmp_path / "out.parquet")["picture"].to_list() == shown
    assert len(shown) == 2
