"""Saved transcripts in the formats of other programs; see `docs/export.md`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from polars.exceptions import PolarsError

from icl_loop.core.errors import InputError, StoppedShort, nearest
from icl_loop.export import chat_jsonl, csv_writer, parquet_writer
from icl_loop.export.selection import OnSessions, Selection
from icl_loop.transcripts.tables import TABLES, beside


@dataclass(frozen=True, slots=True)
class Format:
    """An export format.

    Attributes:
        ending: Ending of the default name of the file or folder.
        write: Writes transcripts to a path; the flag asks to merge messages.
        beside: Tables that get a file of their own beside the path.
        merges: Whether the format has messages to merge.
    """

    ending: str
    write: Callable[[Selection, Path, bool], None]
    beside: tuple[str, ...] = ()
    merges: bool = False

    def paths(self, place: Path) -> list[Path]:
        """Return every path that an export to `place` writes; `place` is the last."""
        return [*(beside(place, table) for table in self.beside), place]


def _table_paths(place: Path) -> dict[str, Path]:
    return {table: place if table == "turns" else beside(place, table) for table in TABLES}


def _write_parquet(saved: Selection, place: Path, _: bool) -> None:  # noqa: FBT001  one type for all formats
    parquet_writer.write(saved, _table_paths(place))


def _write_csv(saved: Selection, place: Path, _: bool) -> None:  # noqa: FBT001  as above
    csv_writer.write(saved, _table_paths(place))


def _write_chat(saved: Selection, place: Path, merge: bool) -> None:  # noqa: FBT001  as above
    chat_jsonl.write(saved, place, merge=merge)


def _write_inspect(saved: Selection, place: Path, _: bool) -> None:  # noqa: FBT001  as above
    try:
        from icl_loop.export.inspect_log import write  # noqa: PLC0415  an optional dependency
    except ImportError:
        raise InputError(
            "inspect_ai is not installed: pip install 'icl-loop[inspect]', or inspect-ai itself"
        ) from None
    write(saved, place)


_BESIDE = tuple(table for table in TABLES if table != "turns")
FORMATS: Mapping[str, Format] = {
    "parquet": Format(".parquet", _write_parquet, _BESIDE),
    "csv": Format(".csv", _write_csv, _BESIDE),
    "openai-jsonl": Format(".openai.jsonl", _write_chat, merges=True),
    "inspect": Format(".inspect", _write_inspect),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export.

    Attributes:
        places: The files, or the folder; the last is the path that was asked for.
        sessions: Number of sessions.
        unfinished: Transcripts of sessions that have not ended; their turns so far are exported.
        torn: Transcripts with a torn last line, which is left out.
    """

    places: tuple[Path, ...]
    sessions: int
    unfinished: tuple[Path, ...]
    torn: tuple[Path, ...]

    def notes(self) -> Iterator[str]:
        """Yield a sentence about unfinished sessions, and one about torn lines."""
        if self.unfinished:
            count = f"{len(self.unfinished)} of {self.sessions} sessions"
            yield f"exported up to the last turn of unfinished sessions: {count}: {_first(self.unfinished)}"
        if self.torn:
            yield f"left out the torn last line: {_first(self.torn)}"


def _first(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + (", …" if len(paths) > 3 else "")


def format_named(name: str) -> Format:
    """Return a format by name.

    Raises:
        InputError: There is no such format; suggests the nearest name.
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
    went: OnSessions | None = None,
) -> Exported:
    """Write the transcripts at `paths` in another format.

    Everything is written to a temporary folder first and then moved, so a failed export leaves
    nothing behind.

    Args:
        paths: Transcripts, or folders that contain them.
        to: Name of the format, one of `FORMATS`.
        place: The file, or the folder for Inspect; by default, named after the first path.
        force: Overwrite existing files.
        merge: Merge neighbouring messages of one role, as the requests did.
        went: Called with the number of sessions written since the last call.

    Raises:
        InputError: An argument is wrong, or `place` exists; nothing was written.
        StoppedShort: `place` cannot be written.
    """
    form, named = format_named(to), list(paths)
    if merge and not form.merges:
        able = ", ".join(name for name, each in FORMATS.items() if each.merges)
        raise InputError(f"--merge needs a format with messages: {able}, not {to}")
    saved = Selection.at(named, went or (lambda _: None))
    place = place or Path(named[0].resolve().name.removesuffix(".jsonl") + form.ending)
    places = form.paths(place)
    _check_paths(saved, places, force=force)
    folders = [folder.resolve() for folder in named]
    if place.suffix == ".jsonl" and any(each in place.resolve().parents for each in folders):
        raise InputError(
            f"{place} would be mistaken for a transcript there; choose a path in another folder"
        )
    try:
        _write_and_move(form, saved, place, merge=merge)
    except (OSError, PolarsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoppedShort(f"{place} cannot be written: {reason}") from None
    seen = list(zip(saved.files, saved.edges, strict=True))
    return Exported(
        places=tuple(places),
        sessions=len(seen),
        unfinished=tuple(file for file, edges in seen if not edges.ended),
        torn=tuple(file for file, edges in seen if edges.torn),
    )


def _check_paths(saved: Selection, places: Iterable[Path], *, force: bool) -> None:
    """Raise InputError if a path cannot be written or may not be overwritten."""
    sources = {file.resolve() for file in saved.files}
    for place in places:
        if place.resolve() in sources:
            raise InputError(f"{place} is one of the transcripts to export; choose another path")
        if place.exists() and not force:
            raise InputError(f"{place} already exists; overwrite it with --force")
        if not place.parent.is_dir():
            raise InputError(f"{place} cannot be written: there is no folder {place.parent}")


def _write_and_move(form: Format, saved: Selection, place: Path, *, merge: bool) -> None:
    with TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as name:
        temporary = Path(name) / place.name
        form.write(saved, temporary, merge)
        for written, target in zip(form.paths(temporary), form.paths(place), strict=True):
            _move(written, target)


def _move(written: Path, place: Path) -> None:
    """Move a file or folder to its path; files of a folder replace those of an existing one."""
    if not written.is_dir() or not place.exists():
        written.replace(place)
        return
    for file in sorted(written.iterdir()):
        file.replace(place / file.name)
