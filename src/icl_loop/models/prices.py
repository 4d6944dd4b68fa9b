"""What tokens cost: list prices, or prices of one's own."""

from collections.abc import Callable
from dataclasses import dataclass

import genai_prices

from icl_loop.messages import Usage
from icl_loop.models.limits import Cost


@dataclass(frozen=True, slots=True)
class OwnPrice:
    """US dollars for a million tokens of prompt, of reply, and of prompt from the cache."""

    input: float
    output: float
    cached: float

    def __call__(self, usage: Usage) -> float:
        """Return the US dollars of these tokens."""
        fresh = usage.prompt - usage.cached
        dollars = fresh * self.input + usage.cached * self.cached + usage.completion * self.output
        return dollars / 1e6


@dataclass(frozen=True, slots=True)
class ListPrice:
    """The price that the `genai-prices` package lists for a model of a provider."""

    model: str
    base_url: str | None

    def __call__(self, usage: Usage) -> float:
        """Return the US dollars of these tokens.

        Raises:
            LookupError: The package does not know the model or the provider.
        """
        tokens = genai_prices.Usage(
            input_tokens=usage.prompt,
            cache_read_tokens=usage.cached,
            output_tokens=usage.completion,
        )
        if self.base_url is None:
            found = genai_prices.calc_price(tokens, self.model, provider_id="openai")
        else:
            found = genai_prices.calc_price(tokens, self.model, provider_api_url=self.base_url)
        return float(found.total_price)


def list_price(model: str, base_url: str | None) -> Cost | None:
    """Return the list price of a model at an endpoint, or None if there is none."""
    price: Callable[[Usage], float] = ListPrice(model, base_url)
    try:
        price(Usage(prompt=1, completion=1))
    except LookupError:
        return None
    return price
