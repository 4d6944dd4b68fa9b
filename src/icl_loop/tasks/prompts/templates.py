"""Templates: sentences with {placeholders}, filled for a model and matched by a learner."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, Field

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_VALUES = {
    **dict.fromkeys(("label", "labels", "answer", "reason"), "[^\n]+?"),
    **dict.fromkeys(("size", "ago", "tokens", "every"), "[0-9]{1,9}"),
}
"""What a placeholder can stand for; anything if it is not listed."""


def fill(template: str, **values: str) -> str:
    """Replace each {name} by its value in one pass, so a value is never read as a template."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def match(template: str, text: str) -> dict[str, str] | None:
    """Return the values with which `fill` turns `template` into `text`, or None if it cannot."""
    found = _pattern(template).fullmatch(text)
    return found.groupdict() if found else None


def first_line(template: str) -> str:
    """Return the first line of a template that has words beside placeholders, or ""."""
    lines = template.splitlines()
    return next((line for line in lines if re.search(r"\w", _PLACEHOLDER.sub("", line))), "")


def has_words(template: str) -> bool:
    """Return whether a template has letters or digits besides its placeholders."""
    return any(map(str.isalnum, _PLACEHOLDER.sub("", template)))


def has_sentences(template: str, text: str) -> bool:
    """Return whether `text` has all that a template says between its placeholders."""
    return all(part in text for part in _PLACEHOLDER.split(template)[::2])


@lru_cache(1_024)
def _pattern(template: str) -> re.Pattern[str]:
    """Return a pattern with one group for each placeholder."""
    texts, names = _PLACEHOLDER.split(template)[::2], _PLACEHOLDER.findall(template)
    pattern = re.escape(texts[0])
    for index, name in enumerate(names):
        repeated = name in names[:index]
        pattern += f"(?P={name})" if repeated else f"(?P<{name}>{_VALUES.get(name, '.*?')})"
        pattern += re.escape(texts[index + 1])
    return re.compile(pattern, re.DOTALL)


def with_placeholders(*names: str, optional: str = "") -> AfterValidator:
    """Return a validator for templates with these placeholders once each, and any of `optional`."""

    def check(template: str) -> str:
        found = [name for name in _PLACEHOLDER.findall(template) if name != optional]
        if sorted(found) != sorted(names):
            wanted = f"no placeholder but {{{optional}}}" if optional else _listed(names)
            raise ValueError(f"must contain {wanted}, but contains {_listed(found)}")
        return template

    return AfterValidator(check)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"{{{name}}} once" for name in names) or "no placeholder"


Sentence = Annotated[str, with_placeholders()]
OptionalSentence = Annotated[str, Field(min_length=0), with_placeholders()]
LabelTemplate = Annotated[str, with_placeholders("label")]
AgoTemplate = Annotated[str, with_placeholders("ago")]
