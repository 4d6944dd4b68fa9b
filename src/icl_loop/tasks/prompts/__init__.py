"""Every sentence that a model reads, in named sets, and the way back from sentence to meaning.

A set is a TOML file. Its sentences about pictures written as text stand at the top; those about
pictures that are seen, rows of tables and texts each have a table of their own. The way back is what
lets a reference learner read the same messages as a model does.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from icl_loop.core import toml_files
from icl_loop.core.errors import InputError, nearest
from icl_loop.core.messages import Image, Message, Text, user
from icl_loop.core.validation_messages import must, place, written

_IN_ONE_LINE = {"label", "labels", "size", "ago", "tokens"}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_SEPARATOR = ", "


def _holding(*names: str) -> AfterValidator:
    """Return a validator of a template that must hold exactly these placeholders."""

    def check(template: str) -> str:
        found = _PLACEHOLDER.findall(template)
        if sorted(found) != sorted(names):
            wanted = f"{_listed(names)}, each once" if names else _listed(names)
            raise ValueError(f"must hold {wanted}, but holds {_listed(found)}")
        return template

    return AfterValidator(check)


def _may_hold(name: str) -> AfterValidator:
    """Return a validator of a template that holds this placeholder, as often as it likes, or none."""

    def check(template: str) -> str:
        found = set(_PLACEHOLDER.findall(template)) - {name}
        if found:
            raise ValueError(f"may hold {{{name}}}, but holds {_listed(sorted(found))}")
        return template

    return AfterValidator(check)


def _ending_in_image(template: str) -> str:
    """Return a template that ends in {image}."""
    if not template.endswith("{image}"):
        raise ValueError("must end in {image}, since the picture is the last part of a message")
    return template


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in names) or "no placeholder"


Plain = Annotated[str, _holding()]
OfLabel = Annotated[str, _holding("label")]
OfAgo = Annotated[str, _holding("ago")]
OfSize = Annotated[str, _may_hold("size")]
OfThings = Annotated[str, _may_hold("things")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_min_length=1)


class FeedbackPhrases(_Table):
    """The phrases that follow an answer."""

    correct: Plain
    incorrect: Plain
    revealed_correct: OfLabel
    revealed_incorrect: OfLabel
    recorded: Plain
    earlier_correct: OfAgo
    earlier_incorrect: OfAgo


class Announcements(_Table):
    """How feedback will arrive, for each kind of feedback; may hold {things}."""

    correctness: OfThings
    label: OfThings
    none: OfThings
    positive: OfThings
    negative: OfThings
    delayed: OfThings
    demonstrations: OfThings


class NotePrompts(_Table):
    """What is said where the model takes notes.

    Attributes:
        asked: Asks for notes; holds {tokens}, the tokens they may take.
        shown: What stands for the turns before; holds {notes}.
    """

    asked: Annotated[str, _holding("tokens")]
    shown: Annotated[str, _holding("notes")]

    def ask(self, tokens: int) -> str:
        """Return the words that ask for notes of so many tokens."""
        return _fill(self.asked, tokens=str(tokens))

    def show(self, notes: str) -> str:
        """Return the words that show notes."""
        return _fill(self.shown, notes=notes)

    @cached_property
    def request(self) -> re.Pattern[str]:
        """The pattern of what asks for notes, and of what may stand before it."""
        return _reverse("{before}" + self.asked)


@dataclass(frozen=True, slots=True)
class ParsedFeedback:
    """What a told phrase means: the verdict and the right label, each None if not told.

    Attributes:
        correct: Whether the answer was right.
        label: The right label.
        ago: How many answers before the last one it is about.
    """

    correct: bool | None
    label: str | None
    ago: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """What a system text says: the labels, and the name of the encoding."""

    labels: tuple[str, ...]
    encoding: str


class PromptSection(_Table):
    """What is said about samples that are shown in one of a few encodings.

    Attributes:
        system: The frame; holds {labels}, {encoding}, {answer} and {feedback}.
        question: What asks; holds {image}, in whose place the sample is shown.
        things: What several samples are called.
        encodings: How what is shown was made, by encoding; may hold {size}.
    """

    system: Annotated[str, _holding("labels", "encoding", "answer", "feedback")]
    question: Annotated[str, _holding("image")]
    things: Plain
    encodings: dict[str, OfSize]

    def ask(self, image: str) -> str:
        """Return the question about the encoded `image`."""
        return _fill(self.question, image=image)

    def show(self, shown: str | Image) -> Message:
        """Return the message that asks about a sample as its encoding shows it."""
        return user(self.ask(shown)) if isinstance(shown, str) else self._show_picture(shown)

    def _show_picture(self, picture: Image) -> Message:
        asking = self._beside_picture
        return Message("user", (*([Text(asking)] if asking else []), picture))

    def hear_question(self, text: str) -> tuple[str, str] | None:
        """Return what stands before the question in `text`, and the encoded image; else None."""
        match = self._question.fullmatch(text)
        return (match["before"].rstrip(), match["image"]) if match else None

    def hear_picture(self, message: Message) -> tuple[str, Image] | None:
        """Return what stands before the question in `message`, and the picture seen; else None."""
        *_, last = message.parts
        others = [part for part in message.parts[:-1] if isinstance(part, Image)]
        if others or not isinstance(last, Image) or not message.text.endswith(self._beside_picture):
            return None
        return message.text.removesuffix(self._beside_picture).rstrip(), last

    def frame_of(
        self, labels: Sequence[str], encoding: str, size: int, *, answer: str, feedback: str
    ) -> str:
        """Return the system text that shows this form of the answer and announces this feedback."""
        return _fill(
            self.system,
            labels=_SEPARATOR.join(labels),
            encoding=_fill(self.encodings[encoding], size=str(size)),
            answer=answer,
            feedback=_fill(feedback, things=self.things),
        )

    def hear_frame_of(self, system: str, answer: str, announced: Iterable[str]) -> Frame | None:
        """Return what a system text says that shows and announces no other than these, or None."""
        match = self._frame.fullmatch(system)
        if (
            match is None
            or match["answer"] != answer
            or match["feedback"] not in [_fill(each, things=self.things) for each in announced]
        ):
            return None
        for name, description in self.encodings.items():
            if _reverse(description).fullmatch(match["encoding"]):
                return Frame(tuple(match["labels"].split(_SEPARATOR)), name)
        return None

    @cached_property
    def _beside_picture(self) -> str:
        return _fill(self.question, image="").strip()

    @cached_property
    def _frame(self) -> re.Pattern[str]:
        return _reverse(self.system)

    @cached_property
    def _question(self) -> re.Pattern[str]:
        return _reverse("{before}" + self.question)


class ImagePromptSection(PromptSection):
    """What is said about pictures that are seen; in a question the picture comes last."""

    question: Annotated[str, _holding("image"), AfterValidator(_ending_in_image)]


class PromptSet(PromptSection):
    """One set of sentences; those of its own are about pictures written as text.

    Attributes:
        answer: The final line that the reply should have; holds {label}.
        blank: What stands for the label where the form of the answer is explained.
        announced: How feedback will arrive, by kind.
        told: The phrases that are told.
        seen: About pictures that are seen.
        table: About rows of tables.
        text: About texts.
        notes: About the notes that a model takes.
    """

    answer: OfLabel
    blank: Plain
    announced: Announcements
    told: FeedbackPhrases
    seen: ImagePromptSection | None = None
    table: PromptSection | None = None
    text: PromptSection | None = None
    notes: NotePrompts | None = None

    def __hash__(self) -> int:
        return hash((self.system, self.question, self.answer))

    def frame(self, labels: Sequence[str], encoding: str, size: int, feedback: str) -> str:
        """Return the system text for these labels, encoding, size in pixels and feedback kind.

        Raises:
            InputError: There are no words for the encoding or the kind of feedback.
        """
        sentences = self.about(encoding)
        announced = self.announced.model_dump()
        if feedback not in announced:
            raise InputError(_no_words(feedback, announced))
        return sentences.frame_of(
            labels, encoding, size, answer=self.reply(self.blank), feedback=announced[feedback]
        )

    def about(self, encoding: str) -> PromptSection:
        """Return the sentences about samples in an encoding.

        Raises:
            InputError: There are no words for the encoding.
        """
        for sentences in self._all():
            if encoding in sentences.encodings:
                return sentences
        raise InputError(_no_words(encoding, [n for each in self._all() for n in each.encodings]))

    def _all(self) -> Iterator[PromptSection]:
        return (each for each in (self, self.seen, self.table, self.text) if each is not None)

    def reply(self, label: str) -> str:
        """Return the final line that answers `label`."""
        return _fill(self.answer, label=label)

    def tell(self, phrase: str, label: str, ago: int = 0) -> str:
        """Return the words of `phrase`.

        `label` is the right one, used where it is revealed; `ago` is how many answers before the
        last one a phrase about an earlier one means.
        """
        return _fill(getattr(self.told, phrase), label=label, ago=str(ago))

    def hear_frame(self, system: str) -> Frame | None:
        """Return what a system text says, or None if it is not of this prompt set."""
        answer, announced = self.reply(self.blank), self.announced.model_dump().values()
        heard = (each.hear_frame_of(system, answer, announced) for each in self._all())
        return next((frame for frame in heard if frame is not None), None)

    def hear_told(self, text: str) -> ParsedFeedback | None:
        """Return what the told `text` means, or None if it is no phrase of this prompt set.

        Where one phrase could be another around a longer label, the label is the shorter one.
        """
        found = [
            _heard(correct, match.groupdict())
            for phrase, correct in _VERDICTS.items()
            if (match := self._patterns[phrase].fullmatch(text))
        ]
        return min(found, key=lambda heard: len(heard.label or ""), default=None)

    def asks_for_notes(self, text: str) -> bool:
        """Whether a message ends in asking for notes."""
        return self.notes is not None and self.notes.request.fullmatch(text) is not None

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return {name: _reverse(phrase) for name, phrase in self.told.model_dump().items()}


_VERDICTS = {
    "correct": True,
    "incorrect": False,
    "recorded": None,
    "revealed_correct": True,
    "revealed_incorrect": False,
    "earlier_correct": True,
    "earlier_incorrect": False,
}


def _no_words(value: str, words: Iterable[str]) -> str:
    return f"the prompt set has no words for {value!r}: {nearest(value, words)}"


def _heard(correct: bool | None, values: Mapping[str, str]) -> ParsedFeedback:  # noqa: FBT001  as in `Heard`
    ago = values.get("ago", "0")
    return ParsedFeedback(
        correct, values.get("label"), int(ago) if ago.isascii() and ago.isdigit() else 0
    )


def _fill(template: str, **values: str) -> str:
    """Replace each {name} by its value in one pass, so that values are never read as templates."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def _reverse(template: str) -> re.Pattern[str]:
    """Return the pattern that matches what `_fill` makes of `template`."""
    literals, names = _PLACEHOLDER.split(template)[::2], _PLACEHOLDER.findall(template)
    pattern = re.escape(literals[0])
    for position, (name, literal) in enumerate(zip(names, literals[1:], strict=True)):
        again = name in names[:position]
        value = "[^\n]+?" if name in _IN_ONE_LINE else ".*?"
        pattern += (f"(?P={name})" if again else f"(?P<{name}>{value})") + re.escape(literal)
    return re.compile(pattern, re.DOTALL)


def shipped() -> tuple[str, ...]:
    """Return the names of the sets that come with the package."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


_GIVEN: ContextVar[Mapping[str, "PromptSet"]] = ContextVar(
    "prompt sets", default=MappingProxyType({})
)


@contextmanager
def given(prompt_sets: Mapping[str, PromptSet]) -> Iterator[None]:
    """Within this, prompt sets of these names are those given, whatever files there are."""
    token = _GIVEN.set(prompt_sets)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def open_prompt_set(name: str) -> PromptSet:
    """Return the shipped set called `name`, or the set in the TOML file of that path.

    Raises:
        InputError: There is no such set, or the file is not one; names file, key and value.
    """
    if name in _GIVEN.get():
        return _GIVEN.get()[name]
    if name in shipped():
        return _parse(resources.files(__name__).joinpath(f"{name}.toml").read_bytes(), name)
    if not name.endswith(".toml"):
        raise InputError(
            f"unknown prompt set {name!r}: {nearest(name, shipped())} (or a .toml file)"
        )
    try:
        return _parse(Path(name).read_bytes(), name)
    except OSError as error:
        raise InputError(f"prompt set {name} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=16)
def _parse(data: bytes, name: str) -> PromptSet:
    try:
        return PromptSet.model_validate(toml_files.parsed(data, f"prompt set {name}"))
    except ValidationError as error:
        # A misspelt key is missing, too: it is named as it was spelt.
        first = max(error.errors(), key=lambda each: each["type"] == "extra_forbidden")
        key = place(first["loc"])
        raise InputError(f"prompt set {name}, key {key}: {_in_words(first)}") from None


def _in_words(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        tables = (PromptSet, Announcements, FeedbackPhrases, NotePrompts)
        known = {name for table in tables for name in table.model_fields}
        return f"is not known: {nearest(str(error['loc'][-1]), known)}"
    if error["type"] in ("missing", "value_error"):
        return must(error)
    return f"{must(error)}, got {written(error['input'])}"
