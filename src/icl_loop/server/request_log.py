"""Counts of the chat requests that the server received and of their outcomes."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class RequestLog:
    """Counts of chat requests. Ids are the values of the header `X-Client-Request-Id`.

    Attributes:
        total: Requests received.
        statuses: Responses by HTTP status.
        faults: Injected faults by name.
        unanswered: Requests without a response: reset, or given up by the client.
        asked: Requests by id.
        answered: Valid completions by id.
        in_flight: Requests being answered now.
        most_in_flight: Maximum of `in_flight` so far.
        longest_prompt: Tokens of the longest prompt received, even if it was refused as too long.
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

    def start(self, client_id: str) -> None:
        """Count a request that arrived."""
        self.total += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if client_id:
            self.asked[client_id] += 1

    def finish(self, client_id: str, status: int | None, *, is_valid: bool) -> None:
        """Count the outcome of a request; `status` is None if it got no response."""
        self.in_flight -= 1
        if status is None:
            self.unanswered += 1
            return
        self.statuses[status] += 1
        if client_id and status == 200 and is_valid:
            self.answered[client_id] += 1
