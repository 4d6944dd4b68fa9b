"""The settings of a run that transcripts do not record."""

from pydantic import BaseModel, Field

from icl_loop.core.messages import Usage
from icl_loop.experiment.validation import STRICT


class LimitSettings(BaseModel):
    """`[limits]`: how fast and how patiently endpoints are called; not recorded in transcripts."""

    model_config = STRICT

    requests_per_minute: float | None = Field(default=None, gt=0)
    """Most requests per minute to each endpoint; unlimited if omitted."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Most prompt tokens per minute to each endpoint; unlimited if omitted."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds to wait for a reply."""
    allowance_s: float = Field(default=600.0, gt=0)
    """Seconds for all attempts at one request together."""


class PriceSettings(BaseModel):
    """`[price]`: prices of the model in US dollars, in place of list prices."""

    model_config = STRICT

    input: float = Field(ge=0)
    """Dollars per million prompt tokens."""
    output: float = Field(ge=0)
    """Dollars per million completion tokens."""
    cached: float | None = Field(default=None, ge=0)
    """Dollars per million prompt tokens served from the provider's cache; `input` if omitted."""

    def __call__(self, usage: Usage) -> float:
        """Return the cost of these tokens in US dollars."""
        cached = self.input if self.cached is None else self.cached
        fresh = usage.prompt - usage.cached + usage.discarded_prompt
        completion = usage.completion + usage.discarded_completion
        return (fresh * self.input + usage.cached * cached + completion * self.output) / 1e6
