"""One clear error where a limit on memory (`ulimit -v`) ends the process inside a library.

Libraries that get no memory raise errors of many kinds, or abort, which Python cannot catch, or wait
for ever for a thread that could not start. So with a limit the command runs in a child process, its
parent says how it ended, and a limit at which OpenBLAS and polars were seen to hang is refused.
"""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from icl_loop.terminal.console import STOPPED_SHORT, print_error

LEAST = 1536 * 2**20
"""Least limit in bytes with which libraries start; measured with `THREADS`."""
THREADS = "2"
"""Number of threads that OpenBLAS and polars get under a limit; each thread reserves memory."""
_CHARTS = ("plot", "report")
"""Commands with the chart engine, which failed even with 40 GiB of address space, after 40 lines of its own."""
_CRASHES = ("SIGABRT", "SIGBUS", "SIGILL", "SIGSEGV", "SIGTRAP")
"""Signals by which processes end that got no memory; the chart engine takes the last."""
_PASSED_ON = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def memory_limit() -> int | None:
    """Return how many bytes of memory this process may use; None if there is no limit."""
    try:
        import resource  # noqa: PLC0415  not available on Windows
    except ImportError:
        return None
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    limits = [resource.getrlimit(kind)[0] for kind in kinds]
    return min((each for each in limits if each != resource.RLIM_INFINITY), default=None)


def _has_limited_addresses() -> bool:
    """Return whether there is a limit on address space; called where limits are known."""
    import resource  # noqa: PLC0415  not available on Windows

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


@contextmanager
def limited_memory() -> Iterator[None]:
    """Exit with a clear error if the code within gets no memory.

    With a limit on memory it runs in a child process; in the parent this never returns.
    """
    limit = memory_limit()
    if limit is not None:
        if limit < LEAST or (sys.argv[1:2] and sys.argv[1] in _CHARTS and _has_limited_addresses()):
            print_error(_message(limit))
            sys.exit(STOPPED_SHORT)
        for name in ("OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
            os.environ.setdefault(name, THREADS)
        if child := os.fork():
            sys.exit(_awaited(child, limit))
    try:
        yield
    except BaseException as error:
        if not _is_short_of_memory(error, limit):
            raise
        print_error(_message(limit))
        sys.exit(STOPPED_SHORT)


def _is_short_of_memory(error: BaseException, limit: int | None) -> bool:
    """Return whether an exception says that there is no memory, with a limit also in other words."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if limit is None:
        return False
    words = ("map segment", "allocate memory", "start new thread", "llocation fail")
    is_panic = type(error).__name__ == "PanicException"  # of polars, which is slow to import
    return is_panic or any(each in str(error) for each in words)


def _message(limit: int | None) -> str:
    if limit is None:
        return "stopped: there is not enough memory"
    return (
        f"stopped: there is not enough memory: this process may use only {limit // 2**20:,} MiB; allow"
        f" more with `ulimit -v`, at least {LEAST // 2**20:,} MiB; charts need `ulimit -v unlimited`"
    )


def _awaited(child: int, limit: int) -> int:
    """Return the exit code of the child process; report a crash, and pass signals on to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the child as well
    for name in _PASSED_ON:
        signal.signal(getattr(signal, name), lambda number, _: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in [-getattr(signal, name) for name in _CRASHES]:
        print_error(_message(limit))
        return STOPPED_SHORT
    return code if code >= 0 else 128 - code
