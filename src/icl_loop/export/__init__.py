"""Saved transcripts in the formats of other programs; see `docs/export.md`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from polars.exceptions import PolarsError

from icl_loop.core.errors import InputError, StoppedShort, nearest
from icl_loop.export import chat_jsonl, csv_writer, inspect_log, parquet_writer
from icl_loop.export.selection import Saved, Went
from icl_loop.transcripts.exported_tables import TABLES, beside


@dataclass(frozen=True, slots=True)
class Format:
    """A format to export to.

    Attributes:
        ending: What its file or folder is called by default, after the name of the transcripts.
        write: Writes the transcripts to a place.
        beside: Tables that get a file of their own beside the place.
        merges: Whether it can merge messages as the wire did.
    """

    ending: str
    write: Callable[[Saved, Path, bool], None]
    beside: tuple[str, ...] = ()
    merges: bool = False

    def places(self, place: Path) -> list[Path]:
        """Return all that is written where the format is written to `place`; `place` is last."""
        return [*(beside(place, table) for table in self.beside), place]


def _tables(place: Path) -> dict[str, Path]:
    return {table: place if table == "turns" else beside(place, table) for table in TABLES}


_BESIDE = tuple(table for table in TABLES if table != "turns")
FORMATS: Mapping[str, Format] = {
    "parquet": Format(
        ".parquet", lambda saved, place, _: parquet_writer.write(saved, _tables(place)), _BESIDE
    ),
    "csv": Format(".csv", lambda saved, place, _: csv_writer.write(saved, _tables(place)), _BESIDE),
    "openai-jsonl": Format(
        ".openai.jsonl",
        lambda saved, place, merge: chat_jsonl.write(saved, place, merge=merge),
        merges=True,
    ),
    "inspect": Format(".inspect", lambda saved, place, _: inspect_log.write(saved, place)),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        places: The files, or the folder; the last is the one that was asked for.
        sessions: How many sessions.
        unfinished: Transcripts of sessions that have not ended; they are there as far as they went.
        torn: Transcripts whose last line is torn and was left out.
    """

    places: tuple[Path, ...]
    sessions: int
    unfinished: tuple[Path, ...]
    torn: tuple[Path, ...]

    def notes(self) -> Iterator[str]:
        """Yield what should be said of it, a line each."""
        if self.unfinished:
            count = f"{len(self.unfinished)} of {self.sessions} sessions"
            yield f"not ended, and there as far as they went: {count}: {_some(self.unfinished)}"
        if self.torn:
            yield f"the last line is torn and was left out: {_some(self.torn)}"


def _some(paths: Sequence[Path]) -> str:
    """Return the first few of these paths."""
    return ", ".join(map(str, paths[:3])) + (", …" if len(paths) > 3 else "")


def format_named(name: str) -> Format:
    """Return the format of this name.

    Raises:
        InputError: There is none; names the nearest.
    """
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}: {nearest(name, FORMATS)}")
    return FORMATS[name]


def export(
    paths: Iterable[Path],
    to: str,
    place: Path | None = None,
    *,
    force: bool = False,
    merge: bool = False,
    went: Went | None = None,
) -> Exported:
    """Write the transcripts at `paths` in another format.

    Everything is written beside its place first and then moved there whole.

    Args:
        paths: Transcripts, or folders that hold them.
        to: Name of the format, one of `FORMATS`.
        place: The file, or for Inspect the folder; called after the first path if None.
        force: Write over what is there.
        merge: Merge messages as the wire did; only where conversations are written.
        went: Is told how many more sessions are written.

    Raises:
        InputError: Something given is wrong, or there is something at `place`; nothing was written.
        StoppedShort: It cannot be written.
    """
    form, named = format_named(to), list(paths)
    if merge and not form.merges:
        able = ", ".join(name for name, each in FORMATS.items() if each.merges)
        raise InputError(f"{to} has no messages to merge; that is for {able}")
    saved = Saved.at(named, went or (lambda _: None))
    place = place or Path(named[0].resolve().name.removesuffix(".jsonl") + form.ending)
    places = form.places(place)
    _refuse(saved, places, force=force)
    if place.suffix == ".jsonl" and _is_below(place, named):
        raise InputError(f"{place} would be taken for a transcript; name a place elsewhere")
    try:
        _write_whole(form, saved, place, merge=merge)
    except (OSError, PolarsError) as error:
        why = getattr(error, "strerror", None) or error
        raise StoppedShort(f"{place} cannot be written: {why}") from None
    seen = list(zip(saved.files, saved.glimpses, strict=True))
    return Exported(
        places=tuple(places),
        sessions=len(seen),
        unfinished=tuple(file for file, glimpse in seen if not glimpse.ended),
        torn=tuple(file for file, glimpse in seen if glimpse.torn),
    )


def _refuse(saved: Saved, places: Iterable[Path], *, force: bool) -> None:
    """Raise InputError where something stands in the way."""
    sources = {file.resolve() for file in saved.files}
    for place in places:
        if place.resolve() in sources:
            raise InputError(f"{place} is among what is exported; name another place")
        if place.exists() and not force:
            raise InputError(f"{place} exists; --force writes over it")
        if not place.parent.is_dir():
            raise InputError(f"{place} cannot be written: there is no folder {place.parent}")


def _is_below(place: Path, folders: Iterable[Path]) -> bool:
    return any(folder.resolve() in place.resolve().parents for folder in folders)


def _write_whole(form: Format, saved: Saved, place: Path, *, merge: bool) -> None:
    """Write to a folder beside `place`, then move what was written; a kill leaves no half file."""
    with TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as name:
        unseen = Path(name) / place.name
        form.write(saved, unseen, merge)
        for written, target in zip(form.places(unseen), form.places(place), strict=True):
            _move(written, target)


def _move(written: Path, place: Path) -> None:
    """Move a file, or all files of a folder, to its place."""
    if not written.is_dir() or not place.exists():
        written.replace(place)
        return
    for file in sorted(written.iterdir()):
        file.replace(place / file.name)
