"""How the endpoint behaves, and what it counts."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.tokens import ESTIMATORS, TokenCounter

FAULTS = ("429", "500", "503", "reset", "garbage", "slow", "empty", "truncated")
"""What may go wrong: a status, a connection that is reset, a body that is no JSON, one that comes
late, that is empty, or that is cut in half."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the endpoint behaves.

    Attributes:
        latency_s: Seconds before each chat completion, failing ones included.
        latency_jitter_s: At most so many seconds more, uniformly at random.
        faults: Rate by name of `FAULTS`; the rest of the requests is answered soundly.
        seed: Keys all randomness, together with the number of the request.
        slow_s: Seconds more that a slow answer takes.
        retry_after_s: Seconds that a 429 asks to wait.
        context_window: Tokens of the longest prompt that is answered; no limit if None.
        api_key: The key to ask for; none is needed if None.
        counter: Counts the tokens.
    """

    latency_s: float = 0.0
    latency_jitter_s: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    slow_s: float = 5.0
    retry_after_s: float = 0.0
    context_window: int | None = None
    api_key: str | None = field(default=None, repr=False)
    counter: TokenCounter = ESTIMATORS["o200k_base"]

    def __post_init__(self) -> None:
        _check_faults(self.faults)
        for name in ("latency_s", "latency_jitter_s", "slow_s", "retry_after_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is a number of seconds, got {getattr(self, name)}")
        if self.context_window is not None and self.context_window < 1:
            raise InputError(f"a context window holds tokens, got {self.context_window}")
        if self.api_key == "":
            raise InputError("the key to ask for is empty")


def parse_faults(text: str) -> dict[str, float]:
    """Return the rates that a text such as `429=0.1,reset=0.02` states.

    Raises:
        InputError: A fault is unknown or named twice, or its rate is none.
    """
    rates: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, rate = (each.strip() for each in part.partition("="))
        if name in rates:
            raise InputError(f"the fault {name} is given two rates in {text!r}")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise InputError(f"a fault and its rate look like 429=0.1, got {part!r}") from None
    _check_faults(rates)
    return rates


def _check_faults(rates: Mapping[str, float]) -> None:
    for name, rate in rates.items():
        if name not in FAULTS:
            raise InputError(f"unknown fault {name!r}: {nearest(name, FAULTS)}")
        if not 0 <= rate <= 1:
            raise InputError(f"the rate of a fault is between 0 and 1, got {name}={rate:g}")
    if (total := math.fsum(rates.values())) > 1 + 1e-9:
        raise InputError(f"the rates of all faults add up to at most 1, got {total:g}")


@dataclass(slots=True)
class RequestLog:
    """Counts of the chat requests that arrived and of what became of them.

    What is counted by id is kept for each `X-Client-Request-Id` for as long as the log lives.

    Attributes:
        total: Requests that arrived.
        statuses: Answers by HTTP status, unsound ones included.
        faults: Requests by the fault that befell them.
        unanswered: Requests that ended without an answer: reset, or given up by the client.
        asked: Requests by id.
        answered: Sound answers with status 200 by id.
        in_flight: Requests being answered now.
        most_in_flight: The most there were at one time.
        longest_prompt: Tokens of the longest prompt seen, one that was refused as too long included.
    """

    total: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    longest_prompt: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return all counts."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def arrive(self, client_id: str) -> None:
        """Count a request in."""
        self.total += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if client_id:
            self.asked[client_id] += 1

    def leave(self, client_id: str, status: int | None, *, sound: bool) -> None:
        """Count a request out: answered with this status, or not at all if None."""
        self.in_flight -= 1
        if status is None:
            self.unanswered += 1
            return
        self.statuses[status] += 1
        if client_id and status == 200 and sound:
            self.answered[client_id] += 1
