"""Faults that the server injects at given rates."""

import math
from collections.abc import Mapping

from starlette.responses import Response

from icl_loop.core.errors import InputError
from icl_loop.core.records import keyed_index
from icl_loop.server.responses import ApiError, ResetConnection

FAULTS = ("429", "500", "503", "reset", "garbage", "slow", "empty", "truncated")
"""An HTTP status, a reset connection, a body that is not JSON, a late response, an empty body, or
half a body."""
INVALID_BODIES = frozenset({"garbage", "empty", "truncated"})
"""Faults that come with status 200."""


def parse_faults(text: str) -> dict[str, float]:
    """Return the rate of each fault in a text such as `429=0.1,reset=0.02`.

    Raises:
        InputError: A fault is given twice, or its rate is not a number.
    """
    rates: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, rate = (each.strip() for each in part.partition("="))
        if name in rates:
            raise InputError(f"the fault {name} has two rates in {text!r}")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise InputError(f"a fault must be written like 429=0.1, got {part!r}") from None
    return rates


def draw(seed: int, purpose: str, number: int) -> float:
    """Return a number in [0, 1) for the request with this number."""
    return keyed_index(10**9, seed, purpose, number) / 10**9


def draw_fault(rates: Mapping[str, float], seed: int, number: int) -> str | None:
    """Return the fault of the request with this number, or None."""
    point = draw(seed, "fault", number)
    for fault in FAULTS:
        point -= rates.get(fault, 0.0)
        if point < 0:
            return fault
    return None


def fault_response(fault: str | None, retry_after_s: float) -> Response | None:
    """Return the response for a fault that does not need the model's reply, or None."""
    match fault:
        case "429":
            headers = {
                "retry-after": str(math.ceil(retry_after_s)),
                "retry-after-ms": str(math.ceil(retry_after_s * 1000)),
            }
            message = f"too many requests; try again in {retry_after_s:g} seconds"
            return ApiError(429, message, code="rate_limit_exceeded", headers=headers).response()
        case "500" | "503":
            return ApiError(int(fault), "simulated failure of the server").response()
        case "reset":
            return ResetConnection()
        case "garbage" | "empty":
            content = "<html>it works!</html>" if fault == "garbage" else ""
            return Response(content, media_type="application/json")
    return None
