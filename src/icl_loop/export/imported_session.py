"""A session from a file of another program, and its transcript, in which what is not known is null."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from icl_loop.analysis.told import is_feedback
from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN, Finish, Image, Message, Text, merged, user
from icl_loop.core.records import Exemplar
from icl_loop.tasks.answers import ParsedAnswer, parse_answer
from icl_loop.tasks.prompts import DEFAULT, open_prompt_set
from icl_loop.transcripts.header import ExemplarLine
from icl_loop.transcripts.schema import UNKNOWN, EndStatus, NoteLine, TurnLine, field_names


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSession:
    """A session in a file; None is what the file does not say.

    Attributes:
        key: Its name in the file.
        place: Where it is in the file, for errors.
        labels: The labels.
        lines: The fields of its turns and notes, in order.
        experiment: Name of its experiment.
        arm: Name of its arm.
        stream: Number of its stream.
        repeat: Number of the repeat of its stream.
        status: How it ended; None if it has not.
        ended: When it ended.
        header: Further fields of the first line that are known.
    """

    key: str
    place: str
    labels: Sequence[str]
    lines: Sequence[Mapping[str, Any]]
    experiment: str | None = None
    arm: str | None = None
    stream: int | None = None
    repeat: int = 0
    status: EndStatus | None = "complete"
    ended: str | None = None
    header: Mapping[str, Any] = field(default_factory=dict)


def turn_line(
    turn: int, label: str, parsed: ParsedAnswer, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of a turn; those that are not `known` are null, or left out if optional."""
    score = {"label": label, "answer": parsed.answer, "outcome": parsed.outcome}
    return _line(
        TurnLine, "turn", {"turn": turn, **score, "correct": parsed.answer == label, **known}
    )


def note_line(after_turn: int, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a note; those that are not `known` are null."""
    return _line(NoteLine, "note", {"after_turn": after_turn, **known})


def _line(model: type[TurnLine | NoteLine], kind: str, known: Mapping[str, Any]) -> dict[str, Any]:
    names = field_names(model)
    unknown = {name: None for name in names if name in UNKNOWN or name == "label_logprobs"}
    values = {**unknown, **known, "type": kind}
    return {name: values[name] for name in names if name in values}


def question_fields(question: Message | None) -> dict[str, Any]:
    """Return the fields of a turn that hold its question."""
    if question is None:
        return {}
    images = [part.png for part in question.parts if isinstance(part, Image)]
    picture = {"picture": base64.b64encode(images[0]).decode()} if images else {}
    return {"question": question.text, **picture}


def known_labels(given: Sequence[str], found: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the labels of a session: those of `--labels`, else those found, in order.

    Args:
        given: The labels of `--labels`; empty if it was not given.
        found: The labels of its samples.
        where: What holds them, such as `column 'label'`.

    Raises:
        ValueError: A label is not among those given, or there are fewer than two.
    """
    if missing := sorted(set(found) - set(given)) if given else []:
        raise ValueError(f"{where} has the label {missing[0]!r}, which --labels does not name")
    labels = tuple(given or sorted(set(found)))
    if len(labels) < 2:
        only = f"only the label {labels[0]!r}" if labels else "no label"
        raise ValueError(f"{where} has {only}; name all labels with --labels A,B,...")
    return labels


def parsed_reply(
    text: str, labels: Sequence[str], finish: Finish = "stop", prompts: str = DEFAULT
) -> ParsedAnswer:
    """Return the label that a reply gives, parsed as during play.

    Raises:
        ValueError: The labels cannot be told apart.
    """
    try:
        words = open_prompt_set(prompts)
    except InputError:  # a file that is not on this machine
        words = open_prompt_set(DEFAULT)
    try:
        return parse_answer(text, labels, finish, words.answer, openings=words.openings())
    except InputError as error:
        raise ValueError(str(error)) from None


# ---- conversations -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A reply in a conversation.

    Attributes:
        place: Its index among the messages.
        question: The message that asked for it; None for a note.
        told: The feedback on it; None if it is not known.
    """

    place: int
    question: Message | None
    told: str | None


def replies_in(
    messages: Sequence[Message], is_turn: Sequence[bool], prompts: str | None = None
) -> tuple[str | None, list[Asked]]:
    """Return the system message, if any, and the replies of a conversation.

    Of two or more messages between replies, the first is the feedback. One message begins with
    feedback if a prompt set has its first paragraph.

    Args:
        messages: The conversation.
        is_turn: Whether each reply answers a question about a sample, as those of turns and exemplars do;
            the others are notes.
        prompts: The prompt set, if known.

    Raises:
        ValueError: Something is out of place; names the message, counted from 1.
    """
    opening = messages[0].text if messages and messages[0].role == "system" else None
    places = [place for place, each in enumerate(messages) if each.role == "assistant"]
    starts = [0 if opening is None else 1, *(place + 1 for place in places)]
    between = []
    for number, (start, stop) in enumerate(zip(starts, [*places, len(messages)], strict=True)):
        for place in range(start, stop):
            if messages[place].role == "system":
                raise ValueError(
                    f"message {place + 1} has the role system, which only the first may have"
                )
        follows, precedes = ((False, *is_turn)[number], (*is_turn, False)[number])
        between.append(_told_and_rest(messages[start:stop], prompts, follows, precedes))
    found = []
    for number, place in enumerate(places):
        _, rest = between[number]
        if is_turn[number] and not rest:
            raise ValueError(f"message {place + 1} is a reply without a question before it")
        question = merged(rest)[0] if is_turn[number] else None
        found.append(Asked(place, question, between[number + 1][0]))
    return opening, found


def exemplar_lines(
    messages: Sequence[Message], asked: Sequence[Asked], shown: Sequence[tuple[str, str]]
) -> list[ExemplarLine]:
    """Return the exemplars with which a conversation begins.

    Args:
        messages: The conversation.
        asked: Its replies; the first ones are those of the exemplars.
        shown: Sample and label of each exemplar.
    """
    return [
        ExemplarLine.of(
            Exemplar(sample, label, each.question, messages[each.place].text, each.told or "")
        )
        for (sample, label), each in zip(shown, asked, strict=False)
        if each.question is not None
    ]


def _told_and_rest(
    messages: Sequence[Message],
    prompts: str | None,
    follows_turn: bool,  # noqa: FBT001
    precedes_turn: bool,  # noqa: FBT001
) -> tuple[str | None, Sequence[Message]]:
    """Return the feedback on the reply before these messages, if any, and the others."""
    if not follows_turn or not messages:
        return None, messages
    if len(messages) > 1 or not precedes_turn:
        return messages[0].text, messages[1:]
    return _split(messages[0], prompts)


def _split(message: Message, prompts: str | None) -> tuple[str | None, list[Message]]:
    """Return the feedback with which a merged message begins, if any, and the rest."""
    first, *parts = message.parts
    if parts and isinstance(first, Text) and is_feedback(prompts, first.text):
        return first.text, [Message("user", tuple(parts))]
    head, link, tail = message.text.partition(JOIN)
    if link and not parts and is_feedback(prompts, head):
        return head, [user(tail)]
    return None, [message]
