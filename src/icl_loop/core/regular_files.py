"""Open files that a user, an experiment or a folder names, without waiting and with a limit.

Devices, pipes and sockets are refused: reading from them can wait for ever or never end.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
"""Opens a pipe at once, even if nothing writes to it; Windows has neither."""


def open_regular(path: Path, limit: int, advice: str = "") -> BufferedReader:
    """Open a regular file of at most `limit` bytes for reading.

    Args:
        path: The file, or a link to it.
        limit: Most bytes that it may have, a multiple of 1 MiB.
        advice: Added to the message if it has more.

    Raises:
        OSError: It cannot be opened, is not a regular file, or is too large.
    """
    file = open(path, "rb", opener=_opened)  # noqa: SIM115  the caller closes it
    if os.fstat(file.fileno()).st_size > limit:
        file.close()
        raise _too_large(limit, advice)
    return file


def read_regular(path: Path, limit: int, advice: str = "") -> bytes:
    """Return the content of a regular file of at most `limit` bytes, as `open_regular` opens it.

    Raises:
        OSError: It cannot be read, is not a regular file, or is too large.
    """
    with open_regular(path, limit, advice) as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # it grew, or is one of those under /proc that report no size
        raise _too_large(limit, advice)
    return data


def _opened(path: str, flags: int) -> int:
    """Return the descriptor of a file; check before opening, which acts on some devices, and after."""
    _check_kind(Path(path).stat().st_mode)
    descriptor = os.open(path, flags | _NO_WAIT)
    try:
        _check_kind(os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_kind(mode: int) -> None:
    if kind := _KINDS.get(stat.S_IFMT(mode)):
        raise OSError(
            errno.EINVAL,
            f"it is a {kind}, not a regular file; save the content to a file and name that",
        )


def _too_large(limit: int, advice: str) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {limit // 2**20:,} MiB{advice}")
