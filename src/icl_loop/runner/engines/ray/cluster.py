"""Joining a Ray cluster, or starting one, and what it consists of."""

import os
import signal
import socket
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from icl_loop.core.errors import InputError

OWN_CLUSTER = "local"
"""What Ray calls a cluster of its own on this machine."""
QUIET = {  # some are read when Ray is imported
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray is going to do anyway, without a warning
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # it prints on our standard output; we say what is lost
}
CONNECT_S = 10.0
"""Seconds in which the machine of an address has to answer."""


class Lost(Exception):
    """A worker is gone, and with it what it was doing."""


@dataclass(frozen=True, slots=True)
class Machines:
    """The machines that a cluster consists of now.

    Attributes:
        nodes: Ray's names of them.
        processors: How many they have together.
        free: How many of those nobody has reserved.
    """

    nodes: frozenset[str] = frozenset()
    processors: int = 0
    free: int = 0

    @classmethod
    def now(cls) -> "Machines":
        """Return what Ray says."""
        ray = library()
        return cls(
            nodes=frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"]),
            processors=int(ray.cluster_resources().get("CPU", 0)),
            free=int(ray.available_resources().get("CPU", 0)),
        )

    def __str__(self) -> str:
        processors = _many(self.processors, "CPU")
        return f"{processors} on {_many(len(self.nodes), 'machine')}, {self.free} of them free"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def library() -> Any:  # noqa: ANN401  a module that need not be installed
    """Return Ray, which is not imported before it is asked for.

    Raises:
        InputError: It is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: PLC0415
    except ImportError:
        raise InputError(
            "the engine ray needs the extra [ray]: pip install 'icl-loop[ray]'"
        ) from None
    return ray


@contextmanager
def cluster(address: str | None = None, **options: Any) -> Iterator[None]:  # noqa: ANN401  Ray's own
    """Join a cluster, or start one, and leave it in the end; one joined before is stayed in.

    Args:
        address: As for `on_ray`.
        options: Of `ray.init`.

    Raises:
        InputError: There is no cluster at the address.
    """
    ray = library()
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or OWN_CLUSTER
    _check(address)
    own = {"include_dashboard": False} if address == OWN_CLUSTER else {}
    with _sigterm_kept():
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", **own, **options)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise InputError(f"no Ray cluster at {address}: {one_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Raise InputError if there can be no cluster at `address`; Ray would take minutes to see it."""
    if address in (OWN_CLUSTER, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        raise InputError(
            f"a Ray cluster is joined from one of its machines, by HOST:PORT or auto, got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster at {address}: {error}") from None


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back, which Ray replaces by one that ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if held is not None:  # else it is no handler of Python's
            signal.signal(signal.SIGTERM, held)


def one_line(error: Exception) -> str:
    """Return what an error of Ray's says, without the traceback that it begins with."""
    return str(error).strip().split("\n")[-1][:300]


async def done(result: Awaitable[Any]) -> Any:  # noqa: ANN401  whatever the worker returns
    """Return what a worker returns.

    Raises:
        Lost: It is gone, or what it returned is.
    """
    errors = library().exceptions
    gone = (
        errors.RayActorError,
        errors.ObjectLostError,
        errors.NodeDiedError,
        errors.OutOfMemoryError,
    )
    try:
        return await result
    except gone as error:
        raise Lost(one_line(error)) from None
