"""Faults that the server injects at given rates."""

import math
from collections.abc import Mapping
from itertools import accumulate

from starlette.responses import Response

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.records import keyed_index
from icl_loop.server.responses import ApiError, ResetConnection

FAULTS = ("429", "500", "503", "reset", "garbage", "slow", "empty", "truncated")
"""An HTTP status, a reset connection, a body that is not JSON, a late response, an empty body, or
half a body."""
INVALID_BODIES = frozenset({"garbage", "empty", "truncated"})
"""Faults that come with status 200."""
RESOLUTION = 10**9
"""Number of values between 0 and 1 that a random draw can have."""


def parse_faults(text: str) -> dict[str, float]:
    """Return the rate of each fault in a text such as `429=0.1,reset=0.02`.

    Raises:
        InputError: A fault is unknown or given twice, or its rate is not valid.
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
    check_rates(rates)
    return rates


def check_rates(rates: Mapping[str, float]) -> None:
    """Raise InputError if a fault is unknown or the rates are not probabilities."""
    for name, rate in rates.items():
        if name not in FAULTS:
            raise InputError(f"unknown fault {name!r}: {nearest(name, FAULTS)}")
        if not 0 <= rate <= 1:
            raise InputError(f"the rate of a fault must be between 0 and 1, got {name}={rate:g}")
    if (total := math.fsum(rates.values())) > 1 + 1e-9:
        raise InputError(f"the rates of all faults may add up to at most 1, got {total:g}")


def draw_fault(rates: Mapping[str, float], seed: int, number: int) -> str | None:
    """Return the fault of request `number`, or None; a function of the seed and the number."""
    if not rates:
        return None
    point = keyed_index(RESOLUTION, seed, "fault", number) / RESOLUTION
    thresholds = accumulate(rates.get(fault, 0.0) for fault in FAULTS)
    return next(
        (fault for fault, bound in zip(FAULTS, thresholds, strict=True) if point < bound), None
    )


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
        case "500":
            return ApiError(500, "simulated internal server error").response()
        case "503":
            return ApiError(503, "simulated overload").response()
        case "reset":
            return ResetConnection()
        case "garbage":
            return Response("<html>it works!</html>", media_type="application/json")
        case "empty":
            return Response(b"", media_type="application/json")
        case _:
            return None
