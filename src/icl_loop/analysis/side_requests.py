"""Probes and notes of saved sessions: requests made beside the turns."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis.curves import Estimate
from icl_loop.analysis.session_settings import sessions, table_in
from icl_loop.transcripts.columns import TABLES, USAGE, is_exported, read_table
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import parse, read_header
from icl_loop.transcripts.schema import LINE

_TOKENS = ("after_turn", "counted", "prefix", *USAGE)


def side_requests(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the probes and notes of the transcripts or exports at `paths`, one row each.

    Columns: `path`, `after_turn`, `counted`, `prefix`, `prompt`, `cached`, `completion`, `reasoning`.

    Raises:
        TranscriptError: A line is not of the format; names file and line.
    """
    files = sources(paths)
    return pl.concat(_rows(files, table, _TOKENS) for table in ("probes", "notes"))


def probes(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the probes of the transcripts or exports at `paths`, one row each.

    Columns: `path`, `experiment` (named as in `frame`), `arm`, `stream`, `after_turn`, `sample`,
    `label`, `answer`, `correct`.

    Raises:
        TranscriptError: A line is not of the format; names file and line.
    """
    return _with_sessions(paths, "probes", ("after_turn", "sample", "label", "answer", "correct"))


def notes(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the notes of the transcripts or exports at `paths`, one row each.

    Columns: `path`, `experiment` (named as in `frame`), `arm`, `stream`, `after_turn`, `length` (in
    characters).

    Raises:
        TranscriptError: A line is not of the format; names file and line.
    """
    length = pl.col("text").str.len_chars().cast(pl.Int64)
    found = _with_sessions(paths, "notes", ("after_turn", "text"))
    return found.with_columns(length=length).drop("text")


def _with_sessions(paths: Iterable[Path], table: str, names: tuple[str, ...]) -> pl.DataFrame:
    files, session = sources(paths), ("path", "experiment", "arm", "stream")
    known = sessions(files).select(session)
    rows = _rows(files, table, names).join(known, on="path", how="left", maintain_order="left")
    return rows.select(*session, *names)


def _rows(files: Iterable[Path], table: str, names: tuple[str, ...]) -> pl.DataFrame:
    """Return `path` and other fields of the probes or notes in some transcripts and exports."""
    schema = {name: TABLES[table][name] for name in ("path", *names)}
    return pl.concat(
        read_table(file, table, schema)
        if is_exported(file)
        else pl.DataFrame(list(_saved_rows(file, table, names)), schema=schema, orient="row")
        for file in files
    )


def _saved_rows(path: Path, table: str, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield rows of a transcript, which is read only if its settings ask for probes or notes."""
    if not _asks_for(table, read_header(path)):
        return
    start = f'{{"type":"{table.removesuffix("s")}"'.encode()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.startswith(start) and line.endswith(b"\n"):
                fields = dict(parse(path, number, line, LINE))
                values = fields | asdict(fields["usage"])
                yield str(path), *(values[name] for name in names)


def _asks_for(table: str, header: Header) -> bool:
    """Return whether a session, or one whose turns it shares, has probes or notes."""
    asks = {
        "probes": bool(table_in(header.settings, "probes").get("at")),
        "notes": "notes" in str(table_in(header.settings, "context").get("policy")),
    }
    return asks[table] or bool(header.parent and _asks_for(table, header.parent))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The accuracy of an arm on its probes after some turns: the mean over sessions.

    `right` of the probes `asked` in all sessions were answered correctly.
    """

    experiment: str
    arm: str
    after_turn: int
    accuracy: Estimate
    asked: int
    right: int


def checkpoints(probed: pl.DataFrame) -> list[Checkpoint]:
    """Return the accuracy at each checkpoint of each arm, from the frame that `probes` returns.

    Sessions have equal weight, however many probes they have.
    """
    arm = ("experiment", "arm", "after_turn")
    per_session = probed.group_by(*arm, "path", maintain_order=True).agg(
        share=pl.col("correct").mean(), asked=pl.len(), right=pl.col("correct").sum()
    )
    found = []
    for place, part in per_session.group_by(arm, maintain_order=True):
        accuracy = Estimate.of(part["share"].to_numpy())
        counts = part.select(pl.col("asked", "right").sum()).row(0, named=True)
        found.append(Checkpoint(**dict(zip(arm, place, strict=True)), accuracy=accuracy, **counts))
    return found


def checkpoint_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as `analyze --json` prints it."""
    accuracy = checkpoint.accuracy
    return {
        "after_turn": checkpoint.after_turn,
        "accuracy": accuracy.mean,
        "accuracy_ci": accuracy.interval and list(accuracy.interval),
        "sessions": accuracy.sessions,
    }


@dataclass(frozen=True, slots=True)
class NoteUsage:
    """The notes of one arm: in how many sessions, how many per session, and their characters.

    `length` is the mean length of a note as later requests show it.
    """

    experiment: str
    arm: str
    sessions: int
    fewest: int
    most: int
    length: float
    longest: int


def note_usage(written: pl.DataFrame) -> list[NoteUsage]:
    """Return the notes of each arm that wrote any, from the frame that `notes` returns."""
    per_session = written.group_by("experiment", "arm", "path", maintain_order=True).agg(
        pl.len().alias("count"), pl.col("length").sum(), pl.col("length").max().alias("longest")
    )
    per_arm = per_session.group_by("experiment", "arm", maintain_order=True).agg(
        sessions=pl.len(),
        fewest=pl.col("count").min(),
        most=pl.col("count").max(),
        length=pl.col("length").sum() / pl.col("count").sum(),
        longest=pl.col("longest").max(),
    )
    return [NoteUsage(**row) for row in per_arm.iter_rows(named=True)]
