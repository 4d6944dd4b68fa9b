"""Token counts of a response, under the names that providers give them."""

from collections.abc import Mapping
from typing import Any

from icl_loop.core.messages import Usage

LARGEST_COUNT = 2**40
"""Larger counts are ignored as errors: no request takes a trillion tokens."""
_PARTS_OF_PROMPT = (
    ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),  # Anthropic
    ("prompt_cache_hit_tokens", "prompt_cache_miss_tokens"),  # DeepSeek
)
"""Fields whose sum is the prompt, if it is not given as one number."""


def parse_usage(body: Mapping[str, Any]) -> Usage:
    """Return the tokens that a response body reports; counts that are missing or odd become 0.

    Some providers leave the cached tokens out of the prompt, or the reasoning out of the
    completion. Both are added where the numbers show it.
    """
    usage, timings = _table(body, "usage"), _table(body, "timings")  # timings: llama.cpp
    sums = (sum(_count(usage, name) for name in parts) for parts in _PARTS_OF_PROMPT)
    prompt = _count(usage, "prompt_tokens") or next(filter(None, sums), 0)
    prompt = prompt or _count(timings, "prompt_n") + _count(timings, "cache_n")
    cached = max(
        _count(_table(usage, "prompt_tokens_details"), "cached_tokens"),
        _count(_table(usage, "input_tokens_details"), "cached_tokens"),
        _count(usage, "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"),
        _count(timings, "cache_n"),
    )
    if cached > prompt:
        prompt += cached
    completion = _count(usage, "completion_tokens", "output_tokens")
    completion = max(
        completion or _count(timings, "predicted_n"), _count(usage, "total_tokens") - prompt
    )
    reasoning = max(
        _count(_table(usage, "completion_tokens_details"), "reasoning_tokens"),
        _count(_table(usage, "output_tokens_details"), "reasoning_tokens"),
        _count(usage, "reasoning_tokens"),
    )
    if reasoning > completion:
        completion += reasoning
    return Usage(prompt=prompt, cached=cached, completion=completion, reasoning=reasoning)


def _table(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _count(fields: Mapping[str, Any], *names: str) -> int:
    """Return the first positive count among these fields, or 0."""
    for name in names:
        try:
            count = int(float(fields.get(name) or 0))
        except (TypeError, ValueError, OverflowError):  # not a number, or not a finite one
            continue
        if 0 < count < LARGEST_COUNT:
            return count
    return 0
