"""A saved session as another context policy would have shown it."""

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from icl_loop.context import (
    ContextPolicy,
    History,
    MessageParser,
    Shown,
    build_request,
    choose_turns,
    compares_images,
    from_spans,
    notes_policy,
    to_spans,
)
from icl_loop.core.errors import ContextFull, InputError
from icl_loop.core.messages import Usage, system
from icl_loop.core.records import Turn
from icl_loop.core.validation_messages import complaint
from icl_loop.experiment import Session, Settings
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
        try:
            shown = choose_turns(policy, history, turn.question, limit)
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
        history.add(event)
    return replace(transcript, turns=tuple(turns))


def _counted(turn: Turn, history: History) -> Turn:
    shown = from_spans(turn.kept)
    counted = history.tokens.of_request(shown, turn.question)
    return replace(turn, counted=counted, prefix=history.prefix_tokens(shown))


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
        history.add(event)
    return history


def _begun(transcript: Transcript, session: Session) -> History:
    """Return the history of a session before its first turn."""
    header, settings = transcript.header, session.settings
    labels = tuple(header.labels)
    prompts, delay = open_prompt_set(settings.task.prompts), settings.feedback.delay
    rule = settings.answers.as_rule()
    parser = MessageParser(prompts, settings.task.encoding, labels, delay, rule)
    key = (session.seed, session.stream)
    return History(session.window, system(header.system), parser, key)


def _check(policy: ContextPolicy, session: Session) -> None:
    """Raise InputError if a policy asks for what the session does not have."""
    if notes_policy(policy) is not None:
        raise InputError(
            f"{policy} needs the model: nobody knows what it would have written in other notes"
        )
    modality = get_encoding(session.settings.task.encoding).modality
    if compares_images(policy) and modality != "picture":
        raise InputError(f"{policy}: nearest compares pictures, and a {modality} is none")


def _as_shown(turn: Turn, shown: Shown, history: History, header: Header) -> Turn:
    """Return a turn with the request that shows these turns."""
    request = build_request(system(header.system), history.turns, shown, turn.question)
    return replace(
        turn,
        kept=to_spans(shown),
        request=request.fingerprint,
        calibration=history.tokens.calibration.value,
        counted=history.tokens.of_request(shown, turn.question),
        prefix=history.prefix_tokens(shown),
    )


def _learn(history: History, turn: Turn, shown: Shown) -> None:
    """Add a turn; what the endpoint reported is set against the request that it was sent."""
    reported = turn.reply.usage.prompt
    sent = turn.counted or history.tokens.of_request(from_spans(turn.kept), turn.question)
    silent = replace(turn.reply, usage=Usage())
    history.add(replace(turn, kept=to_spans(shown), reply=silent))
    if reported:
        history.tokens.calibration.add(reported, sent)


def _limits(transcript: Transcript, session: Session) -> list[int | None]:
    """Return for each turn how many tokens the endpoint was known to refuse when it was asked."""
    if not any(event.overflows for event in transcript.events):
        return [None] * len(transcript.turns)
    history, limits = _begun(transcript, session), []
    for event in transcript.events:
        history.add(event)
        if isinstance(event, Turn):
            limits.append(history.tokens.limit)
    return limits


def _under(header: Header, policy: ContextPolicy) -> Header:
    """Return the header of the same session under another policy."""
    context: dict[str, Any] = {**header.settings.get("context", {}), "policy": str(policy)}
    return header.model_copy(update={"settings": {**header.settings, "context": context}})
