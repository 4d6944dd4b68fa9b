"""Conversations in OpenAI's chat format, one session per line."""

import json
from pathlib import Path

from icl_loop.export.conversation import conversation, settings
from icl_loop.export.selection import Selection
from icl_loop.models.openai import encode_messages
from icl_loop.transcripts import Transcript, read

_VALUE_LENGTH = 512
"""Longest value of `metadata` that the format allows."""


def write(saved: Selection, place: Path, *, merge: bool) -> None:
    """Write the conversations of the transcripts to `place`.

    Args:
        saved: The transcripts.
        place: The file.
        merge: Whether to merge neighbouring messages of one role where the requests did.
    """
    with place.open("wb") as file:
        for path in saved.files:
            file.write(_line(read(path), merge=merge))
            saved.on_sessions(1)


def _line(transcript: Transcript, *, merge: bool) -> bytes:
    merged = merge and settings(transcript, "model").get("merge_roles", True)
    messages = encode_messages(conversation(transcript), merge_roles=merged)
    metadata = json.dumps(_metadata(transcript), ensure_ascii=False).encode()
    return b'{"messages":[%b],"metadata":%b}\n' % (messages, metadata)


def _metadata(transcript: Transcript) -> dict[str, str]:
    """Return the metadata of a session; the format allows 16 keys with short texts as values."""
    header = transcript.header
    values = {
        "id": header.id,
        "experiment": header.experiment,
        "arm": header.arm,
        "stream": header.stream,
        "seed": header.seed,
        "model": settings(transcript, "model").get("name", ""),
        "dataset": header.dataset.name,
        "policy": settings(transcript, "context").get("policy", ""),
        "feedback": settings(transcript, "feedback").get("kind", ""),
        "turns": len(transcript.turns),
        "planned": header.turns,
        "correct": sum(turn.feedback.correct for turn in transcript.turns),
        "status": transcript.end.status if transcript.end else "unfinished",
        "created": header.created,
    }
    return {key: str(value)[:_VALUE_LENGTH] for key, value in values.items()}
