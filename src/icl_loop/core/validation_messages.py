"""What a value must be, in words of our own, where a table or a line does not hold it."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_LONGEST = 80
"""Most characters of a wrong value that are repeated."""
_MUST: Mapping[str, str] = {
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    "int_parsing_size": "is too large a number",
    "string_type": "must be a text",
    "string_unicode": "must be a text",
    "bool_type": "must be true or false",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a table"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries, and has {actual_length}",
    "too_long": "must have at most {max_length} entries, and has {actual_length}",
    "literal_error": "must be {expected}",
    "none_required": "must be left out",
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "union_tag_invalid": "must be of the type {expected_tags}, and is of {tag}",
    "union_tag_not_found": "must say of which type it is",
    "json_invalid": "is no JSON",
}
"""By the type of the complaint; in braces what its bounds are."""


def must(error: ErrorDetails) -> str:
    """Return what the value that a complaint is about must be, and is not."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    words = _MUST.get(error["type"], "is nothing that can stand here")
    return words.format_map({name: _bound(each) for name, each in error.get("ctx", {}).items()})


def _bound(value: object) -> str:
    """Return a bound as a person writes it."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def place(path: Sequence[int | str]) -> str:
    """Return where a value stands, as a person would point to it.

    >>> place(("probes", "at", 0))
    'probes.at[0]'
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def written(value: object) -> str:
    """Return a wrong value as a file would say it, no longer than need be; a table is called one."""
    if isinstance(value, Mapping):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    text = str(value) if text.startswith("datetime.") else text
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def complaint(error: ValidationError) -> str:
    """Return where the first thing that is wrong stands, and what it must be."""
    first = error.errors()[0]
    return f"{place(first['loc']) or 'all of it'} {must(first)}"
