"""Error responses: what they mean, what they say and when to retry."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from icl_loop.core.errors import ContextOverflow, ModelError, ModelUnavailable, RequestRefused

RETRYABLE = frozenset((408, 409, 429))
"""HTTP statuses below 500 after which a retry may succeed."""
_NO_QUOTA = "insufficient_quota"
"""OpenAI's code for an account without credit, which comes with the retryable status 429."""
_OVERFLOW_STATUSES = frozenset((400, 413, 422, 500))
_OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size"
    r"|maximum (?:context|model|sequence) length|max_model_len"
    r"|exceeds? (?:the )?(?:available |model's |maximum )*context (?:size|length|window)"
    r"|(?:prompt|input|request) (?:is )?too long"
    r"|longer than the (?:maximum )?(?:model|context)",
    re.IGNORECASE,
)
"""How OpenAI, vLLM, llama.cpp, Ollama and similar servers report a request that is too long."""


def classify(status: int, text: str) -> type[ModelError]:
    """Return the exception for an HTTP status with `text` as the error's code and message."""
    if status in _OVERFLOW_STATUSES and _OVERFLOW.search(text):
        return ContextOverflow
    if _NO_QUOTA not in text and (status in RETRYABLE or status >= 500):
        return ModelUnavailable
    return RequestRefused


def parse_error(content: bytes) -> tuple[str, str]:
    """Return the code (and type) and the message of an error body, in any of the usual shapes."""
    text = content[:2000].decode("utf-8", "replace")
    try:
        body: Any = json.loads(content)
    except (ValueError, RecursionError):
        return "", _one_line(text) or "(empty body)"
    for _ in range(2):
        if isinstance(body, list) and body:
            body = body[0]
        if isinstance(body, dict) and isinstance(body.get("error"), dict | str):
            body = body["error"]
    if not isinstance(body, dict):
        return "", _one_line(str(body))
    code = " ".join(str(body[key]) for key in ("code", "type") if body.get(key))
    return code, _one_line(str(body.get("message") or body.get("detail") or text))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the server asks to wait before a retry, or None."""
    if milliseconds := headers.get("retry-after-ms"):
        return parse_duration(f"{milliseconds}ms")
    if value := headers.get("retry-after"):
        seconds = parse_duration(value)
        return _seconds_until(value, headers.get("date", "")) if seconds is None else seconds
    resets = [reset_after(headers, kind) for kind in ("requests", "tokens")]
    return max((reset for reset in resets if reset is not None), default=None)


def reset_after(headers: Mapping[str, str], kind: str) -> float | None:
    """Return the seconds until the limit of `requests` or `tokens` is reset, or None."""
    return parse_duration(headers.get(f"x-ratelimit-reset-{kind}", ""))


def _seconds_until(date: str, now: str) -> float | None:
    """Return the seconds until an HTTP date, by the server's own clock if it sends one."""
    then = _parse_date(date)
    if then is None:
        return None
    return max(0.0, (then - (_parse_date(now) or datetime.now(UTC))).total_seconds())


def _parse_date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC)  # HTTP dates are always in UTC
    except (ValueError, OverflowError):
        return None


_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "": 1.0}


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration such as `6m0s`, `1.5s`, `20ms` or `3`, or None."""
    pieces = re.findall(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[dhms]|$)", text)
    if not pieces or "".join(map("".join, pieces)) != text:
        return None
    return sum(float(amount) * _UNITS[unit] for amount, unit in pieces)
