"""A session as a sample of an Inspect log.

Every request is a model event, and every turn also an intermediate score. The messages that requests
consist of are stored once, in a pool; an event refers to ranges of the pool, so that a log grows
linearly with the turns.
"""

import base64
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

from inspect_ai.event import Event as InspectEvent
from inspect_ai.event import ModelEvent, ScoreEvent
from inspect_ai.log import EvalSample, EvalSampleLimit, EventsData
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.scorer import CORRECT, INCORRECT, Score

from icl_loop.analysis.session_settings import table_in
from icl_loop.core.messages import Image, Message, Reply, Text, Usage, assistant, system
from icl_loop.core.records import Note, Turn
from icl_loop.export.conversation import note_request, shown_note
from icl_loop.transcripts import Header, Transcript

MEASURES = ("late", "accuracy", "early")
"""The scores of a session; Inspect shows the first one."""
EPOCH = datetime.fromtimestamp(0, UTC)
"""Stands in for a time that the transcript does not give."""

_CHAT_MESSAGES = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}
STOP_REASONS = {
    "stop": "stop",
    "length": "max_tokens",
    "content_filter": "content_filter",
    "unknown": "unknown",
}
_LIMITS = {"context_full": "context", "budget": "token", "stopped": "operator"}

Ranges = list[tuple[int, int]]
"""Ranges of messages in the pool, each from its start to before its stop."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A request: the turn or note that it was for, its messages in the pool, and the reply."""

    event: Turn | Note
    request: Ranges
    reply: ChatMessage


def sample(transcript: Transcript, file: Path, *, epoch: int) -> EvalSample:
    """Return the sample of a session.

    Args:
        transcript: The session.
        file: Its transcript.
        epoch: Number of the session among those of the same stream, from 1.
    """
    header, turns, end = transcript.header, transcript.turns, transcript.end
    status, model = end.status if end else "unfinished", model_name(header)
    uuid = digest("sample", str(file), header.id, header.created)
    conversation, pool, calls = _messages(transcript, uuid)
    replies = [event.reply for event in transcript.events]
    times = [time for time in (time_of(reply.at) for reply in replies) if time]
    began = time_of(header.created) or min(times, default=None)
    return EvalSample(
        id=header.stream,
        epoch=epoch,
        input=conversation[:2],
        target=[turn.label for turn in turns],
        messages=conversation,
        output=_output(calls[-1], model) if calls else ModelOutput(),
        scores=_scores(header, turns),
        metadata={
            "arm": header.arm,
            "stream": header.stream,
            "repeat": header.repeat,
            "id": header.id,
            "transcript": file.name,
            "status": status,
            "planned": header.turns,
            "donor": header.donor and header.donor.model_dump(mode="json"),
        },
        events=list(_events(calls, model, uuid)),
        events_data=EventsData(messages=pool, calls=[]),
        model_usage={model: sum((_usage(reply.usage) for reply in replies), _usage(Usage()))},
        started_at=began.isoformat() if began else None,
        completed_at=max(times).isoformat() if times else None,
        total_time=(max(times) - began).total_seconds() if times and began else None,
        working_time=sum(reply.latency_s or 0.0 for reply in replies),
        turn_count=len(turns),
        uuid=uuid,
        limit=EvalSampleLimit(type=_LIMITS[status], limit=len(turns), reason=status)
        if status in _LIMITS
        else None,
    )


# ---- messages ----------------------------------------------------------------------------


def _messages(
    transcript: Transcript, uuid: str
) -> tuple[list[ChatMessage], list[ChatMessage], list[_Call]]:
    """Return the conversation as it was sent, the pool of messages, and the requests.

    The pool holds the system message, three messages per turn and per exemplar, then those about notes.
    """
    opening = _chat(system(transcript.header.system or ""), f"{uuid}-system")
    conversation, pool, calls = [opening], [opening], list[_Call]()
    turns = [_turn_messages(turn, f"{uuid}-{turn.index}") for turn in transcript.turns]
    for question, _, echo, told in turns:
        pool += [question, echo, told]

    def add(messages: Sequence[Message], key: str) -> Ranges:
        start = len(pool)
        keys = (key, *(f"{key}-{number}" for number in range(1, len(messages))))
        pool.extend(_chat(message, each) for each, message in zip(keys, messages, strict=False))
        return [(start, len(pool))] if messages else []

    shown = [
        _chat(
            message,
            f"{uuid}-exemplar-{number}-{part}",
            exemplar=number,
            sample=each.sample,
            label=each.label,
        )
        for number, each in enumerate(transcript.header.exemplars)
        for part, message in zip(("question", "reply", "told"), each.exemplar.messages, strict=True)
    ]
    exemplars = [(len(pool), len(pool) + len(shown))] if shown else []
    pool += shown
    conversation += shown
    notes: Ranges = []
    for event in transcript.conversation:
        past = [(1 + 3 * first, 4 + 3 * last) for first, last in event.kept]
        if isinstance(event, Turn):
            question, reply, _, told = turns[event.index]
            asked = [(1 + 3 * event.index, 2 + 3 * event.index)]
            conversation += [question, reply, told]
        else:
            key = f"{uuid}-{_key(event)}"
            asked = add(note_request(transcript), f"{key}-question")
            reply = _reply(event.reply, f"{key}-reply")
            conversation += [*(pool[start] for start, _ in asked), reply]
        calls.append(_Call(event, [(0, 1), *exemplars, *notes, *past, *asked], reply))
        if isinstance(event, Note):
            notes = add(shown_note(transcript, event), f"{uuid}-{_key(event)}")
    return conversation, pool, calls


def _turn_messages(
    turn: Turn, key: str
) -> tuple[ChatMessage, ChatMessage, ChatMessage, ChatMessage]:
    """Return the question, the reply, the reply as later requests show it, and the told text."""
    question, shown, told = turn.messages
    score = {"answer": turn.answer, "outcome": turn.outcome, "correct": turn.feedback.correct}
    reply = _reply(turn.reply, f"{key}-reply", turn=turn.index, **score)
    return (
        _chat(question, f"{key}-question", turn=turn.index, sample=turn.sample, label=turn.label),
        reply,
        reply if shown.text == reply.content else _chat(shown, f"{key}-echo", turn=turn.index),
        _chat(told, f"{key}-told", turn=turn.index),
    )


def _chat(message: Message, key: str, **metadata: object) -> ChatMessage:
    content = [_content(part) for part in message.parts] if message.has_image else message.text
    made: ChatMessage = _CHAT_MESSAGES[message.role](
        id=key, content=content, metadata=metadata or None
    )
    return made


def _reply(reply: Reply, key: str, **metadata: object) -> ChatMessage:
    """Return a reply, with the reasoning that came beside it."""
    message = _chat(assistant(reply.text), key, **metadata)
    if reply.reasoning_text:
        thought = ContentReasoning(reasoning=reply.reasoning_text)
        message.content = [thought, ContentText(text=reply.text)]
    return message


def _content(part: Text | Image) -> Content:
    if isinstance(part, Text):
        return ContentText(text=part.text)
    return ContentImage(image="data:image/png;base64," + base64.b64encode(part.png).decode())


# ---- events ------------------------------------------------------------------------------


def _events(calls: Sequence[_Call], model: str, uuid: str) -> Iterator[InspectEvent]:
    """Yield a model event for every request, followed by a score event if it asked about a sample."""
    worked = 0.0
    for call in calls:
        event, reply = call.event, call.event.reply
        latency, key = reply.latency_s or 0.0, f"{uuid}-{_key(event)}"
        completed = time_of(reply.at) or EPOCH
        if isinstance(event, Turn):
            place: dict[str, Any] = {"turn": event.index}
        else:
            place = {"notes_after_turn": event.after_turn, "notes": event.text}
        yield ModelEvent(
            uuid=f"{key}-model",
            timestamp=completed - timedelta(seconds=latency),
            working_start=worked,
            working_time=latency,
            completed=completed,
            model=model,
            input=[],
            input_refs=call.request,
            tools=[],
            tool_choice="auto",
            config=GenerateConfig(),
            output=_output(call, model),
            retries=reply.attempts - 1,
            metadata={**place, "request": event.request, "overflows": event.overflows},
        )
        worked += latency
        if isinstance(event, Turn):
            yield ScoreEvent(
                uuid=f"{key}-score",
                timestamp=completed,
                working_start=worked,
                score=Score(
                    value=CORRECT if event.feedback.correct else INCORRECT,
                    answer=event.answer,
                    explanation=event.feedback.told,
                    reason=None if event.outcome == "ok" else event.outcome,
                    metadata={"turn": event.index, "outcome": event.outcome},
                ),
                target=event.label,
                intermediate=True,
                scorer="turn",
            )


def _key(event: Turn | Note) -> str:
    return str(event.index) if isinstance(event, Turn) else f"{event.after_turn}-notes"


def _output(call: _Call, model: str) -> ModelOutput:
    reply = call.event.reply
    stop_reason = STOP_REASONS[reply.finish]
    return ModelOutput(
        model=(reply.served and reply.served.model) or model,
        choices=[ChatCompletionChoice(message=call.reply, stop_reason=stop_reason)],
        usage=_usage(reply.usage),
        time=reply.latency_s,
    )


def _usage(usage: Usage) -> ModelUsage:
    """Return token counts; Inspect counts cached tokens apart from the input."""
    return ModelUsage(
        input_tokens=usage.prompt - usage.cached,
        output_tokens=usage.completion,
        total_tokens=usage.prompt + usage.completion,
        input_tokens_cache_read=usage.cached,
        reasoning_tokens=usage.reasoning,
    )


# ---- scores ------------------------------------------------------------------------------


def _scores(header: Header, turns: Sequence[Turn]) -> dict[str, Score]:
    """Return the accuracies of a session, NaN where there are no turns."""
    correct = [turn.feedback.correct for turn in turns]
    early = min(max(header.turns // 10, 1), 20)
    numbers = range(len(turns))
    parts = {
        name: [correct[turn] for turn in numbers[part] if header.counts(turn)]
        for name, part in (
            ("late", slice(header.turns // 2, None)),
            ("accuracy", slice(None)),
            ("early", slice(early)),
        )
    }
    scores = {
        name: Score(
            value=fmean(parts[name]) if parts[name] else math.nan,
            answer=", ".join(turn.answer or "–" for turn in turns),
            explanation=f"{sum(parts[name])} of {len(parts[name])} turns right",
        )
        for name in MEASURES
    }
    scores["accuracy"].metadata = {
        "correct": correct,
        "answer": [turn.answer for turn in turns],
        "outcome": [turn.outcome for turn in turns],
    }
    return scores


# ---- names and times ---------------------------------------------------------------------


def model_name(header: Header) -> str:
    """Return the name of the model that played a session."""
    name = table_in(header.settings, "model").get("name")
    return name if isinstance(name, str) and name else "unknown"


def digest(*names: str) -> str:
    """Return an id of 22 characters that is the same in every export."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:22]


def time_of(text: str | None) -> datetime | None:
    """Return a recorded time, or None if it is missing."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
