"""Parquet exports give the same analysis as the transcripts they were made from."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from builders import experiment
from command_line import Command
from icl_loop.analysis import frame, nearest_turns, notes, probes, sessions
from icl_loop.analysis.side_requests import side_requests
from icl_loop.analysis.spending import spending
from icl_loop.core.errors import TranscriptError
from icl_loop.export import export
from icl_loop.runner.run import Run
from icl_loop.transcripts import read
from icl_loop.transcripts.columns import TABLES, table_path
from icl_loop.transcripts.files import find
from icl_loop.transcripts.loading import saved_sessions

SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"


async def _played(folder: Path, **more: object) -> list[Path]:
    arms = [
        {"name": "notes", "context": {"policy": "notes(3, 40)"}},
        {"name": "label", "feedback": {"kind": "label"}},
    ]
    made = experiment(turns=7, streams=2, arms=arms, probes={"at": [4], "count": 3}, **more)
    return list((await Run(made, folder).play()).paths)


def _same(first: list[Path], second: list[Path]) -> None:
    """Assert that two sources give the same frames and the same spending."""
    order = ["path", "after_turn", "counted", "prompt", "completion"]
    assert_frame_equal(frame(first), frame(second))
    assert_frame_equal(sessions(first), sessions(second))
    assert_frame_equal(probes(first), probes(second))
    assert_frame_equal(notes(first), notes(second))
    assert_frame_equal(side_requests(first).sort(order), side_requests(second).sort(order))
    assert nearest_turns(first) == nearest_turns(second)
    assert spending(frame(first), paths=first) == spending(frame(second), paths=second)


async def test_an_export_is_read_as_its_transcripts(tmp_path: Path) -> None:
    """An export gives the same turns, settings, probes, notes, nearest images and spending."""
    paths = await _played(tmp_path / "saved")
    (tmp_path / "out").mkdir()
    export(paths, "parquet", tmp_path / "out" / "x.parquet")
    _same(paths, [tmp_path / "out" / "x.parquet"])
    _same(paths, [tmp_path / "out"])
    assert not probes(paths).is_empty()
    assert not notes(paths).is_empty()


@pytest.mark.parametrize("how", [["--json"], [], ["--json", "--primary", "label,none"]])
def test_analyze_reads_an_export(icl_loop: Command, tmp_path: Path, how: list[str]) -> None:
    """`analyze` prints the same for an export as for its transcripts."""
    export([SAMPLE], "parquet", tmp_path / "x.parquet")
    said = icl_loop("analyze", SAMPLE, *how)
    assert said.returncode == 0
    assert icl_loop("analyze", tmp_path / "x.parquet", *how).lasting == said.lasting


@pytest.mark.parametrize("figure", ["curves", "contrasts", "tokens", "outcomes"])
def test_plot_draws_an_export(icl_loop: Command, tmp_path: Path, figure: str) -> None:
    """`plot` draws the same chart from an export as from its transcripts."""
    export([SAMPLE], "parquet", tmp_path / "x.parquet")
    how = ("--figure", figure, *(["--no-baseline"] if figure == "curves" else []))
    for place, name in ((SAMPLE, "a.svg"), (tmp_path / "x.parquet", "b.svg")):
        assert icl_loop("plot", place, *how, "-o", tmp_path / name).returncode == 0
    first, second = ((tmp_path / name).read_text() for name in ("a.svg", "b.svg"))
    assert len(first) == len(second)


@pytest.mark.parametrize(
    "command",
    [["analyze", "--baseline", "reference/nearest"], ["what-if", "--policy", "last(5)"]],
    ids=lambda command: command[0],
)
def test_baselines_of_an_export(icl_loop: Command, tmp_path: Path, command: list[str]) -> None:
    """Reference learners give the same answers on an export as on its transcripts."""
    files = sorted(SAMPLE.glob("label-*.jsonl"))
    export(files, "parquet", tmp_path / "x.parquet")
    said = icl_loop(*command, "--json", *files)
    assert said.returncode == 0
    assert icl_loop(*command, "--json", tmp_path / "x.parquet").lasting == said.lasting


async def test_sessions_are_rebuilt(tmp_path: Path) -> None:
    """Every session of mixed exports and transcripts is rebuilt as it was saved."""
    paths = await _played(tmp_path / "saved")
    for name, files in {"a": paths[:2], "b": paths[3:]}.items():
        export(files, "parquet", tmp_path / f"{name}.parquet")
    mixed = saved_sessions([tmp_path / "a.parquet", paths[2], tmp_path / "b.parquet"])
    assert list(mixed) == [str(path) for path in paths]
    whole = [replace(read(path), sound_bytes=0) for path in paths]
    assert [replace(each.read(), sound_bytes=0) for each in mixed.values()] == whole
    assert any(each.notes for each in whole)
    assert all(each.probes for each in whole)


def test_a_transcript_that_was_removed_is_named(tmp_path: Path) -> None:
    """A transcript that is removed or overwritten after it was found is an error that names it."""
    path = tmp_path / "gone.jsonl"
    path.write_bytes(b"{}\n")
    (saved,) = saved_sessions([path]).values()
    with pytest.raises(TranscriptError, match=r"gone\.jsonl, line 1, experiment: is missing"):
        saved.header()
    path.unlink()
    for look in (saved.header, saved.read):
        with pytest.raises(TranscriptError, match=r"gone\.jsonl"):
            look()


def test_transcripts_are_preferred_to_exports(tmp_path: Path) -> None:
    """In a folder with transcripts and an export of some of them, the transcripts are read."""
    for file in SAMPLE.glob("label-*.jsonl"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    export([tmp_path / "label-0.jsonl"], "parquet", tmp_path / "x.parquet")
    assert frame([tmp_path])["path"].n_unique() == 2


def test_exports_and_transcripts_can_be_mixed(tmp_path: Path) -> None:
    """Exports and transcripts named together read like all the transcripts."""
    files = sorted(SAMPLE.glob("*-[01].jsonl"))
    export(files[:3], "parquet", tmp_path / "a.parquet")
    export(files[4:], "parquet", tmp_path / "b.parquet")
    _same(files, [tmp_path / "a.parquet", files[3], tmp_path / "b.parquet"])


def test_a_session_counts_once(tmp_path: Path) -> None:
    """Naming a session twice, for example in an export and by itself, is an error."""
    export([SAMPLE], "parquet", tmp_path / "x.parquet")
    export([SAMPLE / "label-0.jsonl"], "parquet", tmp_path / "y.parquet")
    for other in (SAMPLE, tmp_path / "y.parquet"):
        for load in (frame, sessions):
            with pytest.raises(TranscriptError, match=r"-0\.jsonl was named twice"):
                load([tmp_path / "x.parquet", other])


def test_runs_stay_separate(tmp_path: Path) -> None:
    """Exports of two runs of an experiment are distinguished by the folders of their transcripts."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        for file in SAMPLE.glob("label-*.jsonl"):
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
        export([tmp_path / folder], "parquet", tmp_path / f"{folder}.parquet")
    exports = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    _same([tmp_path / "first", tmp_path / "second"], exports)
    assert frame(exports)["experiment"].n_unique() == 2


@pytest.mark.parametrize(
    ("table", "damage", "complaint"),
    [
        ("turns", pl.col("turn").cast(pl.String), "its column 'turn' holds String, not Int64"),
        ("turns", pl.col("turn") + 1, "contradicts itself"),
        ("turns", ~pl.col("correct"), "contradicts itself"),
        ("turns", pl.col("exposure") + 100, "contradicts itself"),
        ("turns", pl.col("correct").replace(True, None), "'correct' is missing in a row"),
        ("turns", pl.lit("x").alias("path"), "does not hold the turns of the sessions"),
        ("sessions", pl.lit("x").alias("path"), "holds a session twice"),
        ("sessions", pl.col("played") - 1, "does not hold the turns of the sessions"),
    ],
    ids=["kind", "order", "judgement", "exposure", "missing", "paths", "twice", "counts"],
)
def test_inconsistent_tables_are_errors(
    tmp_path: Path, table: str, damage: pl.Expr, complaint: str
) -> None:
    """Tables that contradict each other or themselves are an error that names the file."""
    place = tmp_path / "x.parquet"
    export([SAMPLE], "parquet", place)
    file = table_path(place, table)
    pl.read_parquet(file).with_columns(damage).write_parquet(file)
    with pytest.raises(TranscriptError, match=complaint) as refused:
        frame([place])
    assert str(tmp_path / "x.") in str(refused.value)


@pytest.mark.parametrize(
    ("table", "damage", "complaint"),
    [
        ("turns", pl.col("turn") + 1, "0 turns precede this turn, but its turn is 1"),
        ("turns", pl.lit([[0, 99]]).alias("kept"), r"\[0, 99\] is not a run of the 0 turns before"),
        ("turns", pl.lit([[0]]).alias("kept"), r"kept\[0\]\[1\] is missing"),
        ("turns", pl.lit("{").alias("label_logprobs"), "Expecting property name"),
        ("turns", pl.lit("odd").alias("outcome"), "outcome must be 'ok'"),
        ("turns", pl.lit("x").alias("path"), "its turns are not those that"),
        ("sessions", pl.lit("{}").alias("header"), "the header of .*: experiment is missing"),
        (
            "sessions",
            pl.lit("over").alias("status"),
            "label-0.jsonl, status must be 'complete'",
        ),
        ("sessions", pl.col("played") + 1, "its turns are not those that"),
        ("sessions", pl.col("notes") + 1, "its notes are not those that"),
    ],
    ids=["order", "kept", "runs", "json", "outcome", "path", "header", "end", "count", "notes"],
)
def test_sessions_that_cannot_be_rebuilt_are_errors(
    tmp_path: Path, table: str, damage: pl.Expr, complaint: str
) -> None:
    """A session that the tables do not hold completely is an error that names the file."""
    place = tmp_path / "x.parquet"
    export([SAMPLE / "label-0.jsonl"], "parquet", place)
    file = table_path(place, table)
    pl.read_parquet(file).with_columns(damage).write_parquet(file)
    with pytest.raises(TranscriptError, match=complaint) as refused:
        [each.read() for each in saved_sessions([place]).values()]
    assert str(tmp_path / "x.") in str(refused.value)


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_table_is_named(tmp_path: Path, table: str) -> None:
    """A missing or truncated table is an error that names its file."""
    place = tmp_path / "x.parquet"
    export([SAMPLE], "parquet", place)
    file = table_path(place, table)
    whole = file.read_bytes()
    for cut in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1], b"{}\n"):
        file.write_bytes(cut)
        with pytest.raises(TranscriptError, match=file.name):
            _read_all(place)
    file.unlink()
    with pytest.raises(TranscriptError, match=file.name):
        _read_all(place)


def _read_all(place: Path) -> None:
    for load in (frame, sessions, probes, side_requests):
        load([place])


@pytest.mark.parametrize("name", ["sessions", "probes", "notes"])
def test_an_export_is_named_by_its_turns(tmp_path: Path, name: str) -> None:
    """Naming another table of an export is an error that says which file to name."""
    place = tmp_path / "x.parquet"
    export([SAMPLE], "parquet", place)
    with pytest.raises(TranscriptError, match=r"name .*x\.parquet instead"):
        frame([table_path(place, name)])


@pytest.mark.parametrize("columns", [[], ["turn"], ["path", "turn"]])
def test_other_parquet_files_are_errors(tmp_path: Path, columns: list[str]) -> None:
    """A Parquet file that is not an export is an error that names it."""
    for name in ("x.parquet", "x.sessions.parquet"):
        pl.DataFrame({name: [1] for name in [*columns, "other"]}).write_parquet(tmp_path / name)
    with pytest.raises(TranscriptError, match=r"x\.sessions\.parquet is not the table of sessions"):
        frame([tmp_path / "x.parquet"])


@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@settings(max_examples=30)
def test_one_wrong_byte_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, place: float, byte: int
) -> None:
    """An export with any wrong byte is read, or is an error that names it."""
    folder = tmp_path_factory.mktemp("any")
    export([SAMPLE / "label-0.jsonl"], "parquet", folder / "x.parquet")
    for file in (folder / "x.parquet", folder / "x.sessions.parquet"):
        data = bytearray(file.read_bytes())
        data[int(place * len(data))] = byte
        file.write_bytes(data)
    try:
        frame([folder])
        [each.read() for each in saved_sessions([folder]).values()]
    except TranscriptError as error:
        assert "x." in str(error)  # noqa: PT017  that it is read is as good


@pytest.mark.parametrize(
    "command",
    [
        ["replay", "X"],
        ["replay", "X", "--verify"],
        ["branch", "X", "--at", "3", "--out", "OUT"],
        ["rescore", "X", "--set", "answers.rule=last", "--out", "OUT"],
        ["export", "X", "--to", "csv", "-o", "OUT/out.csv"],
    ],
    ids=["replay", "verify", "branch", "rescore", "export"],
)
def test_commands_that_need_transcripts_say_so(
    icl_loop: Command, tmp_path: Path, command: list[str]
) -> None:
    """Commands that resume, verify or rewrite transcripts reject exports with a helpful error."""
    place = tmp_path / "x.parquet"
    export([SAMPLE], "parquet", place)
    given = [part.replace("OUT", str(tmp_path)) for part in command]
    done = icl_loop(*[place if part == "X" else part for part in given])
    assert done.returncode == 2
    assert "name the transcripts that it was made from" in " ".join(done.stderr.split())
    with pytest.raises(TranscriptError, match="is an export"):
        find([tmp_path])
