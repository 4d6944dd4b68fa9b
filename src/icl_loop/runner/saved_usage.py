"""Tokens used by the requests of a saved session, so that a resumed run keeps its budget."""

from collections.abc import Iterator
from functools import cache, partial

from icl_loop.context import History, from_spans
from icl_loop.core.messages import Usage
from icl_loop.core.records import Probe
from icl_loop.experiment import Session
from icl_loop.models.retrying import RequestPolicy
from icl_loop.transcripts import Transcript


def saved_usage(
    session: Session, policy: RequestPolicy | None, saved: Transcript
) -> Iterator[Usage]:
    """Yield the usage of each request that was made for the session itself, not for its parent.

    If the endpoint did not report tokens, they are estimated as `policy` does during a run.
    """
    shared = session.branch.identity.at if session.branch else 0
    turns = {turn.index: turn.counted or 0 for turn in saved.turns}
    longest = max(turns.values(), default=0)
    history = cache(partial(History.for_task, session.task, session.window, saved.events))
    own_probes = (probe for probe in saved.probes if probe.after_turn >= shared)
    for each in (*saved.events[len(session.shared_events) :], *own_probes):
        if policy is None or each.reply.usage.prompt:
            yield each.reply.usage
        elif not isinstance(each, Probe):
            yield policy.usage(each.counted or longest, each.reply)
        elif each.after_turn in turns:  # a probe is about as long as the turn after it
            yield policy.usage(turns[each.after_turn] or longest, each.reply)
        else:
            yield policy.usage(_counted(session, history(), each), each.reply)


def _counted(session: Session, history: History, probe: Probe) -> int:
    """Return the tokens of a saved probe that no turn came after."""
    task, shown = session.task, from_spans(probe.kept)
    sample = next((each for each in task.probes if each.id == probe.sample), None)
    if sample is None:
        return history.tokens.of_turns(shown)
    return history.tokens.of_request(shown, task.question_about(sample))
