"""Settings of the server."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.tokens import ESTIMATORS, TokenCounter
from icl_loop.server.faults import FAULTS


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the endpoint behaves.

    Attributes:
        latency_s: Seconds before each chat completion, including failed ones.
        latency_jitter_s: Maximum additional seconds, drawn uniformly.
        faults: Rate of each fault; see `FAULTS`.
        seed: Seed of all randomness.
        slow_s: Additional seconds of the fault `slow`.
        retry_after_s: Seconds that a response with status 429 asks to wait.
        context_window: Maximum prompt tokens, or None for no limit.
        api_key: The key that requests must send, or None if they need none.
        counter: Counts the tokens.

    Raises:
        InputError: A value is not allowed.
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
        for name in ("latency_s", "latency_jitter_s", "slow_s", "retry_after_s"):
            if not 0 <= (seconds := getattr(self, name)) < math.inf:
                raise InputError(f"{name} must be a number of seconds, got {seconds}")
        for name, rate in self.faults.items():
            if name not in FAULTS:
                raise InputError(f"unknown fault {name!r}: {nearest(name, FAULTS)}")
            if not 0 <= rate <= 1:
                raise InputError(f"the rate of a fault must be from 0 to 1, got {name}={rate:g}")
        if (total := math.fsum(self.faults.values())) > 1 + 1e-9:
            raise InputError(f"the rates of all faults may add up to at most 1, got {total:g}")
        if self.context_window is not None and self.context_window < 1:
            raise InputError(f"context_window must be at least 1, got {self.context_window}")
        if self.api_key == "":
            raise InputError("the API key is empty")
