"""The settings of a run that transcripts do not record."""

from pydantic import BaseModel, Field

from icl_loop.core.messages import Usage
from icl_loop.experiment.validation import STRICT

MOST_SECONDS = 1e7
"""The longest time that clocks of all systems can wait for: 115 days."""
MOST_USD = 1e6
"""The highest price of a million tokens; a higher one is a typing error."""


class LimitSettings(BaseModel):
    """`[limits]`: how fast and how patiently endpoints are called; not recorded in transcripts."""

    model_config = STRICT

    requests_per_minute: float | None = Field(default=None, ge=1e-3, le=1e9)
    """Most requests per minute to each endpoint; unlimited if omitted."""
    tokens_per_minute: float | None = Field(default=None, ge=1e-3, le=1e12)
    """Most prompt tokens per minute to each endpoint; unlimited if omitted."""
    timeout_s: float = Field(default=600.0, gt=0, le=MOST_SECONDS)
    """Seconds to wait for a reply."""
    allowance_s: float = Field(default=600.0, gt=0, le=MOST_SECONDS)
    """Seconds for all attempts at one request together."""


class PriceSettings(BaseModel):
    """`[price]`: prices of the model in US dollars, in place of list prices."""

    model_config = STRICT

    input: float = Field(ge=0, le=MOST_USD)
    """Dollars per million prompt tokens."""
    output: float = Field(ge=0, le=MOST_USD)
    """Dollars per million completion tokens."""
    cached: float | None = Field(default=None, ge=0, le=MOST_USD)
    """Dollars per million prompt tokens served from the provider's cache; `input` if omitted."""

    def __call__(self, usage: Usage) -> float:
        """Return the cost of these tokens in US dollars."""
        cached = self.input if self.cached is None else self.cached
        fresh = usage.prompt - usage.cached + usage.discarded_prompt
        completion = usage.completion + usage.discarded_completion
        return (fresh * self.input + usage.cached * cached + completion * self.output) / 1e6
