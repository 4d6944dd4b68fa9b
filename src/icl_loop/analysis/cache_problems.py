"""Prompt caches that serve far less than they could."""

from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

STREAK = 20
"""Consecutive turns of a session over which the cache must serve too little."""
FEWEST_SERVED = 0.5
"""Too little is less than this share of what a cache could serve."""
_LARGE_SHARE = 0.5
"""If no token was ever reported as cached, at least this share of the prompts must be repeated."""


@dataclass(frozen=True, slots=True)
class CacheProblem:
    """A prompt cache that serves less than half of what it could, for 20 turns of a session.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        session: File name or path of the session.
        turn: The first of these turns.
        cached_share: Share of their prompt tokens that the endpoint reported as cached.
        prefix_share: Share that repeats the beginning of the previous request.
    """

    experiment: str
    arm: str
    session: str
    turn: int
    cached_share: float
    prefix_share: float

    @property
    def text(self) -> str:
        """The problem, and what to check."""
        return (
            f"arm {self.arm!r}: {self.cached_share:.0%} of the prompt tokens were reported as cached in"
            f" {STREAK} consecutive turns of a session, although {self.prefix_share:.0%} repeat the"
            " request before. Check that the endpoint caches prompts and reports it (many do so from"
            " 1,024 tokens), whether it needs marks (model.cache_control) or a key of the session"
            " (prompt_cache_key), and that it has a slot for each session played at the same time"
            " (--concurrency)."
        )

    def fields(self) -> dict[str, Any]:
        """Return the problem as `analyze --json` prints it."""
        return {**asdict(self), "kind": "cache", "text": self.text}


class CacheWatch:
    """Watches what the prompt cache serves to one arm."""

    def __init__(self, experiment: str, arm: str, *, reports_cached: bool = False) -> None:
        """Watch an arm; `reports_cached` says that the endpoint reports cached tokens."""
        self._experiment, self._arm = experiment, arm
        self._reports_cached, self._found = reports_cached, False
        self._poor: dict[str, list[tuple[int, float, float]]] = {}

    def add(
        self, session: str, turn: int, *, prompt: int, cached: int, counted: int, prefix: int
    ) -> CacheProblem | None:
        """Add the tokens of a turn; return the problem at the first turn that shows it.

        Args:
            session: File name or path of the session.
            turn: Index of the turn.
            prompt: Prompt tokens that the endpoint reported; 0 if it reported none.
            cached: How many of these it reported as cached.
            counted: Tokens of the request, counted locally.
            prefix: How many of these repeat the beginning of the previous request.
        """
        self._reports_cached |= cached > 0
        if self._found or not prompt or not counted:
            return None
        served, possible = cached / prompt, prefix / counted
        poor = self._poor.setdefault(session, [])
        if served >= FEWEST_SERVED * possible or (poor and poor[-1][0] != turn - 1):
            poor.clear()
        if served < FEWEST_SERVED * possible:
            poor.append((turn, served, possible))
        del poor[:-STREAK]
        if len(poor) < STREAK:
            return None
        turns, shares, prefixes = zip(*poor, strict=True)
        served, possible = sum(shares) / STREAK, sum(prefixes) / STREAK
        if not self._reports_cached and possible <= _LARGE_SHARE:
            return None
        self._found = True
        return CacheProblem(self._experiment, self._arm, session, turns[0], served, possible)


def cache_problems(turns: pl.DataFrame) -> list[CacheProblem]:
    """Return the arms of a frame of turns whose prompt cache serves too little, the first of each."""
    arms = turns.group_by("experiment", "arm", maintain_order=True)
    return [problem for _, part in arms if (problem := _problem_of(part))]


def _problem_of(part: pl.DataFrame) -> CacheProblem | None:
    served, possible = pl.col("cached") / pl.col("prompt"), pl.col("prefix") / pl.col("counted")
    is_poor = (pl.col("prompt") > 0) & (served < FEWEST_SERVED * possible)
    poor = part.filter(is_poor).filter(pl.len().over("path") >= STREAK)
    reports_cached = (part["cached"] > 0).any()
    watch = CacheWatch(part["experiment"][0], part["arm"][0], reports_cached=reports_cached)
    columns = ("prompt", "cached", "counted", "prefix")
    for row in poor.select("path", "turn", *columns).iter_rows(named=True):
        tokens = {name: row[name] for name in columns}
        if problem := watch.add(row["path"], row["turn"], **tokens):
            return problem
    return None
