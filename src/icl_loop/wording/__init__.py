"""Every sentence that a model reads, in named sets, and the way back from sentence to meaning.

A set is a TOML file. The way back is what lets a reference learner read the same messages as a
model does.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from icl_loop.errors import InputError, nearest

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_SEPARATOR = ", "


def _holding(*names: str) -> AfterValidator:
    """Return a validator of a template that must hold exactly these placeholders."""

    def check(template: str) -> str:
        found = _PLACEHOLDER.findall(template)
        if sorted(found) != sorted(names):
            wanted = " and ".join(f"{{{name}}}" for name in names) or "no placeholder"
            raise ValueError(f"must hold {wanted}, each once")
        return template

    return AfterValidator(check)


Plain = Annotated[str, _holding()]
OfLabel = Annotated[str, _holding("label")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_min_length=1)


class Told(_Table):
    """The phrases that follow an answer."""

    correct: Plain
    incorrect: Plain
    revealed_correct: OfLabel
    revealed_incorrect: OfLabel
    recorded: Plain


class Announced(_Table):
    """How feedback will arrive, for each kind of feedback."""

    correctness: Plain
    label: Plain
    none: Plain


@dataclass(frozen=True, slots=True)
class Heard:
    """What a told phrase means: the verdict and the right label, each None if not told."""

    correct: bool | None
    label: str | None


@dataclass(frozen=True, slots=True)
class Frame:
    """What a system text says: the labels, and the name of the encoding."""

    labels: tuple[str, ...]
    encoding: str


class Wording(_Table):
    """One set of sentences.

    Attributes:
        system: The frame; holds {labels}, {encoding}, {answer} and {feedback}.
        question: What asks; holds {image}.
        answer: The final line that the reply should have; holds {label}.
        blank: What stands for the label where the form of the answer is explained.
        encodings: How the array was made, by encoding; may hold {size}.
        announced: How feedback will arrive, by kind.
        told: The phrases that are told.
    """

    system: Annotated[str, _holding("labels", "encoding", "answer", "feedback")]
    question: Annotated[str, _holding("image")]
    answer: OfLabel
    blank: Plain
    encodings: dict[str, str]
    announced: Announced
    told: Told

    def frame(self, labels: Sequence[str], encoding: str, size: int, feedback: str) -> str:
        """Return the system text for these labels, encoding, size in pixels and feedback kind."""
        if encoding not in self.encodings:
            raise InputError(
                f"the wording describes no encoding {encoding!r}: {nearest(encoding, self.encodings)}"
            )
        return _fill(
            self.system,
            labels=_SEPARATOR.join(labels),
            encoding=_fill(self.encodings[encoding], size=str(size)),
            answer=self.reply(self.blank),
            feedback=getattr(self.announced, feedback),
        )

    def ask(self, image: str) -> str:
        """Return the question about the encoded `image`."""
        return _fill(self.question, image=image)

    def reply(self, label: str) -> str:
        """Return the final line that answers `label`."""
        return _fill(self.answer, label=label)

    def tell(self, phrase: str, label: str) -> str:
        """Return the words of `phrase`; `label` is the right one, used where it is revealed."""
        return _fill(getattr(self.told, phrase), label=label)

    def hear_frame(self, system: str) -> Frame | None:
        """Return what a system text says, or None if it is not of this wording."""
        match = self._patterns["system"].fullmatch(system)
        if match is None:
            return None
        for name, description in self.encodings.items():
            if _reverse(description).fullmatch(match["encoding"]):
                return Frame(tuple(match["labels"].split(_SEPARATOR)), name)
        return None

    def hear_question(self, text: str) -> tuple[str, str] | None:
        """Return what stands before the question in `text`, and the encoded image; else None."""
        match = self._patterns["question"].fullmatch(text)
        return (match["before"].rstrip(), match["image"]) if match else None

    def hear_reply(self, text: str) -> str | None:
        """Return the label in the last line of `text`, or None if it has not the stated form."""
        match = self._patterns["answer"].fullmatch(text.rstrip().rpartition("\n")[2])
        return match["label"] if match else None

    def hear_told(self, text: str) -> Heard | None:
        """Return what the told `text` means, or None if it is no phrase of this wording."""
        for phrase, correct in _VERDICTS.items():
            match = self._patterns[phrase].fullmatch(text)
            if match:
                return Heard(correct, match.groupdict().get("label"))
        return None

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        templates = {
            "system": self.system,
            "question": "{before}" + self.question,
            "answer": self.answer,
            **self.told.model_dump(),
        }
        return {name: _reverse(template) for name, template in templates.items()}


_VERDICTS = {
    "revealed_correct": True,
    "revealed_incorrect": False,
    "correct": True,
    "incorrect": False,
    "recorded": None,
}


def _fill(template: str, **values: str) -> str:
    """Replace each {name} by its value in one pass, so that values are never read as templates."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def _reverse(template: str) -> re.Pattern[str]:
    """Return the pattern that matches what `_fill` makes of `template`."""
    literals, names = _PLACEHOLDER.split(template)[::2], _PLACEHOLDER.findall(template)
    pattern = re.escape(literals[0])
    for position, (name, literal) in enumerate(zip(names, literals[1:], strict=True)):
        again = name in names[:position]
        pattern += (f"(?P={name})" if again else f"(?P<{name}>.*?)") + re.escape(literal)
    return re.compile(pattern, re.DOTALL)


def shipped() -> tuple[str, ...]:
    """Return the names of the sets that come with the package."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


@lru_cache(maxsize=16)
def open_wording(name: str) -> Wording:
    """Return the shipped set called `name`, or the set in the TOML file of that path.

    Raises:
        InputError: There is no such set, or the file is not one; names file, key and value.
    """
    if name in shipped():
        return _parse(resources.files(__name__).joinpath(f"{name}.toml").read_bytes(), name)
    if not name.endswith(".toml"):
        raise InputError(f"unknown wording {name!r}: {nearest(name, shipped())} (or a .toml file)")
    try:
        return _parse(Path(name).read_bytes(), name)
    except OSError as error:
        raise InputError(f"wording {name} cannot be read: {error.strerror}") from None


def _parse(data: bytes, name: str) -> Wording:
    try:
        return Wording.model_validate(tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"wording {name} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"wording {name}, key {key}: {first['msg'].removeprefix('Value error, ')}"
        ) from None
