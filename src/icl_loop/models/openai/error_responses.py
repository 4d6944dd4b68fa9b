"""Error responses: what they mean, what they say and when to retry."""

import html
import json
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Literal

from icl_loop.core.errors import ContextOverflow, ModelError, ModelUnavailable, RequestRefused
from icl_loop.models.openai.error_kinds import KINDS, STATUS_OF_CODES, KindName

RETRYABLE = frozenset((408, 409, 424, 425, 429, 498, 499))
"""HTTP statuses below 500 after which a retry may succeed.

424 is a generation that failed (TGI, Bedrock), 498 a lack of capacity (Groq), 499 a cancellation (Google).
"""
_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
_MULTIPLE = HTTPStatus.MULTIPLE_CHOICES
"""The first status that is no success."""
_CODES = frozenset(
    ("code", "type", "status", "error_type", "error_code", "status_code", "reason", "name")
)
"""Keys of an error body whose values are codes."""
_MESSAGES = frozenset(
    ("message", "msg", "detail", "details", "error", "errors", "error_message", "error_msg")
).union(("status_msg", "reasons", "raw", "body", "title", "metadata", "innererror", "base_resp"))
"""Keys of an error body whose values are messages, or contain further errors."""
_WAITS = frozenset(("retryDelay", "retry_after", "retryAfter", "estimated_time")).union(
    ("retry_after_seconds", "retryAfterSeconds")
)
"""Keys of an error body whose values are seconds to wait."""
_MAX_PARTS = 200
"""Most tables, lists and strings of an error body that are read."""
_MAX_TEXT = 2_000
"""Most characters of a message that are read."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a response without a usable reply means.

    Attributes:
        status: Its HTTP status, or the one that its body names if it came as a success.
        message: What the endpoint says, or the title of the web page that answered.
        kind: The kind of error, if the table of kinds has it.
        is_page: Whether a web page answered.
        is_api: Whether the body reports an error as an API does.
        wait_s: The seconds that the endpoint asks to wait before a retry.
    """

    status: int
    message: str
    kind: KindName | None = None
    is_page: bool = False
    is_api: bool = False
    wait_s: float | None = None

    @property
    def error(self) -> type[ModelError]:
        """The exception to raise."""
        if self.kind == "overflow":
            return ContextOverflow
        if self.kind in ("loading", "rate_limit") or (self.kind is None and _may_pass(self.status)):
            return ModelUnavailable
        return RequestRefused

    @property
    def reached(self) -> bool:
        """Whether an endpoint reported the failure, rather than a page at a wrong address."""
        busy = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
        return self.is_api or self.wait_s is not None or self.status in busy


def describe(failure: Failure, status: int) -> str:
    """Return what the endpoint answered with this HTTP status, as a predicate."""
    if failure.is_page:
        titled = f" titled {failure.message[:80]!r}" if failure.message else ""
        return f"answered {status} with a web page{titled}"
    if failure.status != status:
        return f"reported error {failure.status}: {failure.message}"
    if status < _MULTIPLE:
        return f"reported an error: {failure.message}"
    return f"answered {status}: {failure.message}"


def _may_pass(status: int) -> bool:
    """Return whether a retry may succeed after a failure with this status."""
    if status == HTTPStatus.NOT_IMPLEMENTED:
        return False
    return status in RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status < _MULTIPLE


def parse_failure(status: int, headers: Mapping[str, str], content: bytes) -> Failure:
    """Return what a response without a usable reply means."""
    text = content[:_MAX_TEXT].decode("utf-8", "replace")
    wait_s = retry_after(headers, limited=status == HTTPStatus.TOO_MANY_REQUESTS)
    if "html" in headers.get("content-type", "") or _PAGE.match(text):
        title = _TITLE.search(text)
        said = _one_line(html.unescape(title[1])) if title else ""
        kind = _kind(status, (), "")
        return Failure(status, said, kind, is_page=True, wait_s=wait_s)
    facts = list(_facts(content))
    codes = [part for kind, fact in facts if kind == "code" for part in _code_names(fact)]
    messages = dict.fromkeys(_one_line(fact) for kind, fact in facts if kind == "message")
    said = ": ".join(filter(None, messages))[:_MAX_TEXT] or _one_line(text) or "(empty body)"
    if status < _MULTIPLE:
        status = _embedded_status(codes) or status
    if wait_s is None:
        waits = (parse_duration(fact) for kind, fact in facts if kind == "wait")
        wait_s = next(filter(None, waits), None) or _wait_in(said)
    kind = _kind(status, codes, said)
    return Failure(status, said, kind, is_api=bool(messages or kind), wait_s=wait_s)


def _kind(status: int, codes: Collection[str], message: str) -> KindName | None:
    if _exceeds_limit(message):
        return "overflow"
    kind = next((kind.name for kind in KINDS if kind.matches(codes, message)), None)
    if kind in ("filter", "overflow", "quota"):
        return kind
    if status == _TOO_LARGE:
        return "overflow"
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return "quota"
    if kind in ("path", "model") and status >= _MULTIPLE and _may_pass(status):
        return None
    return None if status == HTTPStatus.UNAUTHORIZED else kind


def _exceeds_limit(message: str) -> bool:
    """Return whether a request alone is larger than the limit that the message tells."""
    told = re.search(r"limit:? ?([\d,]+)\b.{0,60}\brequested:? ?([\d,]+)", message, re.IGNORECASE)
    limit, requested = (
        (int(each.replace(",", "") or 0) for each in told.groups()) if told else (0, 0)
    )
    return requested > limit > 0


def _code_names(code: str) -> Iterator[str]:
    """Yield a code in lower case, and the parts of one with several parts."""
    yield code.casefold()
    yield from re.split(r"[.#:]", code.casefold())


def _embedded_status(codes: Collection[str]) -> int | None:
    """Return the HTTP status that a body names or that its codes stand for."""
    for code in codes:
        if re.fullmatch(r"[45]\d\d", code):
            return int(code)
    return next((STATUS_OF_CODES[code] for code in codes if code in STATUS_OF_CODES), None)


_Fact = tuple[Literal["code", "message", "wait"], str]


def _facts(content: bytes) -> Iterator[_Fact]:
    """Yield the codes, messages and waits in an error body, outer errors first.

    Providers nest the errors of servers behind them, some as JSON within a string.
    """
    parts = deque([_decoded(content)])
    for _ in range(_MAX_PARTS):
        match parts.popleft() if parts else None:
            case list() as several:
                parts.extend(several)
            case str() as text:
                nested = _decoded(text) if text.lstrip()[:1] in ("{", "[") else None
                if nested is None:
                    yield "message", text
                parts.append(nested)
            case {"loc": list() as place, "msg": str() as text}:
                yield "message", f"{'.'.join(map(str, place))}: {text}"
            case dict() as table:
                yield from _own_facts(table)
                parts.extend(value for key, value in table.items() if key in _MESSAGES)
                if isinstance(choices := table.get("choices"), list):
                    parts.extend(each.get("error") for each in choices if isinstance(each, dict))


def _own_facts(table: Mapping[str, Any]) -> Iterator[_Fact]:
    """Yield the codes and waits of one error."""
    for key, value in table.items():
        if key in _CODES and isinstance(value, str | int):
            yield "code", str(value)
        elif key in _WAITS and isinstance(value, str | int | float):
            yield "wait", str(value)


def _decoded(content: bytes | str) -> Any:  # noqa: ANN401  any JSON
    """Return JSON, or None if it is not valid or is a string or number."""
    try:
        if isinstance(content, bytes):
            content = content.decode(json.detect_encoding(content), "replace")
        found = json.loads(content, strict=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


_PAGE = re.compile(r"\s*<(?:!doctype )?html", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def retry_after(headers: Mapping[str, str], *, limited: bool = True) -> float | None:
    """Return the seconds that the server asks to wait before a retry, or None.

    The reset of a used-up limit counts only if the request was `limited`.
    """
    if milliseconds := headers.get("retry-after-ms"):
        return parse_duration(f"{milliseconds}ms")
    if value := headers.get("retry-after"):
        seconds = parse_duration(value)
        return _seconds_until(value, headers.get("date", "")) if seconds is None else seconds
    resets = [
        reset_after(headers, kind)
        for kind in ("requests", "tokens")
        if limited and headers.get(f"x-ratelimit-remaining-{kind}", "0") == "0"
    ]
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


_WAIT = re.compile(
    r"(?:try again|retry|wait|resets?)(?: (?:in|after|for|about|at least))* "
    r"((?:\d{1,9}(?:\.\d{1,9})? ?(?:ms|milli\w*|[dhms]|days?|hours?|min\w*|sec\w*)(?![a-z]) ?)+)",
    re.IGNORECASE,
)


def _wait_in(message: str) -> float | None:
    """Return the seconds that a message such as `Please try again in 1 minute` asks to wait."""
    if (told := _WAIT.search(message)) is None:
        return None
    short = re.sub(r"(milli|[dhms])[a-z]*", _unit, told[1].lower())
    return parse_duration(short.replace(" ", ""))


def _unit(word: re.Match[str]) -> str:
    return "ms" if word[0] == "ms" or word[1] == "milli" else word[1]
