"""Validate tables of settings; an error names the file, the key, the value and the nearest choice."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    TypeAdapter,
    ValidationError,
)

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.names import check_file_name
from icl_loop.core.records import Verdicts
from icl_loop.core.validation_messages import key_path, requirement, shown_value
from icl_loop.core.web_addresses import check_web_address

T = TypeVar("T")

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
"""The configuration of tables of settings, in which unknown keys are errors."""
MAY_HOLD_SECRETS = frozenset({"base_url", "api_key_env", "headers", "headers_env", "params"})
"""Keys whose invalid values are not shown, because people put API keys there by mistake."""
SENSITIVE_HEADERS = "key|token|auth|secret|cookie|password|signature"
"""Matches names of headers and query parameters whose values are secret."""
SENSITIVE_PARAMS = "api_key|authorization|secret|password"
"""Matches names of request parameters whose values are secret, but not max_tokens."""


def validated(
    kind: type[T] | TypeAdapter[T], given: object, where: str, tables: object = None
) -> T:
    """Validate `given`, a table or value, and return it as a `kind`.

    Args:
        kind: A settings class or a type adapter.
        given: The table or value.
        where: Names the source in errors.
        tables: The settings class whose tables are searched for an unknown key; `kind` if None.

    Raises:
        InputError: It is not valid.
    """
    try:
        valid = (kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)).validate_python(
            given
        )
    except ValidationError as error:
        raise InputError(f"{where}{_first_problem(error, kind, tables or kind)}") from None
    for path, number in _unusual_numbers(given):
        what = "is too large" if isinstance(number, int) else "must be a finite number"
        key = key_path(path)
        raise InputError(f"{where}{f', {key}' if key else ''} = {shown_value(number)}: {what}")
    return valid


def _unusual_numbers(
    given: object, path: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], int | float]]:
    """Yield the numbers that a transcript cannot hold: of more than 64 bits, infinite, or NaN."""
    if isinstance(given, Mapping):
        for key, value in given.items():
            yield from _unusual_numbers(value, (*path, str(key)))
    elif isinstance(given, list | tuple):
        for place, value in enumerate(given):
            yield from _unusual_numbers(value, (*path, place))
    elif (isinstance(given, float) and not math.isfinite(given)) or (
        isinstance(given, int) and not -(2**63) <= given < 2**63
    ):
        yield path, given


def _first_problem(error: ValidationError, kind: object, tables: object) -> str:
    first = error.errors()[0]
    path, key = first["loc"], key_path(first["loc"])
    if first["type"] == "extra_forbidden":
        hint = _suggestion(kind, [str(part) for part in path], tables)
        return f", {key}: there is no such key; {hint}"
    if first["type"] == "missing":
        return f", {key}: this key is missing"
    is_whole_table = isinstance(first["input"], Mapping) and first["type"] == "value_error"
    hidden = is_whole_table or MAY_HOLD_SECRETS.intersection(path)
    value = "" if hidden else f" = {shown_value(first['input'])}"
    hint = next((hint for start, hint in _HINTS.items() if key.startswith(start)), "")
    if is_whole_table and key:  # such an error begins with a key of the table
        return f", {key}.{requirement(first)}{hint}"
    return f"{', ' + key if key else ''}{value}: {requirement(first)}{hint}"


_HINTS = {"answers.labels": """, as in answers.labels.7 = ["seven", "sept"]"""}
"""What to add to errors in tables of free keys, by the path of the table."""
_RENAMED = {"wording": "prompts"}
"""Keys of earlier versions."""


def _suggestion(kind: object, path: Sequence[str], tables: object) -> str:
    """Return which key was probably meant: the same key in another table, or a similar one."""
    key = path[-1]
    if key in _RENAMED:
        return f"it is now {_RENAMED[key]!r}"
    for table in keys(tables):
        if key in keys(tables, [table]):
            return f"did you mean '{table}.{key}'?"
    return nearest(key, keys(kind, path[:-1]))


def keys(kind: object, path: Sequence[str] = ()) -> list[str]:
    """Return the keys of the table at `path` below a settings class."""
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            annotation = kind.model_fields[part].annotation
            kind = next(iter(get_args(annotation)), annotation)  # the table of `Table | None`
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def one_of(choices: Sequence[str] | Mapping[str, object]) -> BeforeValidator:
    """Return a validator that accepts these names."""

    def check(value: object) -> object:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(nearest(str(value), choices))
        return value

    return BeforeValidator(check)


def told_first(verdicts: list[Verdicts]) -> list[Verdicts]:
    """Return the verdicts of probes in the order of `Verdicts`; those told must be among them."""
    if "told" not in verdicts or len(set(verdicts)) < len(verdicts):
        raise ValueError("must list 'told', with which the others are compared, and each only once")
    return [each for each in get_args(Verdicts) if each in verdicts]


def _tokens_or_auto(value: object) -> object:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not is_count and value != "auto":
        raise ValueError("must be a number of tokens of at least 1, or 'auto'")
    return value


tokens_or_auto = BeforeValidator(_tokens_or_auto)
"""Accepts a number of tokens, or `auto`."""


@contextmanager
def translated_errors(prefix: str = "") -> Iterator[None]:
    """Turn an InputError into the ValueError that pydantic expects of a validator."""
    try:
        yield
    except InputError as error:
        raise ValueError(f"{prefix}{error}") from None


def checked_by(check: Callable[[str], object]) -> AfterValidator:
    """Return a validator that accepts the strings for which `check` raises no InputError."""

    def run(value: str) -> str:
        with translated_errors():
            check(value)
        return value

    return AfterValidator(run)


def matching(pattern: str, message: str) -> AfterValidator:
    """Return a validator that accepts strings that match `pattern`, and else says `message`."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


def file_name(marks: str, what: str) -> AfterValidator:
    """Return a validator of names of files on any system: letters, digits and `marks`."""

    def check(value: str) -> str:
        if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9{marks}]{{0,99}}", value):
            raise ValueError(
                f"must be usable as a file name: at most 100 letters, digits, {what}, starting with a"
                " letter or digit"
            )
        with translated_errors():
            return check_file_name(value)

    return AfterValidator(check)


def without_secrets(pattern: str, key: str) -> AfterValidator:
    """Return a validator of tables in which no name may match `pattern`; `key` is what to set instead.

    The pattern is searched for in lower-case names with underscores for hyphens.
    """

    def check(table: dict[str, Any]) -> dict[str, Any]:
        for name, value in table.items():
            if re.search(pattern, name.lower().replace("-", "_")):
                raise ValueError(
                    f"{name!r} looks like a secret; name an environment variable in {key}"
                )
            if isinstance(value, dict):
                check(value)
        return table

    return AfterValidator(check)


def web_address(value: str | None) -> str | None:
    """Return `value`, which must be an http or https address without secrets."""
    if value is None:
        return None
    check_web_address(value)
    for name, _ in parse_qsl(urlsplit(value).query, keep_blank_values=True):
        if re.search(SENSITIVE_HEADERS, name.lower()):
            raise ValueError(
                "must not contain a key in its query; name an environment variable in headers_env"
            )
    return value
