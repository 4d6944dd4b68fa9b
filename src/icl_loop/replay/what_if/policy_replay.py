"""A saved session as another context policy would have shown it."""

import math
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from icl_loop.context import (
    ContextPolicy,
    History,
    MessageParser,
    Past,
    Shown,
    looks,
    notes_in,
    shown_in,
    spans,
)
from icl_loop.core.errors import ContextFull, InputError
from icl_loop.core.messages import Message, Usage, system
from icl_loop.core.records import Turn
from icl_loop.core.tokens import count_message
from icl_loop.core.validation_messages import complaint
from icl_loop.experiment import Session, Settings
from icl_loop.loop import hear, recall
from icl_loop.tasks.encodings import get_encoding
from icl_loop.tasks.prompts import open_prompt_set
from icl_loop.transcripts import End, Header, Transcript


def shown_under(transcript: Transcript, policy: ContextPolicy) -> Transcript:
    """Return a saved session with its past shown as `policy` would have shown it.

    Questions, replies and told words stay as they were. `kept`, `counted`, `prefix` and `request` are
    those of the requests that the policy would have made, up to where it would have found the window
    full. What the endpoint counted, and what it refused as too long, is taken as it was.

    Raises:
        InputError: The policy needs the model or a picture, or the settings cannot be followed.
    """
    session = _session_of(transcript)
    _check(policy, session)
    history, limits = _begun(transcript, session), _limits(transcript, session)
    turns: list[Turn] = []
    for turn, limit in zip(transcript.turns, limits, strict=True):
        history.tally.limit = limit
        try:
            shown = _choice(history, policy, turn.question)
        except ContextFull:
            break
        turns.append(_as_shown(turn, shown, history, transcript.header))
        _learn(history, turn, shown)
    whole = len(turns) == len(transcript.turns)
    return replace(
        transcript,
        header=_under(transcript.header, policy),
        turns=tuple(turns),
        end=transcript.end if whole else End(status="context_full", turns=len(turns), at=""),
        probes=(),
        notes=(),
    )


def as_played(transcript: Transcript) -> Transcript:
    """Return a saved session as it was shown; tokens that were not saved are counted."""
    if all(turn.counted is not None for turn in transcript.turns):
        return transcript
    history, turns = _begun(transcript, _session_of(transcript)), list[Turn]()
    for event in transcript.events:
        if isinstance(event, Turn):
            turns.append(_counted(event, history))
            history.add(event, shown_in(event.kept))
        else:
            history.take(event)
    return replace(transcript, turns=tuple(turns))


def _counted(turn: Turn, history: History) -> Turn:
    shown = shown_in(turn.kept)
    counted = history.counted(shown, _tokens(history, turn.question))
    return replace(turn, counted=counted, prefix=history.prefix(shown))


def _session_of(transcript: Transcript) -> Session:
    """Return the session that a transcript was played as; its data are not opened."""
    header = transcript.header
    played_under = header.settings if header.source is None else header.source.settings
    try:
        settings = Settings.model_validate(played_under)
    except ValidationError as error:
        raise InputError(f"{transcript.path}: recorded settings, {complaint(error)}") from None
    return Session(
        header.experiment, header.arm, header.stream, header.turns, header.seed, settings
    )


def history_of(transcript: Transcript) -> History:
    """Return the history of a saved session as it was at its end."""
    history = _begun(transcript, _session_of(transcript))
    for event in transcript.events:
        if isinstance(event, Turn):
            history.add(event, shown_in(event.kept))
        else:
            history.take(event)
    return history


def _begun(transcript: Transcript, session: Session) -> History:
    """Return the history of a session before its first turn."""
    header, settings = transcript.header, session.settings
    labels = tuple(header.labels)
    prompts, delay = open_prompt_set(settings.task.prompts), settings.feedback.delay
    rule = settings.answers.as_rule()
    senses = MessageParser(prompts, settings.task.encoding, labels, delay, rule)
    key = (session.seed, session.stream)
    return History.begun(session.window, system(header.system), senses, key)


def _check(policy: ContextPolicy, session: Session) -> None:
    """Raise InputError if a policy asks for what the session does not have."""
    if notes_in(policy) is not None:
        raise InputError(
            f"{policy} needs the model: nobody knows what it would have written in other notes"
        )
    modality = get_encoding(session.settings.task.encoding).modality
    if looks(policy) and modality != "picture":
        raise InputError(f"{policy}: nearest compares pictures, and a {modality} is none")


def _choice(history: History, policy: ContextPolicy, question: Message) -> Shown:
    """Return the turns that a policy shows beside a question."""
    budget = history.tally.budget(_tokens(history, question))
    if budget < 0:
        raise ContextFull(0, budget)
    return policy(Past(history, range(len(history.turns)), budget, question))


def _tokens(history: History, question: Message) -> int:
    return count_message(history.tally.window.counter, question)


def _as_shown(turn: Turn, shown: Shown, history: History, header: Header) -> Turn:
    """Return a turn with the request that shows these turns."""
    request = recall(system(header.system), history.turns, shown, turn.question)
    return replace(
        turn,
        kept=spans(shown),
        request=request.fingerprint,
        calibration=history.tally.calibration,
        counted=history.counted(shown, _tokens(history, turn.question)),
        prefix=history.prefix(shown),
    )


def _learn(history: History, turn: Turn, shown: Shown) -> None:
    """Add a turn; what the endpoint reported is set against the request that it was sent."""
    reported = turn.reply.usage.prompt
    sent = turn.counted or history.counted(shown_in(turn.kept), _tokens(history, turn.question))
    silent = replace(turn, reply=replace(turn.reply, usage=Usage())) if reported else turn
    history.add(silent, shown)
    if reported:
        history.tally.ratios.append(reported / sent)


def _limits(transcript: Transcript, session: Session) -> list[float]:
    """Return for each turn how many tokens the endpoint was known to refuse when it was asked."""
    if not any(event.overflows for event in transcript.events):
        return [math.inf] * len(transcript.turns)
    history, limits = _begun(transcript, session), []
    for event in transcript.events:
        hear(history, session.policy, event)
        if isinstance(event, Turn):
            limits.append(history.tally.limit)
    return limits


def _under(header: Header, policy: ContextPolicy) -> Header:
    """Return the header of the same session under another policy."""
    context: dict[str, Any] = {**header.settings.get("context", {}), "policy": str(policy)}
    return header.model_copy(update={"settings": {**header.settings, "context": context}})
