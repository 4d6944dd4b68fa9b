"""Probes, notes and choices of saved sessions: requests made beside the turns."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis.contrasts import MARGIN, Contrast
from icl_loop.analysis.curves import Estimate
from icl_loop.analysis.session_settings import sessions, table_in
from icl_loop.transcripts.columns import TABLES, USAGE, is_exported, read_table
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import lines_of, parse, read_header
from icl_loop.transcripts.schema import LINE

_TOKENS = ("after_turn", "counted", "prefix", *USAGE)


def side_requests(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the probes, notes and choices of the transcripts or exports at `paths`, one row each.

    Columns: `path`, `after_turn`, `counted`, `prefix`, `prompt`, `cached`, `completion`, `reasoning`.

    Raises:
        TranscriptError: A line is not of the format; names file and line.
    """
    files = sources(paths)
    return pl.concat(_rows(files, table, _TOKENS) for table in ("probes", "notes", "choices"))


def probes(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the probes of the transcripts or exports at `paths`, one row each.

    Columns: `path`, `experiment` (named as in `frame`), `arm`, `stream`, `after_turn`, `sample`,
    `verdicts` (shown on past answers), `kept` (turns shown, as runs), `label`, `answer`, `correct`.

    Raises:
        TranscriptError: A line is not of the format; names file and line.
    """
    names = ("after_turn", "sample", "verdicts", "kept", "label", "answer", "correct")
    return _with_sessions(paths, "probes", names)


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
    """Return `path` and other fields of the requests of a table in some transcripts and exports."""
    schema = {name: TABLES[table][name] for name in ("path", *names)}
    return pl.concat(
        read_table(file, table, schema)
        if is_exported(file)
        else pl.DataFrame(list(_saved_rows(file, table, names)), schema=schema, orient="row")
        for file in files
    )


def _saved_rows(path: Path, table: str, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield rows of a transcript, which is read only if its settings ask for such requests."""
    if not _asks_for(table, read_header(path)):
        return
    start = f'{{"type":"{table.removesuffix("s")}"'.encode()
    for number, line in enumerate(lines_of(path), start=1):
        if line.startswith(start) and line.endswith(b"\n"):
            fields = dict(parse(path, number, line, LINE))
            values = fields | asdict(fields["usage"])
            yield str(path), *(values[name] for name in names)


def _asks_for(table: str, header: Header) -> bool:
    """Return whether a session, or one whose turns it shares, has probes, notes or choices."""
    asks = {
        "probes": bool(table_in(header.settings, "probes").get("at")),
        "notes": "notes" in str(table_in(header.settings, "context").get("policy")),
        "choices": table_in(table_in(header.settings, "task"), "choice").get("by") == "model",
    }
    return asks[table] or bool(header.parent and _asks_for(table, header.parent))


def choice_sentences(turns: pl.DataFrame, paths: Iterable[Path]) -> list[str]:
    """Return, for each arm with chosen samples, who chose them and how many choices were parsed.

    Args:
        turns: The result of `frame`.
        paths: The paths given to `frame`.
    """
    left_out = turns.filter(pl.col("correct").is_null())
    if left_out.is_empty():
        return []
    arm = ("experiment", "arm")
    asked = _with_sessions(paths, "choices", ("number",)).group_by(arm)
    known = asked.agg(asked=pl.len(), parsed=pl.col("number").count())
    counts = left_out.group_by(arm, maintain_order=True).len()
    said = []
    for _, name, count, requests, parsed in counts.join(known, on=arm, how="left").iter_rows():
        who = "they were drawn at random"
        if requests:
            who = f"the model was asked {requests} times, and {parsed} of its choices could be read"
            who += " (chance made the others)" if parsed < requests else ""
        said.append(f"arm {name!r}: {count} turns with chosen samples are not counted; {who}")
    return said


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The accuracy of an arm on its probes after some turns: the mean over sessions.

    `right` of the probes `asked` in all sessions were answered correctly. `verdicts` are those that
    the probes showed on past answers.
    """

    experiment: str
    arm: str
    after_turn: int
    accuracy: Estimate
    asked: int
    right: int
    verdicts: str = "told"

    @property
    def line(self) -> str:
        """The arm, and the verdicts unless they are as told."""
        return self.arm if self.verdicts == "told" else f"{self.arm}, {self.verdicts}"


def checkpoints(probed: pl.DataFrame) -> list[Checkpoint]:
    """Return the accuracy of each arm by checkpoint and verdicts, from the result of `probes`.

    Sessions have equal weight, however many probes they have.
    """
    arm = ("experiment", "arm", "after_turn", "verdicts")
    per_session = probed.group_by(*arm, "path", maintain_order=True).agg(
        share=pl.col("correct").mean(), asked=pl.len(), right=pl.col("correct").sum()
    )
    found = []
    for place, part in per_session.group_by(arm, maintain_order=True):
        counts = part.select(pl.col("asked", "right").sum()).row(0, named=True)
        accuracy = Estimate.of_shares(part["share"].to_numpy(), counts["asked"])
        found.append(Checkpoint(**dict(zip(arm, place, strict=True)), accuracy=accuracy, **counts))
    return found


def checkpoint_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as `analyze --json` prints it."""
    accuracy = checkpoint.accuracy
    return {
        "after_turn": checkpoint.after_turn,
        "verdicts": checkpoint.verdicts,
        "accuracy": accuracy.mean,
        "accuracy_ci": accuracy.interval and list(accuracy.interval),
        "sessions": accuracy.sessions,
    }


@dataclass(frozen=True, slots=True)
class VerdictEffect:
    """The effect of the verdicts on an arm's probes: accuracy as told minus with other `verdicts`."""

    experiment: str
    arm: str
    after_turn: int
    verdicts: str
    pairs: int
    contrast: Contrast


def verdict_effects(probed: pl.DataFrame, margin: float = MARGIN) -> list[VerdictEffect]:
    """Return the effect of the verdicts by arm, checkpoint and verdicts, from the result of `probes`.

    Each probe with other verdicts is paired with the one as told about the same sample in the same
    session, if both showed the same turns. Differences are averaged over the pairs of a session, then
    over the sessions of a stream; the contrast is over streams and has this equivalence margin.
    """
    place = ("experiment", "arm", "after_turn", "verdicts")
    told = probed.filter(verdicts="told").rename({"correct": "told", "kept": "kept_told"})
    pairs = (
        probed.filter(pl.col("verdicts") != "told")
        .join(
            told.select("path", "after_turn", "sample", "told", "kept_told"),
            on=("path", "after_turn", "sample"),
            maintain_order="left",
        )
        .filter(pl.col("kept") == pl.col("kept_told"))
    )
    per_session = pairs.group_by(*place, "stream", "path", maintain_order=True).agg(
        pl.col("told", "correct").mean(), pairs=pl.len()
    )
    per_stream = per_session.group_by(*place, "stream", maintain_order=True).agg(
        pl.col("told", "correct").mean(), pl.col("pairs").sum()
    )
    found = []
    for key, part in per_stream.group_by(place, maintain_order=True):
        at = dict(zip(place, key, strict=True))
        first, second = (
            dict(part.select("stream", each).iter_rows()) for each in ("told", "correct")
        )
        arms = (at["arm"], f"{at['arm']} with verdicts {at['verdicts']}")
        contrast = Contrast.of(arms, first, second, margin)
        found.append(VerdictEffect(**at, pairs=int(part["pairs"].sum()), contrast=contrast))
    return found


def counterfactual_contrast(
    probed: pl.DataFrame, arm: str, margin: float = MARGIN
) -> Contrast | None:
    """Return the content control of an arm by its probes, or None if it has none.

    It is the accuracy as told minus with the verdicts flipped, at the last checkpoint.

    Args:
        probed: The result of `probes` for one experiment.
        arm: The arm.
        margin: Equivalence margin.
    """
    effects = verdict_effects(probed.filter(arm=arm), margin)
    flipped = [each for each in effects if each.verdicts == "flipped"]
    return max(flipped, key=lambda each: each.after_turn).contrast if flipped else None


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
