"""Parses a request back into samples, answers and feedback, for models that are not language models."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from icl_loop.context.message_parser import NO_FEEDBACK
from icl_loop.core.errors import EncodingError, InputError, RequestRefused
from icl_loop.core.messages import JOIN, Image, Message, Text, system, user
from icl_loop.models.features import SampleFeatures, sample_features, standardised
from icl_loop.tasks.answers import AnswerRule, parse_answer
from icl_loop.tasks.encodings import PngEncoding, get_encoding
from icl_loop.tasks.prompts import (
    ParsedFeedback,
    ParsedSystem,
    PromptSet,
    open_prompt_set,
    shipped,
)


@dataclass(eq=False)
class Example:
    """A turn as the request shows it: the sample, the label answered if any, and the feedback."""

    sample: SampleFeatures
    answer: str | None = None
    feedback: ParsedFeedback = NO_FEEDBACK

    @property
    def known_label(self) -> str | None:
        """The label that was revealed, or the answer that was confirmed; else None."""
        if self.feedback.label is not None:
            return self.feedback.label
        return self.answer if self.feedback.correct else None

    @property
    def refuted(self) -> str | None:
        """The answer that was told to be wrong, if the correct label was not revealed; else None."""
        return self.answer if self.feedback.correct is False and not self.known_label else None


@dataclass(frozen=True, eq=False)
class Conversation:
    """A parsed request: past turns as examples, oldest first, and the sample to answer now.

    Attributes:
        labels: The labels that are announced, or those that are known from the examples if none are.
    """

    prompts: PromptSet
    labels: tuple[str, ...]
    encoding: str
    examples: Sequence[Example]
    asked: SampleFeatures


class ConversationParser:
    """Parses the requests of sessions."""

    def __init__(self, prompts: PromptSet | None = None, encoding: str | None = None) -> None:
        """Expect this prompt set and this encoding; any shipped set and any encoding if None."""
        known = [prompts] if prompts else [open_prompt_set(name) for name in shipped()]
        self._prompt_sets, self._encoding = known, encoding
        self._readers = lru_cache(64)(self._open_reader)
        self._split = lru_cache(1_024)(self._split_first)

    def system(self, messages: Sequence[Message]) -> tuple[PromptSet, ParsedSystem]:
        """Return the prompt set of a request and the meaning of its system text.

        Raises:
            RequestRefused: The system text is not from an expected prompt set.
        """
        reader = self._reader(self._with_system_message(messages))
        return reader.prompts, reader.system

    def parse(self, messages: Sequence[Message]) -> Conversation:
        """Return the parsed request.

        Raises:
            RequestRefused: The system text is not from an expected prompt set, a sample cannot be
                decoded or compared with the others, or the request asks no question.
        """
        messages = self._with_system_message(messages)
        reader = self._reader(messages)
        turns = reader.turns(messages[1:])
        if not turns:
            raise RequestRefused("the request asks no question")
        *examples, last = reader.standardise(turns)
        system = reader.system
        labels = system.labels or _known_labels(examples)
        return Conversation(reader.prompts, labels, system.encoding, examples, last.sample)

    def parse_notes_request(self, messages: Sequence[Message]) -> Sequence[Example] | None:
        """Return the turns of a request that asks for notes, or None if it asks for none."""
        messages = self._with_system_message(messages)
        reader = self._reader(messages)
        if reader.prompts.parse_notes_request(messages[-1].text) is None:
            return None
        return reader.turns(messages[1:])

    def parse_choice(self, messages: Sequence[Message]) -> Sequence[Conversation]:
        """Return a conversation for each sample that a request offers, as if it was asked about.

        It is empty if the request offers no choice.
        """
        messages = self._with_system_message(messages)
        reader = self._reader(messages)
        offered = reader.offered(messages[-1].text)
        turns = reader.turns(messages[1:]) if offered else []
        conversations = []
        for sample in offered:
            *examples, last = reader.standardise([*turns, Example(sample)])
            labels = reader.system.labels or _known_labels(examples)
            encoding = reader.system.encoding
            conversations.append(
                Conversation(reader.prompts, labels, encoding, examples, last.sample)
            )
        return conversations

    def _with_system_message(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages with a system message, even if its text begins a user message."""
        if not messages or messages[0].role == "system":
            return messages
        return [*self._split(messages[0]), *messages[1:]]

    def _split_first(self, first: Message) -> Sequence[Message]:
        """Return the first message, split after the system text at its beginning if there is one."""
        if first.has_image:
            return [Message("system", first.parts[:1]), Message("user", first.parts[1:])]
        paragraphs = first.text.split(JOIN)
        for count in range(len(paragraphs) - 1, 0, -1):
            text = JOIN.join(paragraphs[:count])
            if any(each.parse_system(text, self._encoding) for each in self._prompt_sets):
                return [system(text), user(JOIN.join(paragraphs[count:]))]
        return [first]

    def _reader(self, messages: Sequence[Message]) -> "_TurnParser":
        return self._readers(messages[0].text if messages else "")

    def _open_reader(self, text: str) -> "_TurnParser":
        for prompts in self._prompt_sets:
            system = prompts.parse_system(text, self._encoding)
            if system is not None:
                return _TurnParser(prompts, system)
        raise RequestRefused(
            "the request does not begin with the system text of a known prompt set"
            " (to serve another set, name it with `icl-loop serve --prompts`)"
        )


class _TurnParser:
    """Parses the messages after one system text, each distinct message once."""

    def __init__(self, prompts: PromptSet, system: ParsedSystem) -> None:
        self.prompts, self.system = prompts, system
        self._rule = AnswerRule(open=not system.labels)
        try:
            self._encoding = get_encoding(system.encoding)
            parse_answer("", system.labels, form=prompts.answer)
        except InputError as error:  # no such encoding, or two labels cannot be told apart
            raise RequestRefused(str(error)) from None
        self._read = lru_cache(16_384)(self._read_user_message)
        self._read_answer = lru_cache(16_384)(self._parse_answer)

    def turns(self, messages: Sequence[Message]) -> list[Example]:
        """Return the turns in `messages`; the last one may have no answer yet."""
        turns: list[Example] = []
        for message in messages:
            if message.role == "assistant":
                if turns:
                    turns[-1].answer = self._read_answer(message.text)
                continue
            feedback, sample = self._read(message)
            for told in feedback:
                about = len(turns) - 1 - told.ago
                if about >= 0:
                    turns[about].feedback = told
            if sample:
                if turns and turns[-1].sample.form != sample.form:
                    raise RequestRefused("the samples of the request differ in size or columns")
                turns.append(Example(sample))
        return turns

    def offered(self, text: str) -> list[SampleFeatures]:
        """Return the samples among which a message asks to choose; none if it asks for no choice."""
        found = self.prompts.parse_choice(text)
        if found is None or isinstance(self._encoding, PngEncoding):
            return []
        try:
            return [sample_features(each, self._encoding.decode(each)) for each in found[1]]
        except EncodingError as error:
            raise RequestRefused(str(error)) from None

    def standardise(self, turns: Sequence[Example]) -> Sequence[Example]:
        """Return the turns with standardised features if they are table rows."""
        if self._encoding.modality != "table":
            return turns
        features = standardised([turn.sample.features for turn in turns])
        return [
            replace(turn, sample=replace(turn.sample, features=scaled))
            for turn, scaled in zip(turns, features, strict=True)
        ]

    def _read_user_message(
        self, message: Message
    ) -> tuple[Sequence[ParsedFeedback], SampleFeatures | None]:
        """Return the feedback in a message and the sample it asks about; each may be missing."""
        text, name = message.text, self.system.encoding
        question: tuple[str, str | Image] | None = None
        if message.has_image and isinstance(self._encoding, PngEncoding):
            question = self.prompts.parse_image_question(message, name)
            if question is None:
                raise RequestRefused("a message shows an image without the expected question")
        elif feedback := self._parse_feedback(text):
            return feedback, None
        elif (before := self.prompts.parse_notes_request(text)) is not None:
            return self._parse_feedback(before), None
        elif (choice := self.prompts.parse_choice(text)) is not None:
            return self._parse_feedback(choice[0]), None
        elif not isinstance(self._encoding, PngEncoding):
            question = self.prompts.parse_question(text, name)
        if question is None:
            return (), None
        before, shown = question
        try:
            sample = sample_features(shown, self._encoding.decode(shown))
        except EncodingError as error:
            raise RequestRefused(str(error)) from None
        return self._parse_feedback(before), sample

    def _parse_feedback(self, text: str) -> Sequence[ParsedFeedback]:
        """Return the feedback in `text`; none if it reveals an unknown label."""
        return self.prompts.parse_feedback(text, self.system.labels)

    def _parse_answer(self, text: str) -> str | None:
        labels, form = self.system.labels, self.prompts.answer
        return parse_answer(text, labels, form=form, rule=self._rule).answer


UNKNOWN = "unknown"
"""What is answered if no label is known."""


def _known_labels(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the labels that were told, in the order in which they were told first."""
    known = dict.fromkeys(each.known_label for each in examples)
    return tuple(label for label in known if label is not None) or (UNKNOWN,)


def request_key(messages: Sequence[Message]) -> str:
    """Return a digest that keys random choices about a request.

    It covers the number of replies shown, the last of them and everything after it, so it is the
    same whether neighbouring messages of one role are merged or not.
    """
    newest: list[str] = []
    for message in reversed(messages):
        parts = message.parts if message.has_image else [Text(message.text)]
        newest = [*map(_identity, parts), *newest]
        if message.role == "assistant":
            break
    replies = sum(message.role == "assistant" for message in messages)
    return hashlib.sha256(f"{replies} {JOIN.join(newest)}".encode()).hexdigest()


def _identity(part: Text | Image) -> str:
    return hashlib.sha256(part.png).hexdigest() if isinstance(part, Image) else part.text
