"""Join or start a Ray cluster and report its resources."""

import os
import signal
import socket
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from icl_loop.core.errors import InputError, reason_of

OWN_CLUSTER = "local"
"""Ray's address of a new cluster on this machine."""
RAY_ENVIRONMENT = {  # set before import, because Ray reads some of them then
    "RAY_USAGE_STATS_ENABLED": "0",  # send no statistics
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # future default, without the warning
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # keep Ray's messages about lost nodes off our output
}
CONNECT_S = 10.0
"""Seconds to wait for a connection to the address of a cluster."""


class WorkerLost(Exception):
    """A worker has died, and the result of its current task is lost."""


@dataclass(frozen=True, slots=True)
class ClusterResources:
    """The ids of a cluster's machines, its processors, and how many of them nobody has reserved."""

    nodes: frozenset[str] = frozenset()
    cpus: int = 0
    free: int = 0

    @classmethod
    def now(cls) -> "ClusterResources":
        """Return the current resources."""
        ray = import_ray()
        return cls(
            nodes=frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"]),
            cpus=int(ray.cluster_resources().get("CPU", 0)),
            free=int(ray.available_resources().get("CPU", 0)),
        )

    def __str__(self) -> str:
        return f"{self.cpus} CPUs ({self.free} free) on {len(self.nodes)} machine(s)"


def import_ray() -> Any:  # noqa: ANN401  an optional module
    """Import Ray and return it; raise InputError if it is not installed."""
    for name, value in RAY_ENVIRONMENT.items():
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
    """Join or start a cluster and leave it at the end; do nothing if this process is in one.

    `address` is as for `on_ray`, `options` are further arguments of `ray.init`.

    Raises:
        InputError: There is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or OWN_CLUSTER
    _check(address)
    own = {"include_dashboard": False} if address == OWN_CLUSTER else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **own, **options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(f"no Ray cluster at {address}: {last_line(error)}") from None
    finally:  # Ray replaces the handler by one that exits; None was not installed from Python
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Raise InputError if no cluster can be at `address`; Ray itself would try for minutes."""
    if address in (OWN_CLUSTER, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        raise InputError(
            f"{address!r} is not an address of a Ray cluster: use HOST:PORT or auto, on one of its"
            " machines"
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "there is no such port"
        raise InputError(f"no Ray cluster at {address}: {reason}") from None


def last_line(error: Exception) -> str:
    """Return the message of a Ray error without the traceback before it."""
    return str(error).strip().split("\n")[-1][:300]


async def result_of(call: Awaitable[Any]) -> Any:  # noqa: ANN401  whatever the worker returns
    """Return the result of a call to a worker; raise WorkerLost if the worker or result is lost."""
    errors = import_ray().exceptions
    lost = errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError
    try:
        return await call
    except (*lost, errors.OutOfMemoryError) as error:
        raise WorkerLost(last_line(error)) from None
