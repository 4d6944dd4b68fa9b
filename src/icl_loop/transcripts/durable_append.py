"""Lines on the disk: written at once, flushed in groups, by a thread of its own.

A line that was written survives the end of the process, however it ends. That it survives a power
cut too takes a flush, which costs milliseconds on many disks; so a thread flushes all files that
have new lines a few times a second, and the sessions do not wait for it.
"""

import os
from dataclasses import dataclass, field
from io import FileIO
from threading import Event, Lock, Thread
from typing import Self

FLUSH_EVERY_S = 0.25
"""A power cut costs the lines of so many seconds, and the flush under way, at the most."""


def write_whole(file: FileIO, data: bytes) -> None:
    """Write all of `data`; a file system that is nearly full may take it in pieces."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def write_durably(file: FileIO, data: bytes) -> None:
    """Write `data` and flush it to the disk."""
    write_whole(file, data)
    os.fsync(file.fileno())


@dataclass
class DurableAppender:
    """Writes lines to any number of files and flushes them in groups."""

    _unflushed: set[FileIO] = field(default_factory=set)
    _failed: dict[FileIO, OSError] = field(default_factory=dict)
    _flushing: Lock = field(default_factory=Lock)
    _over: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._flush_again_and_again, name="journal", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Flush what is left, and end the thread."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._flush()

    def append(self, file: FileIO, data: bytes) -> None:
        """Write `data` at the end of `file`, to be flushed soon.

        Raises:
            OSError: The disk is full, or the file cannot be written, now or at an earlier flush.
        """
        if self._failed and file in self._failed:
            raise self._failed[file]
        write_whole(file, data)
        self._unflushed.add(file)

    def close(self, file: FileIO) -> None:
        """Flush and close `file`.

        Raises:
            OSError: A line of it may not have reached the disk.
        """
        with self._flushing:
            unflushed = file in self._unflushed
            self._unflushed.discard(file)
            error = self._failed.pop(file, None)
            with file:
                if unflushed:
                    os.fsync(file.fileno())
        if error is not None:
            raise error

    def _flush_again_and_again(self) -> None:
        while not self._over.wait(FLUSH_EVERY_S):
            self._flush()

    def _flush(self) -> None:
        with self._flushing:
            files, self._unflushed = self._unflushed, set()
            for file in files:
                try:
                    os.fsync(file.fileno())
                except OSError as error:
                    self._failed[file] = error
