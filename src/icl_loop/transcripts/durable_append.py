"""Appending lines to files: written immediately, flushed to the disk in groups by a thread.

A line that was written survives the end of the process. To survive a power cut it must be flushed
as well, which takes milliseconds on many disks; sessions do not wait for that.
"""

import errno
import os
from dataclasses import dataclass, field
from io import FileIO
from threading import Event, Lock, Thread
from typing import Self

FLUSH_EVERY_S = 0.25
"""A power cut loses at most the lines of this many seconds and of the flush in progress."""


def write_whole(file: FileIO, data: bytes) -> None:
    """Write all of `data`; on a nearly full disk one call may write only a part."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def write_durably(file: FileIO, data: bytes) -> None:
    """Write `data` and flush it to the disk."""
    write_whole(file, data)
    flush(file.fileno())


def flush(descriptor: int) -> None:
    """Flush a file or folder to the disk, where the file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


@dataclass
class DurableAppender:
    """Appends to any number of files and flushes them in groups."""

    _unflushed: set[FileIO] = field(default_factory=set)
    _failed: dict[FileIO, OSError] = field(default_factory=dict)
    _flushing: Lock = field(default_factory=Lock)
    _closing: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._flush_repeatedly, name="durable-append", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Flush all files and end the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._flush()

    def append(self, file: FileIO, data: bytes) -> None:
        """Write `data` at the end of `file`; it is flushed soon.

        Raises:
            OSError: The file cannot be written, or an earlier flush failed.
        """
        if file in self._failed:
            raise self._failed[file]
        write_whole(file, data)
        self._unflushed.add(file)

    def close(self, file: FileIO) -> None:
        """Flush and close `file`.

        Raises:
            OSError: A line may not have reached the disk.
        """
        with self._flushing:
            unflushed = file in self._unflushed
            self._unflushed.discard(file)
            error = self._failed.pop(file, None)
            with file:
                if unflushed:
                    flush(file.fileno())
        if error is not None:
            raise error

    def _flush_repeatedly(self) -> None:
        while not self._closing.wait(FLUSH_EVERY_S):
            self._flush()

    def _flush(self) -> None:
        with self._flushing:
            files, self._unflushed = self._unflushed, set()
            for file in files:
                try:
                    flush(file.fileno())
                except OSError as error:
                    self._failed[file] = error
