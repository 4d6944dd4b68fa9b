"""Saved transcripts in the formats of other programs; see `docs/export.md`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from polars.exceptions import PolarsError

from icl_loop.core.errors import InputError, StoppedShort, nearest, reason_of
from icl_loop.export import chat_jsonl, tables
from icl_loop.export.source_file import OnSessions, SourceFile
from icl_loop.transcripts.columns import TABLES, table_path
from icl_loop.transcripts.files import find

FORMATS = {
    "parquet": ".parquet",
    "csv": ".csv",
    "openai-jsonl": ".openai.jsonl",
    "inspect": ".inspect",
}
"""The formats, and the ending of the default name of the file or folder."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export.

    Attributes:
        places: The files, or the folder; the last is the path that was asked for.
        files: The transcripts. Of unfinished sessions the turns so far are exported, and torn last
            lines are left out.
    """

    places: tuple[Path, ...]
    files: tuple[SourceFile, ...]

    def notes(self) -> Iterator[str]:
        """Yield a sentence about unfinished sessions, and one about torn lines."""
        if unfinished := [str(file.path) for file in self.files if not file.ended]:
            count = f"{len(unfinished)} of {len(self.files)} sessions"
            yield f"exported up to the last turn of unfinished sessions: {count}: {_first(unfinished)}"
        if torn := [str(file.path) for file in self.files if file.torn]:
            yield f"left out the torn last line: {_first(torn)}"


def _first(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")


def check_format(name: str) -> None:
    """Raise InputError, suggesting the nearest name, unless there is a format of this name."""
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}: {nearest(name, FORMATS)}")


def format_of(place: Path | None, to: str | None) -> str:
    """Return the format of an export: `to`, else that of the ending of `place`.

    Raises:
        InputError: Neither names a format, or they name different ones.
    """
    if to is not None:
        check_format(to)
    endings = {**{end: name for name, end in FORMATS.items()}, ".jsonl": "openai-jsonl"}
    endings |= dict.fromkeys((".eval", ".json"), "inspect")
    ends = None if place is None else endings.get(place.suffix.lower())
    if to is None and ends is None:
        where = "" if place is None else f": {place} does not end in that of a format"
        raise InputError(
            f"name the format with --to {' or '.join(FORMATS)}, or a file with its ending, such as"
            f" -o x.parquet{where}"
        )
    if to is not None and ends is not None and to != ends:
        raise InputError(
            f"--to {to} does not fit -o {place}, whose ending is that of {ends}: choose --to {ends}, or"
            f" -o {place and place.with_suffix(FORMATS[to])}"
        )
    return to or ends or ""


def export(
    paths: Iterable[Path],
    to: str | None = None,
    place: Path | None = None,
    *,
    force: bool = False,
    merge: bool = False,
    on_sessions: OnSessions = lambda _: None,
) -> Exported:
    """Write the transcripts at `paths` in another format.

    Everything is written to a temporary folder first and then moved, so a failed export leaves
    nothing behind.

    Args:
        paths: Transcripts, or folders that contain them.
        to: Name of the format, one of `FORMATS`; by default, that of the ending of `place`.
        place: The file, or the folder for Inspect; by default, named after the first path.
        force: Overwrite existing files.
        merge: Merge neighbouring messages of one role, as the requests did.
        on_sessions: Called with the number of sessions written since the last call.

    Raises:
        InputError: An argument is wrong, or `place` exists; nothing was written.
        StoppedShort: `place` cannot be written.
    """
    to = format_of(place, to)
    if merge and to != "openai-jsonl":
        raise InputError(f"--merge needs a format with messages: openai-jsonl, not {to}")
    named = list(paths)
    files = [SourceFile.at(path) for path in find(named)]
    place = place or Path(named[0].resolve().name.removesuffix(".jsonl") + FORMATS[to])
    places = _places(to, place)
    _check_places(places, named, files, force=force)
    try:
        with TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as folder:
            temporary = Path(folder) / place.name
            _write(to, files, temporary, on_sessions, merge=merge)
            for written, target in zip(_places(to, temporary), places, strict=True):
                _move(written, target)
    except (OSError, PolarsError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else error
        raise StoppedShort(f"{place} cannot be written: {reason}") from None
    return Exported(tuple(places), tuple(files))


def _places(to: str, place: Path) -> list[Path]:
    """Return every path that an export to `place` writes; `place` is the last."""
    return [table_path(place, table) for table in TABLES] if to in ("parquet", "csv") else [place]


def _check_places(
    places: Sequence[Path], named: Iterable[Path], files: Iterable[SourceFile], *, force: bool
) -> None:
    """Raise InputError if a path cannot be written or may not be overwritten."""
    transcripts = {file.path.resolve() for file in files}
    for place in places:
        if place.resolve() in transcripts:
            raise InputError(f"{place} is one of the transcripts to export; choose another path")
        if place.exists() and not force:
            raise InputError(f"{place} already exists; overwrite it with --force")
        if not place.parent.is_dir():
            raise InputError(f"{place} cannot be written: there is no folder {place.parent}")
    folders = places[-1].resolve().parents
    if places[-1].suffix == ".jsonl" and any(path.resolve() in folders for path in named):
        raise InputError(
            f"{places[-1]} would be mistaken for a transcript there; choose a path in another folder"
        )


def _write(
    to: str, files: Sequence[SourceFile], place: Path, on_sessions: OnSessions, *, merge: bool
) -> None:
    if to == "parquet":
        tables.write_parquet(files, place, on_sessions)
    elif to == "csv":
        tables.write_csv(files, place, on_sessions)
    elif to == "openai-jsonl":
        chat_jsonl.write(files, place, on_sessions, merge=merge)
    else:
        try:
            from icl_loop.export.inspect_log import write  # noqa: PLC0415  an optional dependency
        except ImportError:
            raise InputError(
                "inspect_ai is not installed: pip install 'icl-loop[inspect]', or inspect-ai itself"
            ) from None
        write(files, place, on_sessions)


def _move(written: Path, place: Path) -> None:
    """Move a file or folder to its path; files of a folder replace those of an existing one."""
    if not written.is_dir() or not place.exists():
        written.replace(place)
        return
    for file in sorted(written.iterdir()):
        file.replace(place / file.name)
