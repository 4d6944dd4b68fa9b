"""The laws of exports: they hold what the transcripts hold, whole or not at all."""

import base64
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from icl_loop.analysis import frame, probes, sessions, summarize
from icl_loop.cli import main
from icl_loop.errors import InputError, TranscriptError
from icl_loop.experiment import Session
from icl_loop.export import Exported, beside, export, parquet
from icl_loop.export.openai_jsonl import conversation
from icl_loop.export.saved import Saved
from icl_loop.loop import recall
from icl_loop.context import shown_in
from icl_loop.messages import Image, Message, Reply, Served, Text, Usage, merged, system, user
from icl_loop.models import open_model
from icl_loop.records import Feedback, Probe, Span, Turn
from icl_loop.runner import Run
from icl_loop.server import ServerSettings, build_app, serving
from icl_loop.transcripts import (
    DatasetIdentity,
    End,
    Header,
    Transcript,
    probe_fields,
    read,
    turn_fields,
)
from making import experiment, session

SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"
CANARY = "sk-canary-5f3759df"
LABELS = ("3", "cat", "き")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
TIME = "2026-01-02T03:04:05.678+00:00"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.integers(0, 2**40)
usages = st.builds(
    lambda prompt, cached, completion, reasoning: Usage(
        prompt + cached, cached, completion, reasoning
    ),
    *[counts] * 4,
)
replies = st.builds(
    Reply,
    text=texts,
    usage=usages,
    finish=st.sampled_from(["stop", "length", "content_filter"]),
    served=st.none() | st.builds(Served, st.none() | texts, st.none() | texts),
    label_logprobs=st.none() | st.dictionaries(texts, st.floats(-100, 0)),
    attempts=st.integers(1, 9),
    latency_s=st.floats(0, 1e4),
    at=st.just(TIME),
)
answers = st.none() | st.sampled_from(LABELS)
questions = st.builds(user, texts) | st.builds(
    lambda text: Message("user", (*([Text(text)] if text else []), Image(PNG))), texts
)


@st.composite
def turns_of(draw: st.DrawFn) -> tuple[Turn, ...]:
    """Draw the turns of a session, which show any turns before them."""
    return tuple(draw(_turn(index)) for index in range(draw(st.integers(0, 4))))


def _turn(index: int) -> st.SearchStrategy[Turn]:
    def made(label: str, answer: str | None, told: str, kept: Sequence[Span], **more: Any) -> Turn:  # noqa: ANN401  fields of a turn
        feedback = Feedback(answer == label, told)
        outcome = "unreadable" if answer is None else "ok"
        return Turn(
            index, label=label, answer=answer, outcome=outcome, feedback=feedback,
            kept=tuple(kept), **more,
        )  # fmt: skip

    spans = [] if not index else [[(0, index - 1)], [(index - 1, index - 1)], [(0, 0)]]
    return st.builds(
        made,
        label=st.sampled_from(LABELS),
        answer=answers,
        told=texts,
        kept=st.sampled_from([[], *spans]),
        sample=texts,
        question=questions,
        request=texts,
        reply=replies,
        overflows=st.integers(0, 3),
        calibration=st.floats(0.5, 2),
        echo=st.none() | texts,
    )


@st.composite
def transcripts(draw: st.DrawFn, stream: int = 0) -> Transcript:
    """Draw a session: any texts, perhaps with probes, perhaps without an end."""
    turns = draw(turns_of())
    after = [
        Probe(
            len(turns), "p", label, (), "", draw(replies), answer, "ok", correct=answer == label
        )
        for label, answer in draw(
            st.lists(st.tuples(st.sampled_from(LABELS), answers), max_size=2)
        )
    ]
    header = Header(
        experiment=draw(texts),
        arm=draw(st.sampled_from(["label", "none"])),
        stream=stream,
        seed=draw(st.integers(0, 9)),
        turns=draw(st.integers(1, 5)),
        settings={
            "model": {"name": draw(texts), "merge_roles": draw(st.booleans())},
            "probes": {"at": [len(turns)]},
        },
        labels=list(LABELS),
        system=draw(texts),
        dataset=DatasetIdentity(name=draw(texts), sha256="", size=3),
    ).born()
    status = draw(st.none() | st.sampled_from(["complete", "context_full", "budget", "stopped"]))
    end = None if status is None else End(status=status, turns=len(turns), at=TIME)
    return Transcript(Path(), header, turns, end, 0, tuple(after))


@st.composite
def several(draw: st.DrawFn) -> list[Transcript]:
    """Draw a few sessions of one experiment."""
    drawn = [draw(transcripts(stream)) for stream in range(draw(st.integers(1, 3)))]
    shared = {"experiment": drawn[0].header.experiment}
    return [replace(each, header=each.header.model_copy(update=shared)) for each in drawn]


def save(drawn: Sequence[Transcript], folder: Path, torn: str = "") -> Path:
    """Write sessions to a folder as the recorder writes them; the first may end torn."""
    folder.mkdir()
    for number, each in enumerate(drawn):
        lines: list[Mapping[str, Any]] = [each.header.model_dump(mode="json")]
        lines += [turn_fields(turn) for turn in each.turns]
        lines += [probe_fields(probe) for probe in each.probes]
        lines += [each.end.model_dump(mode="json")] if each.end else []
        data = "".join(_line(line) for line in lines)
        (folder / f"{number}.jsonl").write_bytes((data + (torn if not number else "")).encode())
    return folder


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"


def loaded(path: Path) -> dict[str, pl.DataFrame]:
    """Return the tables of an export to Parquet."""
    places = {"turns": path, "sessions": beside(path, "sessions"), "probes": beside(path, "probes")}
    return {table: pl.read_parquet(place) for table, place in places.items()}


def rebuilt(row: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of turns or probes as the line it came from, which has these fields."""
    made = dict(row) | {
        "usage": {key: row[key] for key in ("prompt", "cached", "completion", "reasoning")},
        "served": fields["served"]
        and {"model": row["served_model"], "system_fingerprint": row["system_fingerprint"]},
        "label_logprobs": row["label_logprobs"] and json.loads(row["label_logprobs"]),
        "kept": tuple(map(tuple, row["kept"])),
        "type": fields["type"],
    }
    if row.get("picture") is not None:
        made["picture"] = base64.b64encode(row["picture"]).decode()
    return {key: made[key] for key in fields}


@given(drawn=several(), torn=st.sampled_from(["", '{"type":"turn","tu']))
@settings(max_examples=20)
def test_parquet_holds_what_the_transcripts_hold(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Transcript], torn: str
) -> None:
    """The tables give the frame, the probes, the sessions, and every line that was whole."""
    folder = tmp_path_factory.mktemp("any")
    saved = save(drawn, folder / "saved", torn)
    done = export([saved], "parquet", folder / "out.parquet")
    tables = loaded(done.places[-1])
    turns = tables["turns"]
    if turns.height:
        expected = frame([saved])
        assert_frame_equal(turns.select(expected.columns), expected)
    assert_frame_equal(tables["probes"].select(probes([saved]).columns), probes([saved]))
    assert_frame_equal(
        tables["sessions"].select(sessions([saved]).columns), sessions([saved])
    )
    for path, header in tables["sessions"].select("path", "header").iter_rows():
        whole = read(Path(path))
        assert Header.model_validate_json(header) == whole.header
        mine = turns.filter(path=path).to_dicts()
        lines = [turn_fields(turn) for turn in whole.turns]
        assert [rebuilt(row, line) for row, line in zip(mine, lines, strict=True)] == lines
        mine = tables["probes"].filter(path=path).to_dicts()
        lines = [probe_fields(probe) for probe in whole.probes]
        assert [rebuilt(row, line) for row, line in zip(mine, lines, strict=True)] == lines
        row = tables["sessions"].row(by_predicate=pl.col("path") == path, named=True)
        assert row["status"] == (whole.end.status if whole.end else None)
        assert (row["played"], row["probes"]) == (len(whole.turns), len(whole.probes))


def test_groups_change_nothing(tmp_path: Path) -> None:
    """Read one by one, the sessions make the tables that they make read together."""
    export([SAMPLE], "parquet", tmp_path / "together.parquet")
    places = {table: tmp_path / f"{table}.parquet" for table in ("turns", "sessions", "probes")}
    files = Saved.at([SAMPLE]).files
    parquet.write(Saved(files, at_once=1), places)
    for table, expected in loaded(tmp_path / "together.parquet").items():
        assert_frame_equal(pl.read_parquet(places[table]), expected)


@given(drawn=several())
@settings(max_examples=25)
def test_csv_holds_what_parquet_holds(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Transcript]
) -> None:
    """A CSV file has the rows and columns of the Parquet file; nested ones are texts."""
    folder = tmp_path_factory.mktemp("any")
    saved = save(drawn, folder / "saved")
    export([saved], "csv", folder / "out.csv")
    export([saved], "parquet", folder / "out.parquet")
    for table in ("turns", "sessions", "probes"):
        expected = loaded(folder / "out.parquet")[table]
        place = folder / ("out.csv" if table == "turns" else f"out.{table}.csv")
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
def test_a_line_is_the_conversation(
    tmp_path_factory: pytest.TempPathFactory, drawn: Transcript, merge: bool
) -> None:
    """The messages of a line are those of the session, in order, merged only as the wire did."""
    folder = tmp_path_factory.mktemp("any")
    saved = save([drawn], folder / "saved")
    export([saved], "openai-jsonl", folder / "out.jsonl", merge=merge)
    (line,) = (folder / "out.jsonl").read_bytes().split(b"\n")[:-1]
    said = conversation(drawn)
    if merge and drawn.header.settings["model"]["merge_roles"]:
        said = merged(said)
    written = json.loads(line)
    assert written["messages"] == [
        {"role": message.role, "content": _content(message)} for message in said
    ]
    assert len(written["metadata"]) <= 16
    assert all(isinstance(value, str) for value in written["metadata"].values())
    assert written["metadata"]["id"] == drawn.header.id


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.is_seen:
        return message.text
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, Text)
        else {"type": "image_url", "image_url": {"url": url}}
        for part in message.parts
    ]


@dataclass(frozen=True)
class Done:
    """How a command went."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def icl_loop(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, called as its console script calls it."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["icl-loop", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        return Done(int(exited.value.code or 0), captured.out, captured.err)

    return run
