"""From what was played to the fields of its line, and back."""

import base64
from typing import Any

from icl_loop.core.messages import Image, Message, Reply, Served, Text, Usage, user
from icl_loop.core.records import Event, Feedback, Note, Probe, Turn
from icl_loop.transcripts.lines import NoteLine, ProbeLine, TurnLine


def turn_of(saved: TurnLine) -> Turn:
    """Return the turn that a line holds."""
    return Turn(
        index=saved.turn,
        sample=saved.sample,
        label=saved.label,
        question=_question(saved),
        kept=tuple(saved.kept),
        request=saved.request,
        reply=_reply(saved),
        answer=saved.answer,
        outcome=saved.outcome,
        feedback=Feedback(saved.correct, saved.told),
        overflows=saved.overflows,
        limit=saved.limit,
        calibration=saved.calibration,
        echo=saved.echo,
        counted=saved.counted,
        prefix=saved.prefix,
    )


def note_of(saved: NoteLine) -> Note:
    """Return the note that a line holds."""
    return Note(
        after_turn=saved.after_turn,
        kept=tuple(saved.kept),
        request=saved.request,
        reply=_reply(saved),
        text=saved.text,
        overflows=saved.overflows,
        limit=saved.limit,
        counted=saved.counted,
        prefix=saved.prefix,
    )


def probe_of(saved: ProbeLine) -> Probe:
    """Return the probe that a line holds."""
    return Probe(
        after_turn=saved.after_turn,
        sample=saved.sample,
        label=saved.label,
        kept=tuple(saved.kept),
        request=saved.request,
        reply=_reply(saved),
        answer=saved.answer,
        outcome=saved.outcome,
        correct=saved.correct,
        overflows=saved.overflows,
    )


def _reply(saved: TurnLine | NoteLine | ProbeLine) -> Reply:
    return Reply(
        text=saved.reply,
        usage=Usage(**saved.usage.model_dump()),
        finish=saved.finish,
        served=Served(**saved.served.model_dump()) if saved.served else None,
        label_logprobs=saved.label_logprobs,
        attempts=saved.attempts,
        latency_s=saved.latency_s,
        at=saved.at,
    )


def _question(saved: TurnLine) -> Message:
    """Return the message that asked; a picture that was seen is its last part."""
    if saved.picture is None:
        return user(saved.question)
    said = [Text(saved.question)] if saved.question else []
    return Message("user", (*said, Image(saved.picture)))


def _picture_of(question: Message) -> dict[str, str]:
    """Return the field for a picture that was seen; other questions have no such field."""
    seen = [part.png for part in question.parts if isinstance(part, Image)]
    return {"picture": base64.b64encode(seen[0]).decode()} if seen else {}


def event_fields(event: Event | Probe) -> dict[str, Any]:
    """Return the fields of the line of a turn, note or probe."""
    if isinstance(event, Probe):
        return probe_fields(event)
    return turn_fields(event) if isinstance(event, Turn) else note_fields(event)


def turn_fields(turn: Turn) -> dict[str, Any]:
    """Return the fields of a turn's line, in the order of the format."""
    return {
        "type": "turn",
        "turn": turn.index,
        "sample": turn.sample,
        "label": turn.label,
        "question": turn.question.text,
        **_picture_of(turn.question),
        **_request_fields(turn),
        "answer": turn.answer,
        "outcome": turn.outcome,
        "correct": turn.feedback.correct,
        "told": turn.feedback.told,
        "echo": turn.echo,
        "overflows": turn.overflows,
        "limit": turn.limit,
        "calibration": turn.calibration,
        "counted": turn.counted,
        "prefix": turn.prefix,
        **_reply_fields(turn.reply),
    }


def note_fields(note: Note) -> dict[str, Any]:
    """Return the fields of a note's line, in the order of the format."""
    return {
        "type": "note",
        "after_turn": note.after_turn,
        **_request_fields(note),
        "text": note.text,
        "overflows": note.overflows,
        "limit": note.limit,
        "counted": note.counted,
        "prefix": note.prefix,
        **_reply_fields(note.reply),
    }


def probe_fields(probe: Probe) -> dict[str, Any]:
    """Return the fields of a probe's line, in the order of the format."""
    return {
        "type": "probe",
        "after_turn": probe.after_turn,
        "sample": probe.sample,
        "label": probe.label,
        **_request_fields(probe),
        "answer": probe.answer,
        "outcome": probe.outcome,
        "correct": probe.correct,
        "overflows": probe.overflows,
        **_reply_fields(probe.reply),
    }


def _request_fields(entry: Event | Probe) -> dict[str, Any]:
    """Return the fields of what a request showed and what was said to it."""
    return {
        "kept": entry.kept,
        "request": entry.request,
        "reply": entry.reply.text,
        "finish": entry.reply.finish,
    }


def _reply_fields(reply: Reply) -> dict[str, Any]:
    served = reply.served
    return {
        "usage": {
            "prompt": reply.usage.prompt,
            "cached": reply.usage.cached,
            "completion": reply.usage.completion,
            "reasoning": reply.usage.reasoning,
        },
        "served": served
        and {"model": served.model, "system_fingerprint": served.system_fingerprint},
        "label_logprobs": reply.label_logprobs,
        "latency_s": reply.latency_s,
        "attempts": reply.attempts,
        "at": reply.at,
    }
