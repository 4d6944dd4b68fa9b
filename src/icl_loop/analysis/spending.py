"""What saved sessions took: requests, tokens, money, and what a prompt cache could have saved."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis.cost_attribution import bought
from icl_loop.analysis.session_settings import sessions
from icl_loop.analysis.side_requests import side_requests
from icl_loop.core.messages import Usage
from icl_loop.models import is_built_in
from icl_loop.models.limits import Cost
from icl_loop.models.prices import list_price

_TOKENS = ("prompt", "cached", "completion", "reasoning")
_COLUMNS = ("path", "counted", "prefix", *_TOKENS)
"""What is known of a request."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What the sessions of one arm took, probes and notes included.

    What a branch shares with its parent was taken by the parent alone, and replies that were read
    again by their source.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        requests: How many were answered.
        prompt: Tokens of their prompts, as reported; as counted here where nothing was.
        cached: How many of these the endpoint said it had served from its cache.
        measured: How many of these belong to requests whose prefix was recorded; that of probes and
            of older sessions was not.
        prefix: How many of those formed an unbroken prefix of the request before, so that a cache of
            prefixes could serve them; None where none was recorded.
        completion: Tokens of the replies.
        usd: US dollars without a cache; None if no price is known.
        usd_reported: US dollars with what was reported as cached.
        usd_prefix: US dollars if every such prefix is served from a cache.
    """

    experiment: str
    arm: str
    requests: int
    prompt: int
    cached: int
    measured: int
    prefix: int | None
    completion: int
    usd: float | None
    usd_reported: float | None
    usd_prefix: float | None

    @property
    def prefix_share(self) -> float | None:
        """The share of what was measured that a cache of prefixes could serve."""
        return None if self.prefix is None or not self.measured else self.prefix / self.measured

    def fields(self) -> dict[str, Any]:
        """Return it as JSON; what is unknown is null."""
        named = asdict(self) | {"prefix_share": self.prefix_share}
        return {name: value for name, value in named.items() if name not in ("experiment", "arm")}


def spending(
    turns: pl.DataFrame,
    price: Cost | None = None,
    paths: Iterable[Path] | None = None,
) -> list[Spending]:
    """Return what every arm in a frame of turns took, in the order in which they appear.

    Prices are those of the model that was asked, at list price unless `price` is given. Where a price
    steps with the length of prompts, it is that of the mean request.

    Args:
        turns: What `frame` returns.
        price: US dollars for a million tokens, also of a model that costs nothing.
        paths: What `frame` was given; the transcripts that the turns name if None.
    """
    named = list(paths or map(Path, turns["path"].unique(maintain_order=True)))
    models = dict(sessions(named).select("path", "model_settings").iter_rows())
    since = bought(named)
    own = _bought(turns.select("path", "turn", *_COLUMNS[1:]), "turn", since)
    beside = _bought(side_requests(named), "after_turn", since)
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


def _bought(asked: pl.DataFrame, turn: str, since: pl.DataFrame) -> pl.DataFrame:
    """Return the requests that were made for the sessions themselves, by the turns they were in."""
    known = asked.join(since, on="path", maintain_order="left")
    return known.filter(pl.col(turn) >= pl.col("bought_from")).select(_COLUMNS)


def _spending(
    experiment: str,
    arm: str,
    requests: pl.DataFrame,
    cost: Cost | None,
) -> Spending:
    asked = requests.with_columns(
        pl.when(prompt=0).then("counted").otherwise("prompt").fill_null(0).alias("prompt")
    )
    prefix = (pl.col("prefix") / pl.col("counted") * pl.col("prompt")).sum()
    measured = pl.col("prompt").filter(pl.col("prefix").is_not_null()).sum()
    totals = asked.select(*map(pl.sum, _TOKENS), prefix=prefix, measured=measured)
    sums = totals.row(0, named=True)
    served = round(sums["prefix"]) if sums["measured"] else None
    prompt, cached, completion = sums["prompt"], sums["cached"], sums["completion"]
    rates = None if cost is None else _Rates.of(cost, round(prompt / max(asked.height, 1)))
    return Spending(
        experiment=experiment,
        arm=arm,
        requests=asked.height,
        prompt=prompt,
        cached=cached,
        measured=sums["measured"],
        prefix=served,
        completion=completion,
        usd=rates.usd(prompt, 0, completion) if rates else None,
        usd_reported=rates.usd(prompt, cached, completion) if rates else None,
        usd_prefix=rates.usd(prompt, served, completion) if rates and served is not None else None,
    )


_MANY = 10_000
"""Tokens of a reply for which a price is asked, so that rounding is nothing."""


@dataclass(frozen=True, slots=True)
class _Rates:
    """US dollars of a token: of the prompt, of the prompt from the cache, of the reply."""

    fresh: float
    cached: float
    reply: float

    @classmethod
    def of(cls, cost: Cost, prompt: int) -> "_Rates":
        """Return the rates of requests whose prompt has this many tokens."""
        size = max(prompt, 1)
        fresh = cost(Usage(size))
        return cls(
            fresh=fresh / size,
            cached=cost(Usage(size, size)) / size,
            reply=(cost(Usage(size, 0, _MANY)) - fresh) / _MANY,
        )

    def usd(self, prompt: int, cached: int, completion: int) -> float:
        """Return the US dollars of these tokens."""
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
