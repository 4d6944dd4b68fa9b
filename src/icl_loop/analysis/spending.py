"""Usage and cost of saved sessions, and what a prompt cache could have saved."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis.session_settings import sessions
from icl_loop.analysis.side_requests import side_requests
from icl_loop.core.messages import Usage
from icl_loop.models import is_built_in
from icl_loop.models.limits import Cost
from icl_loop.models.prices import list_price
from icl_loop.transcripts.columns import USAGE

_TOKENS = USAGE
_COLUMNS = ("path", "counted", "prefix", *_TOKENS)
"""Columns of a request."""


@dataclass(frozen=True, slots=True)
class Spending:
    """Usage and cost of one arm, including probes and notes.

    Turns that a branch shares with its parent count for the parent, and rescored replies count for
    their source.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        requests: Number of answered requests.
        prompt: Prompt tokens as reported by the endpoint, or estimated locally if it reports none;
            those of attempts without a usable reply are included.
        cached: Prompt tokens that the endpoint reported as cached.
        reported: Prompt tokens of the requests for which the endpoint reported any.
        measured: Prompt tokens of the requests with a recorded prefix; older sessions have none.
        prefix: The part of `measured` that repeats the beginning of the previous request, which a
            prompt cache could serve; None if no prefix was recorded.
        completion: Completion tokens.
        usd: Cost in US dollars without a cache; None if the price is unknown.
        usd_reported: Cost with the reported cache hits.
        usd_prefix: Cost if a cache served every repeated prefix.
    """

    experiment: str
    arm: str
    requests: int
    prompt: int
    cached: int
    reported: int
    measured: int
    prefix: int | None
    completion: int
    usd: float | None
    usd_reported: float | None
    usd_prefix: float | None

    @property
    def cached_share(self) -> float | None:
        """Share of the reported prompt tokens that were reported as cached; None without reports."""
        return self.cached / self.reported if self.reported else None

    @property
    def prefix_share(self) -> float | None:
        """Share of the measured prompt tokens that a prompt cache could serve."""
        return None if self.prefix is None or not self.measured else self.prefix / self.measured

    def fields(self) -> dict[str, Any]:
        """Return the values as JSON; unknown values are null."""
        named = asdict(self) | {
            "cached_share": self.cached_share,
            "prefix_share": self.prefix_share,
        }
        return {name: value for name, value in named.items() if name not in ("experiment", "arm")}


def spending(
    turns: pl.DataFrame,
    price: Cost | None = None,
    paths: Iterable[Path] | None = None,
) -> list[Spending]:
    """Return the usage and cost of every arm in a frame of turns, in order of appearance.

    Without `price`, the list price of the arm's model applies. Where a list price depends on the
    length of the prompt, it is taken at the mean length.

    Args:
        turns: The result of `frame`.
        price: Cost of a request's usage in US dollars; also applied to built-in models.
        paths: The paths given to `frame`; by default the transcripts that the turns come from.
    """
    named = list(paths or map(Path, turns["path"].unique(maintain_order=True)))
    known = sessions(named)
    models = dict(known.select("path", "model_settings").iter_rows())
    since = known.select("path", "first_own_turn")
    own = _own_requests(turns.select("path", "turn", *_COLUMNS[1:]), "turn", since)
    beside = _own_requests(side_requests(named), "after_turn", since)
    return [
        _spending(
            str(experiment),
            str(arm),
            pl.concat([part.join(asked, on="path") for asked in (own, beside)]),
            _cost(models[part["path"][0]], price),
        )
        for (experiment, arm), part in turns.select("experiment", "arm", "path")
        .unique(maintain_order=True)
        .group_by("experiment", "arm", maintain_order=True)
    ]


def _own_requests(asked: pl.DataFrame, turn: str, since: pl.DataFrame) -> pl.DataFrame:
    """Return the requests that the sessions made themselves, if their tokens are known."""
    known = asked.join(since, on="path", maintain_order="left").drop_nulls("prompt")
    return known.filter(pl.col(turn) >= pl.col("first_own_turn")).select(_COLUMNS)


def _spending(
    experiment: str,
    arm: str,
    requests: pl.DataFrame,
    cost: Cost | None,
) -> Spending:
    asked = requests.with_columns(
        pl.when(prompt=0).then("counted").otherwise("prompt").fill_null(0).alias("prompt")
    )
    share = pl.when(pl.col("counted") > 0).then(pl.col("prefix") / pl.col("counted"))
    prefix = (share * pl.col("prompt")).sum()
    measured = pl.col("prompt").filter(pl.col("prefix").is_not_null()).sum()
    totals = asked.select(*map(pl.sum, _TOKENS), prefix=prefix, measured=measured)
    sums = totals.row(0, named=True)
    sums["prompt"] += sums["discarded_prompt"]
    sums["completion"] += sums["discarded_completion"]
    served = round(sums["prefix"]) if sums["measured"] else None
    prompt, cached, completion = sums["prompt"], sums["cached"], sums["completion"]
    rates = None if cost is None else _Rates.of(cost, round(prompt / max(asked.height, 1)))
    return Spending(
        experiment=experiment,
        arm=arm,
        requests=asked.height,
        prompt=prompt,
        cached=cached,
        reported=int(requests["prompt"].sum()),
        measured=sums["measured"],
        prefix=served,
        completion=completion,
        usd=rates.usd(prompt, 0, completion) if rates else None,
        usd_reported=rates.usd(prompt, cached, completion) if rates else None,
        usd_prefix=rates.usd(prompt, served, completion) if rates and served is not None else None,
    )


_COMPLETION_TOKENS = 10_000
"""Completion tokens in a price query; large, so that rounding does not matter."""


@dataclass(frozen=True, slots=True)
class _Rates:
    """US dollars per token: uncached prompt, cached prompt, completion."""

    fresh: float
    cached: float
    reply: float

    @classmethod
    def of(cls, cost: Cost, prompt: int) -> "_Rates":
        """Return the rates for requests with this number of prompt tokens."""
        size = max(prompt, 1)
        fresh = cost(Usage(size))
        return cls(
            fresh=fresh / size,
            cached=cost(Usage(size, size)) / size,
            reply=(cost(Usage(size, 0, _COMPLETION_TOKENS)) - fresh) / _COMPLETION_TOKENS,
        )

    def usd(self, prompt: int, cached: int, completion: int) -> float:
        """Return the cost of these tokens in US dollars."""
        return self.fresh * (prompt - cached) + self.cached * cached + self.reply * completion


def _cost(model_settings: str, price: Cost | None) -> Cost | None:
    """Return the price of a session's tokens; None if unknown, or if a built-in model played."""
    model = json.loads(model_settings)
    name, base_url = model.get("name"), model.get("base_url")
    if price is not None:
        return price
    if not isinstance(name, str) or not isinstance(base_url, str | None):
        return None
    return None if is_built_in(name, base_url) else list_price(name, base_url)
