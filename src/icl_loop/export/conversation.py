"""The conversation of a saved session, as a list of messages.

Transcripts store notes but not the messages that ask for them and show them; these follow from the
settings and the prompt set, and are left out if either is unknown here.
"""

from icl_loop.analysis.session_settings import table_in
from icl_loop.context.policies import notes_policy
from icl_loop.context.policy_parser import context_policy
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, assistant, system, user
from icl_loop.core.records import Note, Turn
from icl_loop.tasks.prompts import NotePrompts, open_prompt_set
from icl_loop.transcripts import Transcript


def conversation(transcript: Transcript) -> list[Message]:
    """Return all messages in the order in which they were sent; replies are verbatim."""
    opening = transcript.header.system
    messages = [] if opening is None else [system(opening)]
    messages += transcript.header.exemplar_messages
    for event in transcript.conversation:
        if isinstance(event, Turn):
            told = user(event.feedback.told)
            messages += [event.question, assistant(event.reply.text), told]
        else:
            messages += [*note_request(transcript), assistant(event.reply.text)]
    return messages


def note_request(transcript: Transcript) -> list[Message]:
    """Return the message that asked for notes."""
    prompts = _note_prompts(transcript)
    try:
        policy = table_in(transcript.header.settings, "context").get("policy")
        notes = notes_policy(context_policy(str(policy)))
    except InputError:
        return []
    return [user(prompts.ask(notes.tokens))] if prompts and notes else []


def shown_note(transcript: Transcript, note: Note) -> list[Message]:
    """Return the message that shows a note in later requests; an empty note is not shown."""
    prompts = _note_prompts(transcript)
    return [user(prompts.show(note.text))] if prompts and note.text.strip() else []


def _note_prompts(transcript: Transcript) -> NotePrompts | None:
    try:
        return open_prompt_set(
            str(table_in(transcript.header.settings, "task").get("prompts"))
        ).notes
    except InputError:
        return None
