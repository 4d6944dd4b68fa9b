"""Error responses: what they mean, what they say and when to retry."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from icl_loop.core.errors import ContextOverflow, ModelError, ModelUnavailable, RequestRefused


@dataclass(frozen=True, slots=True)
class Wording:
    """What servers write when a request fails for one particular reason.

    Attributes:
        pattern: Matches the error's code, type or message.
        error: The exception it stands for.
        statuses: The HTTP statuses it comes with, or None for any.
        hint: What to check.
    """

    pattern: re.Pattern[str]
    error: type[ModelError]
    statuses: frozenset[int] | None = None
    hint: str = ""


WORDINGS = (
    Wording(
        re.compile(
            r"context_length_exceeded|exceed_context_size"
            r"|maximum (?:context|model|sequence) length|max_model_len"
            r"|exceeds? (?:the )?(?:available |model's |maximum )*context (?:size|length|window)"
            r"|(?:prompt|input|request) (?:is )?too long"
            r"|longer than the (?:maximum )?(?:model|context)",
            re.IGNORECASE,
        ),
        ContextOverflow,
        statuses=frozenset((400, 413, 422, 500)),
    ),
    Wording(
        re.compile(r"\binsufficient_quota\b"),
        RequestRefused,
        hint="check the plan and the billing of the account",
    ),
)
"""The wordings of OpenAI, vLLM, llama.cpp, Ollama and similar servers; the first match counts."""

RETRYABLE = frozenset((408, 409, 429))
"""HTTP statuses below 500 after which a retry may succeed."""


def classify(status: int, text: str) -> tuple[type[ModelError], str]:
    """Return the exception that an error response stands for, and a hint at what to check.

    Args:
        status: HTTP status.
        text: Code and message of the error.
    """
    for each in WORDINGS:
        if (each.statuses is None or status in each.statuses) and each.pattern.search(text):
            return each.error, each.hint
    retryable = status in RETRYABLE or status >= 500
    return (ModelUnavailable if retryable else RequestRefused), ""


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
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    if value := headers.get("retry-after"):
        seconds = _number(value)
        return _seconds_until(value, headers.get("date", "")) if seconds is None else seconds
    resets = [
        parse_duration(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in ("requests", "tokens")
    ]
    return max((reset for reset in resets if reset is not None), default=None)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text.strip()) else None


def _seconds_until(date: str, now: str) -> float | None:
    """Return the seconds until an HTTP date, by the server's own clock if it sends one."""
    then = _parse_date(date)
    if then is None:
        return None
    return max(0.0, (then - (_parse_date(now) or datetime.now(UTC))).total_seconds())


def _parse_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration such as `6m0s`, `1.5s`, `20ms` or `3`, or None."""
    pieces = re.findall(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[dhms])", text)
    if not pieces or "".join(map("".join, pieces)) != text.strip():
        return _number(text)
    return sum(float(amount) * _UNITS[unit] for amount, unit in pieces)
