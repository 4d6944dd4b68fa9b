"""What-if: replay saved sessions under another context policy, without any request."""

from dataclasses import replace

from icl_loop.context.history import History
from icl_loop.context.message_parser import MessageParser
from icl_loop.context.policies import notes_policy
from icl_loop.context.policy import ContextPolicy, choose_turns, continued_turn
from icl_loop.context.window import Shown, from_spans, to_spans
from icl_loop.core.errors import ContextFull, InputError
from icl_loop.core.messages import Usage, fingerprint, system
from icl_loop.core.records import Event, Turn
from icl_loop.experiment import Session
from icl_loop.tasks.prompts import open_prompt_set
from icl_loop.transcripts import End, Transcript


def shown_under(transcript: Transcript, policy: ContextPolicy) -> Transcript:
    """Return a saved session with the requests that `policy` would have made.

    Questions, replies and told texts stay; `kept`, `request`, `calibration`, `counted` and `prefix`
    are new. The session ends where the policy finds the context window full. The endpoint's token
    counts and rejected requests are taken from the transcript.

    Raises:
        InputError: The policy needs the model, or the settings are not valid here.
    """
    if notes_policy(policy) is not None:
        raise InputError(f"{policy} needs the model, which would have written other notes")
    history, turns, limit = played_history(transcript, ()), list[Turn](), None
    for event in transcript.events:
        if event.overflows:
            limit = event.counted if event.limit is None else event.limit
        if isinstance(event, Turn):
            try:
                shown = choose_turns(policy, history, event.question, limit)
            except ContextFull:
                break
            last = continued_turn(policy, history, event.question)
            turns.append(_with_request(event, shown, history, last))
            _add(history, event, shown)
    is_whole = len(turns) == len(transcript.turns)
    settings = transcript.header.settings
    context = {**settings.get("context", {}), "policy": str(policy)}
    return replace(
        transcript,
        header=transcript.header.model_copy(update={"settings": {**settings, "context": context}}),
        turns=tuple(turns),
        end=transcript.end if is_whole else End(status="context_full", turns=len(turns), at=""),
        probes=(),
        notes=(),
        choices=(),
    )


def as_played(transcript: Transcript) -> Transcript:
    """Return a saved session with its requests as played, counting tokens that were not saved."""
    if all(turn.counted is not None for turn in transcript.turns):
        return transcript
    history, turns = played_history(transcript, ()), list[Turn]()
    for event in transcript.events:
        if isinstance(event, Turn):
            shown = from_spans(event.kept)
            counted = history.tokens.of_request(shown, event.question)
            turns.append(replace(event, counted=counted, prefix=history.prefix_tokens(shown)))
        history.add(event)
    return replace(transcript, turns=tuple(turns))


def played_history(transcript: Transcript, events: tuple[Event, ...]) -> History:
    """Return the history of a saved session after `events`, without opening its data set."""
    header, session = transcript.header, _session(transcript)
    settings = session.settings
    parser = MessageParser(
        open_prompt_set(settings.task.prompts),
        settings.task.encoding,
        tuple(header.labels),
        settings.feedback.policy(),
        settings.rule,
    )
    key = (session.seed, header.stream)
    exemplars = [each.exemplar for each in header.exemplars]
    return History(session.window, system(header.system or ""), parser, key, events, exemplars)


def _session(transcript: Transcript) -> Session:
    transcript.header.check_replayable(transcript.path)
    return Session.of(transcript.header, where=f"{transcript.path}: recorded settings")


def _with_request(turn: Turn, shown: Shown, history: History, last: int) -> Turn:
    """Return a turn whose request shows the turns `shown` and continues that of turn `last`."""
    return replace(
        turn,
        kept=to_spans(shown),
        request=fingerprint(history.request(shown, turn.question)),
        calibration=history.tokens.calibration.value,
        counted=history.tokens.of_request(shown, turn.question),
        prefix=history.prefix_tokens(shown, last),
    )


def _add(history: History, turn: Turn, shown: Shown) -> None:
    """Add a turn that showed `shown`, but calibrate by the request that was really sent."""
    reported = turn.reply.usage.prompt
    sent = turn.counted or history.tokens.of_request(from_spans(turn.kept), turn.question)
    silent = replace(turn.reply, usage=Usage())
    history.add(replace(turn, kept=to_spans(shown), reply=silent))
    if reported:
        images = history.tokens.of_images(turn, from_spans(turn.kept))
        history.tokens.calibration.add(reported, sent, images)
