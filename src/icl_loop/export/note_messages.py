"""The messages about notes, which transcripts do not hold: they follow from settings and prompt set."""

from collections.abc import Mapping
from typing import Any

from icl_loop.context import context_policy, notes_policy
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, user
from icl_loop.core.records import Note
from icl_loop.tasks.prompts import NotePrompts, open_prompt_set
from icl_loop.transcripts import Transcript


def question(transcript: Transcript) -> tuple[Message, ...]:
    """Return the message that asked for notes; nothing if the settings are not known here."""
    book, policy = _notebook(transcript), _table(transcript, "context").get("policy")
    try:
        taking = notes_policy(context_policy(str(policy)))
    except InputError:
        taking = None
    return (user(book.ask(taking.tokens)),) if book and taking else ()


def shown(transcript: Transcript, note: Note) -> tuple[Message, ...]:
    """Return the message that later requests began with; nothing if there is nothing in the notes."""
    book = _notebook(transcript)
    return (user(book.show(note.text)),) if book and note.text.strip() else ()


def _notebook(transcript: Transcript) -> NotePrompts | None:
    try:
        return open_prompt_set(str(_table(transcript, "task").get("prompts"))).notes
    except InputError:
        return None


def _table(transcript: Transcript, name: str) -> Mapping[str, Any]:
    found = transcript.header.settings.get(name)
    return found if isinstance(found, dict) else {}
