"""Conversations in OpenAI's chat format, one session per line."""

import json
from collections.abc import Iterable
from pathlib import Path

from icl_loop.analysis.session_settings import table_in
from icl_loop.core.records import Turn
from icl_loop.export.conversation import conversation
from icl_loop.export.source_file import OnSessions, SourceFile
from icl_loop.models.openai import encode_messages
from icl_loop.transcripts import Transcript, read

_VALUE_LENGTH = 512
"""Longest value of `metadata` that the format allows."""


def write(
    files: Iterable[SourceFile], place: Path, on_sessions: OnSessions, *, merge: bool
) -> None:
    """Write the conversations of transcripts, with messages merged where the requests did if `merge`."""
    with place.open("wb") as out:
        for file in files:
            transcript = read(file.path)
            model = table_in(transcript.header.settings, "model")
            said = encode_messages(
                conversation(transcript),
                merge_roles=merge and model.get("merge_roles", True),
                system_role=not merge or model.get("system_role", True),
            )
            if any(event.reply.reasoning_text for event in transcript.conversation):
                said = _with_reasoning(said, transcript)
            out.write(b'{"messages":[%b],%b\n' % (said, _rest(transcript)))
            on_sessions(1)


def _rest(transcript: Transcript) -> bytes:
    """Return the fields of a line after its messages, without the brace at its beginning.

    `targets` has the correct label of each reply, null for that of a note or an exemplar. `exemplars`
    has the sample and label of each exemplar, and is left out if there are none.
    """
    shown = [{"sample": each.sample, "label": each.label} for each in transcript.header.exemplars]
    fields = {
        "metadata": _metadata(transcript),
        "labels": transcript.header.labels,
        "targets": [None] * len(shown)
        + [event.label if isinstance(event, Turn) else None for event in transcript.conversation],
        **({"exemplars": shown} if shown else {}),
    }
    return json.dumps(fields, ensure_ascii=False)[1:].encode()


def _with_reasoning(said: bytes, transcript: Transcript) -> bytes:
    """Return encoded messages with the reasoning of each reply as its `reasoning_content`."""
    messages = json.loads(b"[%b]" % said)
    replies = [message for message in messages if message["role"] == "assistant"]
    del replies[: len(transcript.header.exemplars)]
    for message, event in zip(replies, transcript.conversation, strict=True):
        if event.reply.reasoning_text:
            message["reasoning_content"] = event.reply.reasoning_text
    return json.dumps(messages, ensure_ascii=False)[1:-1].encode()


def _metadata(transcript: Transcript) -> dict[str, str]:
    """Return the metadata of a session; the format allows 16 keys with short texts as values."""
    header, settings = transcript.header, transcript.header.settings
    values = {
        "id": header.id,
        "experiment": header.experiment,
        "arm": header.arm,
        "stream": header.stream,
        "repeat": header.repeat,
        "seed": header.seed,
        "model": table_in(settings, "model").get("name", ""),
        "dataset": header.dataset.name,
        "prompts": table_in(settings, "task").get("prompts", ""),
        "policy": table_in(settings, "context").get("policy", ""),
        "feedback": table_in(settings, "feedback").get("kind", ""),
        "turns": len(transcript.turns),
        "planned": header.turns,
        "correct": sum(
            turn.feedback.correct for turn in transcript.turns if header.counts(turn.index)
        ),
        "status": transcript.end.status if transcript.end else "unfinished",
        "created": header.created,
    }
    return {
        key: "" if value is None else str(value)[:_VALUE_LENGTH] for key, value in values.items()
    }
