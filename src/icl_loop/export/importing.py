"""Importing sessions from files of other programs as transcripts; see `docs/export.md`."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from icl_loop.core.errors import DatasetError, InputError
from icl_loop.core.names import check_file_name, folded
from icl_loop.core.regular_files import open_regular
from icl_loop.core.validation_messages import first_problem
from icl_loop.experiment import Session
from icl_loop.experiment.settings import ArmName
from icl_loop.experiment.validation import validated
from icl_loop.export import import_chat, import_table
from icl_loop.export.imported_session import ImportedSession
from icl_loop.tasks.datasets.source_file import translated
from icl_loop.transcripts import End, Header
from icl_loop.transcripts.header import ImportIdentity
from icl_loop.transcripts.schema import line_of
from icl_loop.transcripts.writer import begin

Format = Literal["inspect", "openai-jsonl", "table"]
ENDINGS: dict[str, Format] = {
    **dict.fromkeys((".eval", ".json"), "inspect"),
    ".jsonl": "openai-jsonl",
    **dict.fromkeys((".csv", ".tsv", ".parquet"), "table"),
}
"""The format of a file by the ending of its name."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A transcript to write: its path, first line, number of turns and further lines."""

    path: Path
    header: Header
    turns: int
    lines: tuple[bytes, ...]


def import_files(
    paths: Iterable[Path], out: Path, *, name: str | None = None, labels: Sequence[str] = ()
) -> list[Imported]:
    """Write the sessions in files of other programs as transcripts below `out`, and return them.

    Args:
        paths: The files, or folders with logs of Inspect.
        out: Parent of the experiments' folders.
        name: Name of the experiment; by default that in the file, or the name of the first file, with
            `-imported`.
        labels: All labels; by default those that the files name.

    Raises:
        InputError: A file is wrong, or a transcript exists already; nothing was written.
        StoppedShort: A transcript cannot be written.
    """
    files = list(_files(paths))
    if name is not None:
        validated(ArmName, name, "--name")
    imported: dict[Path, Imported] = {}
    experiments: dict[str, str] = {}
    arms = defaultdict[str, dict[str, str]](dict)
    for file in files:
        numbers, digest = Counter[tuple[str, str]](), None
        for session in _sessions_in(file, labels):
            recorded = session.experiment or _stem(files[0])
            experiment = name or f"{_plain(recorded, experiments)}-imported"
            arm = _plain(session.arm or _stem(file), arms[experiment])
            stream = session.stream if session.stream is not None else numbers[experiment, arm]
            numbers[experiment, arm] += 1
            digest = digest or _digest(file)
            made = _imported(file, digest, session, out / experiment, (experiment, arm, stream))
            if made.path in imported:
                raise InputError(
                    f"{file}, {session.place}: arm {arm!r} already has a session of stream {stream};"
                    " import one of them with another --name"
                )
            imported[made.path] = made
    for path in imported:
        if path.exists():
            raise InputError(f"{path} already exists; choose another --name or --out")
    for each in imported.values():
        begin(each.path, each.header, each.lines)
    return list(imported.values())


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist")
        found = sorted(path.glob("*.eval")) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path} holds no logs of Inspect (*.eval); name the files to import")
        yield from found


def _sessions_in(file: Path, labels: Sequence[str]) -> list[ImportedSession]:
    if file.suffix.lower() not in ENDINGS:
        raise InputError(
            f"{file} cannot be imported: its name must end in .eval or .json (Inspect), .jsonl (chats),"
            " or .csv, .tsv or .parquet (a table of turns)"
        )
    read: dict[Format, Callable[[Path, Sequence[str]], list[ImportedSession]]] = {
        "inspect": _inspect,
        "openai-jsonl": import_chat.sessions_in,
        "table": import_table.sessions_in,
    }
    try:
        with translated(str(file)):
            return read[ENDINGS[file.suffix.lower()]](file, labels)
    except DatasetError as error:
        raise InputError(str(error)) from None


def _inspect(file: Path, labels: Sequence[str]) -> list[ImportedSession]:
    try:
        from icl_loop.export.import_inspect import sessions_in  # noqa: PLC0415  optional
    except ImportError:
        raise InputError(
            "inspect_ai is not installed: pip install 'icl-loop[inspect]', or inspect-ai itself"
        ) from None
    return sessions_in(file, labels)


def _digest(file: Path) -> str:
    with translated(str(file)), open_regular(file, 2**30) as opened:
        return file_digest(opened, "sha256").hexdigest()


def _imported(
    file: Path, digest: str, session: ImportedSession, folder: Path, names: tuple[str, str, int]
) -> Imported:
    experiment, arm, stream = names
    turns = sum(line["type"] == "turn" for line in session.lines)
    fields = {
        "seed": None,
        "turns": turns,
        "settings": {},
        "system": None,
        "dataset": {},
        **session.header,
        "experiment": experiment,
        "arm": arm,
        "stream": stream,
        "repeat": session.repeat,
        "labels": list(session.labels),
        "imported": ImportIdentity(
            format=ENDINGS[file.suffix.lower()],
            file=file.name,
            sha256=digest,
            session=session.key,
        ),
    }
    try:
        header = Header.model_validate(fields, strict=False)
    except ValidationError as error:
        raise InputError(f"{file}, {session.place}: {first_problem(error)}") from None
    lines = [line_of(line) for line in session.lines]
    if session.status is not None:
        end = End(status=session.status, turns=turns, at=session.ended)
        lines.append(line_of(end.model_dump(mode="json")))
    path = folder / Session.name_of(arm, stream, session.repeat)
    return Imported(path, header, turns, tuple(lines))


def _stem(file: Path) -> str:
    return file.stem.removesuffix(".openai")


def _plain(name: str, made: dict[str, str]) -> str:
    """Return a name that files can have, different from those `made` of other names; add it to them."""
    if name not in made:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:80].rstrip("-._") or "session"
        try:
            check_file_name(plain)
        except InputError:  # a device, such as NUL
            plain = f"session-{plain}"
        taken, unique, number = set(map(folded, made.values())), plain, 1
        while folded(unique) in taken:
            number += 1
            unique = f"{plain}-{number}"
        made[name] = unique
    return made[name]
