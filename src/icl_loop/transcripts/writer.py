"""Writing a transcript, line by line as a session is played."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Self, TypeVar

from icl_loop.core.errors import StoppedShort
from icl_loop.core.records import Event, Probe, Turn
from icl_loop.transcripts.checksum import with_checksum, without_checksum
from icl_loop.transcripts.comparison import check_resumable, compare
from icl_loop.transcripts.durable_append import DurableAppender, write_durably
from icl_loop.transcripts.fields import event_fields, probe_fields
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.lines import End, EndStatus, line_of, now
from icl_loop.transcripts.reader import has_whole_line, read, whole_lines

E = TypeVar("E", bound=Event | Probe)


class TranscriptWriter:
    """Appends the turns of one session to its transcript, each flushed to the disk at once.

    An existing transcript is gone on with: its turns are `saved`, a torn last line is cut off, and
    turns that come again are compared with what is saved instead of being written twice.
    """

    def __init__(self, path: Path, header: Header, journal: DurableAppender | None = None) -> None:
        """Open or create the transcript at `path` for the session that `header` describes.

        Turns are written through `journal` if there is one, else one by one.

        Raises:
            SettingsMismatch: The file holds a session of other settings.
            TranscriptError: The file is not a transcript.
            StoppedShort: It cannot be written.
        """
        self.path = path
        self._journal = journal
        self.saved: tuple[Turn, ...] = ()
        self.events: tuple[Event, ...] = ()
        self.probes: tuple[Probe, ...] = ()
        self.end: End | None = None
        check_resumable(path, header)
        try:
            self._file = self._go_on() if has_whole_line(path) else self._begin(header)
        except OSError as error:
            raise self._unwritable(error) from None

    def _go_on(self) -> FileIO:
        """Return the file behind its last whole line, and take over what is saved in it."""
        saved = read(self.path)
        self.saved, self.events = saved.turns, saved.events
        self.probes, self.end = saved.probes, saved.end
        file = self.path.open("r+b", buffering=0)
        file.truncate(saved.sound_bytes)
        file.seek(saved.sound_bytes)
        return file

    def _begin(self, header: Header) -> FileIO:
        """Return a new file behind its first line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("wb", buffering=0)
        try:
            write_durably(file, line_of(header.born().fields()))
            _flush_directory(self.path.parent)
        except OSError:
            file.close()
            raise
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Flush and close the file."""
        if self._journal is None:
            self._file.close()
            return
        try:
            self._journal.close(self._file)
        except OSError as error:
            raise self._unwritable(error) from None

    async def record(self, entries: AsyncIterator[E]) -> AsyncIterator[E]:
        """Yield each entry once it is written; with a journal, its flush may follow soon."""
        saved = iter(self.events)
        async for entry in entries:
            if isinstance(entry, Probe):
                self.add(entry)
            elif before := next(saved, None):
                compare(before, entry)
            else:
                self._write(event_fields(entry))
            yield entry

    def add(self, probe: Probe) -> None:
        """Write a probe."""
        self._write(probe_fields(probe))

    def finish(self, status: EndStatus, turns: int) -> None:
        """Write how the session ended, unless that is already written."""
        if self.end is None:
            self.end = End(status=status, turns=turns, at=now())
            self._write(self.end.model_dump(mode="json"))

    def _write(self, fields: Mapping[str, Any]) -> None:
        write = write_durably if self._journal is None else self._journal.append
        try:
            write(self._file, line_of(fields))
            links = os.fstat(self._file.fileno()).st_nlink
        except OSError as error:
            raise self._unwritable(error) from None
        if not links:
            raise StoppedShort(
                f"{self.path} was removed while it was written, and its turns with it; put back a"
                " copy if there is one, and run again to ask for the rest anew"
            )

    def _unwritable(self, error: OSError) -> StoppedShort:
        return StoppedShort(
            f"{self.path} cannot be written: {error.strerror}; the turns before are saved: make it"
            " writable and run again to go on"
        )


def begin(path: Path, header: Header, lines: Sequence[bytes]) -> None:
    """Write a transcript that begins with these lines, whole or not at all.

    Raises:
        StoppedShort: It cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb", buffering=0) as file:
            write_durably(file, b"".join([line_of(header.born().fields()), *map(_resealed, lines)]))
        part.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        raise StoppedShort(f"{path} cannot be written: {error.strerror}") from None


def is_begun(path: Path, lines: Sequence[bytes]) -> bool:
    """Whether the transcript at `path` need not be begun with these lines; one cut within them must."""
    if not has_whole_line(path):
        return False
    held, shared = whole_lines(path)[1:], [*map(_resealed, lines)]
    return held[: len(shared)] == shared or held != shared[: len(held)]


def _resealed(line: bytes) -> bytes:
    return with_checksum(without_checksum(line).removesuffix(b"\n")) + b"\n"


def _flush_directory(path: Path) -> None:
    """Make the new file's name survive a power cut; not every platform can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
