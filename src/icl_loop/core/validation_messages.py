"""Plain-English messages for pydantic's validation errors."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_MAX_LENGTH = 80
"""Longest value that a message shows in full."""
_REQUIREMENTS: Mapping[str, str] = {
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    "finite_number": "must be a finite number",
    "int_parsing_size": "is too large",
    **dict.fromkeys(("string_type", "string_unicode"), "must be a string"),
    "bool_type": "must be true or false",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a table"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries, has {actual_length}",
    "too_long": "must have at most {max_length} entries, has {actual_length}",
    "literal_error": "must be {expected}",
    "none_required": "must be omitted",
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "union_tag_invalid": "must have one of the types {expected_tags}, has {tag}",
    "union_tag_not_found": "must have a type",
    "json_invalid": "is not valid JSON",
}
"""Messages by pydantic's type of error."""


def requirement(error: ErrorDetails) -> str:
    """Return what a wrong value must be, such as `must be at least 1`."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    template = _REQUIREMENTS.get(error["type"], "is not allowed here")
    return template.format_map(
        {name: _formatted(value) for name, value in error.get("ctx", {}).items()}
    )


def _formatted(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def key_path(path: Sequence[int | str]) -> str:
    """Return the path of a value in its file.

    >>> key_path(("probes", "at", 0))
    'probes.at[0]'
    """
    named = [part for part in path if part != "[key]"]  # which stands for the name, not the value
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in named)
    return "".join(parts).removeprefix(".")


def shown_value(value: object) -> str:
    """Return a value as TOML writes it, shortened to 80 characters; "a table" for a table."""
    if isinstance(value, Mapping):
        return "a table"
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except ValueError:  # Python does not write integers of more than 4,300 digits
        return "a very long number"
    text = str(value) if text.startswith("datetime.") else text
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]} …"


def first_problem(error: ValidationError) -> str:
    """Return the path of the first wrong value and what it must be."""
    first = error.errors()[0]
    return f"{key_path(first['loc']) or 'the value'} {requirement(first)}"
