"""Writing a transcript, line by line, as a session is played."""

import errno
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any, Self, TypeVar

from icl_loop.core.errors import StoppedShort, reason_of
from icl_loop.core.records import Event, Probe
from icl_loop.transcripts.checksum import with_checksum, without_checksum
from icl_loop.transcripts.comparison import check_resumable, compare
from icl_loop.transcripts.durable_append import DurableAppender, flush, write_durably
from icl_loop.transcripts.files import MAX_BYTES, MAX_LINE
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import Transcript, has_whole_line, read, whole_lines
from icl_loop.transcripts.schema import End, EndStatus, line_fields, line_of, now

E = TypeVar("E", bound=Event | Probe)


class TranscriptWriter:
    """Appends the entries of a session to its transcript.

    An existing transcript is resumed: a torn last line is cut off, and entries that are already saved
    are compared instead of written again. One with other settings and no entries is begun anew.

    Attributes:
        saved: The turns that the file held when it was opened; `events` and `probes` likewise.
        end: The last line, or None if the session has not ended.
    """

    def __init__(self, path: Path, header: Header, appender: DurableAppender | None = None) -> None:
        """Open or create the transcript of the session of `header`.

        Lines are flushed by `appender`, or each on its own if None.

        Raises:
            SettingsMismatch: The file holds another session.
            TranscriptError: The file is not a transcript of the current version.
            StoppedShort: It cannot be written.
        """
        is_resumed = check_resumable(path, header)
        saved = read(path) if is_resumed else Transcript.of(path, header, (), None)
        self.path, self._appender = path, appender
        self.saved, self.events, self.probes = saved.turns, saved.events, saved.probes
        self.end = saved.end
        try:
            self._file = self._open(saved.sound_bytes, header)
        except OSError as error:
            raise self._unwritable(error) from None

    def _open(self, sound_bytes: int, header: Header) -> FileIO:
        """Return the file, positioned after its last complete line; a new one gets its first line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            file = self.path.open("r+b" if sound_bytes else "wb", buffering=0)
            stack.enter_context(file)
            file.truncate(sound_bytes)
            file.seek(sound_bytes)
            if not sound_bytes:
                write_durably(file, line_of(header.born().fields()))
                _flush_directory(self.path.parent)
            stack.pop_all()
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Flush and close the file."""
        if self._appender is None:
            self._file.close()
            return
        try:
            self._appender.close(self._file)
        except OSError as error:
            raise self._unwritable(error) from None

    async def record(self, entries: AsyncIterator[E]) -> AsyncIterator[E]:
        """Yield each entry after writing it, or comparing it if it is already saved."""
        saved = iter(self.events)
        async for entry in entries:
            if not isinstance(entry, Probe) and (before := next(saved, None)):
                compare(before, entry)
            else:
                self._write(line_fields(entry))
            yield entry

    def finish(self, status: EndStatus, turns: int) -> None:
        """Write the last line, unless it is already written."""
        if self.end is None:
            self.end = End(status=status, turns=turns, at=now())
            self._write(self.end.model_dump(mode="json"))

    def _write(self, fields: Mapping[str, Any]) -> None:
        write = write_durably if self._appender is None else self._appender.append
        line = line_of(fields)
        try:
            self._check_size(len(line))
            write(self._file, line)
            links = os.fstat(self._file.fileno()).st_nlink
        except OSError as error:
            raise self._unwritable(error) from None
        if not links:
            raise StoppedShort(
                f"{self.path} was removed while it was being written, and its turns are lost;"
                " restore a copy if there is one, and run again to replay the rest"
            )

    def _check_size(self, added: int) -> None:
        """Raise OSError if a line of `added` bytes makes a transcript that is not read again."""
        if added > MAX_LINE:
            raise OSError(
                errno.EFBIG, f"a line of {added // 2**20} MiB, more than {MAX_LINE // 2**20} MiB"
            )
        if self._file.tell() + added > MAX_BYTES:
            raise OSError(errno.EFBIG, f"it would be larger than {MAX_BYTES // 2**20:,} MiB")

    def _unwritable(self, error: OSError) -> StoppedShort:
        return StoppedShort(
            f"{self.path} cannot be written: {reason_of(error)}; the turns before are saved: once it"
            " can be written, run again to resume"
        )


def begin(path: Path, header: Header, lines: Sequence[bytes]) -> None:
    """Create a transcript that starts with these lines, atomically.

    Raises:
        StoppedShort: It cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    lines = [line_of(header.born().fields()), *map(_with_new_checksum, lines)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb", buffering=0) as file:
            write_durably(file, b"".join(lines))
        part.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        raise StoppedShort(f"{path} cannot be written: {reason_of(error)}") from None


def is_begun(path: Path, lines: Sequence[bytes]) -> bool:
    """Return whether the transcript at `path` exists and is not cut off within these lines."""
    if not has_whole_line(path):
        return False
    saved, shared = whole_lines(path)[1:], [*map(_with_new_checksum, lines)]
    return saved[: len(shared)] == shared or saved != shared[: len(saved)]


def _with_new_checksum(line: bytes) -> bytes:
    return with_checksum(without_checksum(line).removesuffix(b"\n")) + b"\n"


def _flush_directory(path: Path) -> None:
    """Make the name of a new file survive a power cut, where the platform can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
