"""What an endpoint says instead of a reply: why, and when to ask again."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size"
    r"|maximum (?:context|model|sequence) length|max_model_len"
    r"|exceeds? (?:the )?(?:available |model's |maximum )*context (?:size|length|window)"
    r"|(?:prompt|input|request) (?:is )?too long|longer than the (?:maximum )?(?:model|context)",
    re.IGNORECASE,
)
"""How OpenAI, vLLM, llama.cpp, Ollama and their like say that a request is too long."""


def error_in(content: bytes) -> tuple[str, str]:
    """Return code and message of an error body, whatever shape the endpoint gives it."""
    text = content[:2000].decode("utf-8", "replace")
    try:
        body: Any = json.loads(content)
    except (ValueError, RecursionError):
        return "", in_one_line(text) or "(no body)"
    for _ in range(2):
        if isinstance(body, list) and body:
            body = body[0]
        if isinstance(body, dict) and isinstance(body.get("error"), dict | str):
            body = body["error"]
    if isinstance(body, dict):
        code = " ".join(str(body[key]) for key in ("code", "type") if body.get(key))
        first = str(body.get("code") or "")
        message = body.get("message") or body.get("detail") or text
        return first if first == "insufficient_quota" else code, in_one_line(str(message))
    return "", in_one_line(str(body))


def in_one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the endpoint asks to wait, by whichever header it says so."""
    if (value := headers.get("retry-after-ms")) and _number(value) is not None:
        return float(value) / 1000
    if value := headers.get("retry-after"):
        seconds = _number(value)
        return _until(value, headers.get("date")) if seconds is None else seconds
    resets = [
        duration_of(headers.get(f"x-ratelimit-reset-{kind}")) for kind in ("requests", "tokens")
    ]
    return max((reset for reset in resets if reset is not None), default=None)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text.strip()) else None


def _until(date: str, now: str | None) -> float | None:
    """Return the seconds until an HTTP date, by the endpoint's own clock where it tells it."""
    then, told = _date(date), _date(now or "")
    if then is None:
        return None
    return max(0.0, (then - (told or datetime.now(UTC))).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def duration_of(text: str | None) -> float | None:
    """Return the seconds of a duration such as `6m0s`, `1.5s` or `20ms`, or of a bare number."""
    if not text:
        return None
    pieces = re.findall(r"(\d{1,9}(?:\.\d{1,9})?)(ms|[dhms])", text)
    if "".join(map("".join, pieces)) != text.strip():
        return _number(text)
    return sum(float(amount) * _UNITS[unit] for amount, unit in pieces)
