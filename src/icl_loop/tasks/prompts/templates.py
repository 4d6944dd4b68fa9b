"""Templates: sentences with {placeholders}, filled for a model and matched by a learner."""

import re
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, Field

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_VALUES = {
    "label": "[^\n]+?",
    "labels": "[^\n]+?",
    **dict.fromkeys(("size", "ago", "tokens"), "[0-9]{1,9}"),
}
"""What a placeholder can stand for; anything if it is not listed."""


def fill(template: str, **values: str) -> str:
    """Replace each {name} by its value in one pass, so a value is never read as a template."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


@lru_cache(1_024)
def pattern(template: str) -> re.Pattern[str]:
    """Return a pattern that matches the filled template, with one group for each placeholder."""
    parts, seen = [], set[str]()
    for index, part in enumerate(_PLACEHOLDER.split(template)):
        if index % 2 == 0:
            parts.append(re.escape(part))
        elif part in seen:
            parts.append(f"(?P={part})")
        else:
            seen.add(part)
            parts.append(f"(?P<{part}>{_VALUES.get(part, '.*?')})")
    return re.compile("".join(parts), re.DOTALL)


def with_placeholders(*names: str) -> AfterValidator:
    """Return a validator for templates that contain each of these placeholders exactly once."""

    def check(template: str) -> str:
        found = _PLACEHOLDER.findall(template)
        if sorted(found) != sorted(names):
            raise ValueError(f"must contain {_listed(names)}, but contains {_listed(found)}")
        return template

    return AfterValidator(check)


def _size_at_most(template: str) -> str:
    """Return a template that contains no placeholder but {size}."""
    found = sorted({*_PLACEHOLDER.findall(template)} - {"size"})
    if found:
        raise ValueError(f"may contain {{size}}, but contains {_listed(found)}")
    return template


def _ends_in_sample(template: str) -> str:
    """Return a template that ends in {sample}."""
    if not template.endswith("{sample}"):
        raise ValueError("must end in {sample}, because the image is the last part of the message")
    return template


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(f"{{{name}}} once" for name in names) or "no placeholder"


Sentence = Annotated[str, with_placeholders()]
OptionalSentence = Annotated[str, Field(min_length=0), with_placeholders()]
EncodingDescription = Annotated[str, Field(min_length=0), AfterValidator(_size_at_most)]
LabelTemplate = Annotated[str, with_placeholders("label")]
AgoTemplate = Annotated[str, with_placeholders("ago")]
QuestionTemplate = Annotated[str, with_placeholders("sample")]
ImageQuestionTemplate = Annotated[QuestionTemplate, AfterValidator(_ends_in_sample)]
SystemTemplate = Annotated[str, with_placeholders("labels", "encoding", "answer", "feedback")]
