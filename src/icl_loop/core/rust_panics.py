"""Keep what Rust prints about a panic off the error output: polars raises it as an exception, too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from threading import Lock

_STDERR = 2
_HELD = Lock()
"""There is one error output for all threads."""


@contextmanager
def without_panic_messages() -> Iterator[None]:
    """Drop what is written to the error output if the code within raises an exception.

    Otherwise it is written afterwards.
    """
    with _HELD, TemporaryFile() as held:
        try:
            kept = os.dup(_STDERR)
        except OSError:  # it is closed
            yield
            return
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
            held.seek(0)
            written = held.read()
        except BaseException:
            written = b""
            raise
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
        if written:
            os.write(_STDERR, written)
