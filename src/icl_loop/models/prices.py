"""Prices of tokens: list prices, or the user's own."""

from functools import lru_cache

import genai_prices
from genai_prices.data_snapshot import get_snapshot

from icl_loop.core.messages import Usage
from icl_loop.models import is_built_in
from icl_loop.models.limits import Cost


def free(_: Usage) -> float:
    """Return 0, the price of a model that runs in this process."""
    return 0.0


def cost_of(name: str, base_url: str | None, price: Cost | None = None) -> Cost | None:
    """Return the price of a model: 0 if built in, else `price`, else the list price if known."""
    if is_built_in(name, base_url):
        return free
    return price or list_price(name, base_url)


@lru_cache(64)
def list_price(model: str, base_url: str | None) -> Cost | None:
    """Return the price that `genai-prices` lists for a model at an endpoint, or None if unknown."""

    def cost(usage: Usage) -> float:
        tokens = genai_prices.Usage(
            input_tokens=usage.prompt + usage.discarded_prompt,
            cache_read_tokens=usage.cached,
            output_tokens=usage.completion + usage.discarded_completion,
        )
        if base_url is None:
            price = genai_prices.calc_price(tokens, model, provider_id="openai")
        else:
            price = genai_prices.calc_price(tokens, model, provider_api_url=base_url)
        return float(price.total_price)

    try:
        cost(Usage(prompt=1, completion=1))
    except LookupError:
        return None
    return cost


def listed_window(model: str, base_url: str) -> int | None:
    """Return the context window that `genai-prices` lists for a model at an endpoint, or None."""
    try:
        _, listed = get_snapshot().find_provider_model(model, None, None, base_url)
    except LookupError:
        return None
    return listed.context_window
