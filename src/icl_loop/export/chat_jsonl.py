"""Conversations as OpenAI's chat format has them: one line a session."""

import json
from pathlib import Path
from typing import Any

from icl_loop.core.messages import Message, assistant, system, user
from icl_loop.core.records import Event, Turn
from icl_loop.export.note_messages import question
from icl_loop.export.selection import Saved
from icl_loop.models.openai import encode_messages
from icl_loop.transcripts import Transcript, read

_VALUE_LENGTH = 512
"""Most characters of a value of `metadata` that the format takes."""


def write(saved: Saved, place: Path, *, merge: bool) -> None:
    """Write the conversations of the transcripts to `place`."""
    with place.open("wb") as file:
        for path in saved.files:
            file.write(_line(read(path), merge=merge))
            saved.went(1)


def conversation(transcript: Transcript) -> list[Message]:
    """Return all that was said in a session, in order: replies as they came, notes where written."""
    said = [system(transcript.header.system)]
    for event in transcript.events:
        said += _said(transcript, event)
    return said


def _said(transcript: Transcript, event: Event) -> list[Message]:
    """Return what was said in a turn, or when the notes were written."""
    if isinstance(event, Turn):
        return [event.question, assistant(event.reply.text), user(event.feedback.told)]
    return [*question(transcript), assistant(event.reply.text)]


def _line(transcript: Transcript, *, merge: bool) -> bytes:
    about = json.dumps(metadata(transcript), ensure_ascii=False).encode()
    said = encode_messages(conversation(transcript), merge_roles=merge and _merges(transcript))
    return b'{"messages":[%b],"metadata":%b}\n' % (said, about)


def _merges(transcript: Transcript) -> bool:
    """Whether the session's settings made neighbours of one role into one message."""
    return bool(_setting(transcript, "model", "merge_roles", default=True))


def metadata(transcript: Transcript) -> dict[str, str]:
    """Return what is said of a session beside its messages: at most 16 short texts."""
    header = transcript.header
    right = sum(turn.feedback.correct for turn in transcript.turns)
    said = {
        "id": header.id,
        "experiment": header.experiment,
        "arm": header.arm,
        "stream": header.stream,
        "seed": header.seed,
        "model": _setting(transcript, "model", "name", default=""),
        "dataset": header.dataset.name,
        "policy": _setting(transcript, "context", "policy", default=""),
        "feedback": _setting(transcript, "feedback", "kind", default=""),
        "turns": len(transcript.turns),
        "planned": header.turns,
        "correct": right,
        "status": transcript.end.status if transcript.end else "unfinished",
        "created": header.created,
    }
    return {key: str(value)[:_VALUE_LENGTH] for key, value in said.items()}


def _setting(transcript: Transcript, table: str, key: str, *, default: object) -> Any:  # noqa: ANN401  a setting
    found = transcript.header.settings.get(table)
    return found.get(key, default) if isinstance(found, dict) else default
