"""Lines on the disk: written at once, flushed in groups, by a thread of its own.

A flush takes as long for many lines as for one. While one group is being flushed the lines of all
other sessions gather into the next, and the event loop goes on.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from queue import SimpleQueue
from threading import Thread
from typing import Self

Done = Callable[[OSError | None], None]
Entry = tuple[FileIO, bytes, Done]


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
class Journal:
    """Takes lines for any number of files from one event loop."""

    _entries: SimpleQueue[Entry | None] = field(default_factory=SimpleQueue)
    _thread: Thread | None = None

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Finish what was handed in, and end the thread."""
        self._entries.put(None)
        if self._thread is not None:
            self._thread.join()

    async def append(self, file: FileIO, data: bytes) -> None:
        """Return once `data` is at the end of `file` and on the disk.

        A cancelled caller is kept until then too, so that it may close the file.

        Raises:
            OSError: The disk is full, or the file cannot be written.
        """
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()

        def settle(error: OSError | None) -> None:
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

        def done(error: OSError | None) -> None:
            loop.call_soon_threadsafe(settle, error)

        self._entries.put((file, data, done))
        try:
            await asyncio.shield(written)
        except asyncio.CancelledError:
            await written
            raise

    def _work(self) -> None:
        while (entry := self._entries.get()) is not None:
            group, last = [entry], False
            while not self._entries.empty() and not last:
                following = self._entries.get()
                last = following is None
                group += [following] if following is not None else []
            _commit(group)
            if last:
                return


def _commit(group: list[Entry]) -> None:
    """Write the lines of a group, flush each file once, and tell each caller how it went."""
    failed: dict[FileIO, OSError] = {}
    for file, data, _ in group:
        try:
            write_whole(file, data)
        except OSError as error:
            failed.setdefault(file, error)
    for file in {file for file, _, _ in group} - failed.keys():
        try:
            os.fsync(file.fileno())
        except OSError as error:
            failed[file] = error
    for file, _, done in group:
        done(failed.get(file))
