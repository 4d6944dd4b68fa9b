"""The loop: an async generator of turns. It opens no file, prints nothing, counts nothing."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from icl_loop.context import ContextPolicy, Past, Shown, Tally, Window, shown_in, spans
from icl_loop.errors import ContextFull, ContextOverflow
from icl_loop.messages import Message, Reply, Request
from icl_loop.models import ChatModel
from icl_loop.records import Probe, Sample, Turn
from icl_loop.task import Task
from icl_loop.tokens import count_message


async def play(
    task: Task, model: ChatModel, keep: ContextPolicy, window: Window | None = None
) -> AsyncIterator[Turn]:
    """Play `task` turn by turn, showing `model` the past turns that `keep` chooses.

    Args:
        task: What is asked, turn by turn.
        model: Who answers.
        keep: Chooses the past turns of each request.
        window: Limits the tokens of a request; 32,768 with room for the reply if None.

    Yields:
        One finished turn at a time.

    Raises:
        ContextFull: `keep` insists on more turns than fit, or a question alone does not fit.
        ModelError: The model did not answer; the turn is not yielded.
    """
    window = window or Window()
    turns: list[Turn] = []
    tally = Tally.of_frame(window, task.system)
    for index in range(len(task)):
        question = task.ask(index)
        calibration = tally.calibration
        asked = await _ask(task, model, keep, turns, tally, question)
        reading = task.read(asked.reply)
        turn = Turn(
            index=index,
            sample=task.samples[index].id,
            label=task.truth(index),
            question=question,
            kept=spans(asked.shown),
            request=asked.request.fingerprint,
            reply=asked.reply,
            answer=reading.answer,
            outcome=reading.outcome,
            feedback=task.judge(index, reading.answer, turns),
            overflows=asked.overflows,
            calibration=calibration,
            echo=task.echo(index, asked.reply, reading.answer),
        )
        yield turn
        turns.append(turn)
        tally.add(turn, count_message(window.counter, question), asked.shown)


async def probe(
    task: Task,
    model: ChatModel,
    keep: ContextPolicy,
    turns: Sequence[Turn],
    sample: Sample,
    window: Window | None = None,
) -> Probe:
    """Ask about a held-out sample after `turns`, in a fork that leaves the session as it is.

    Raises:
        ContextFull: The question does not fit.
        ModelError: The model did not answer.
    """
    tally = _tally_of(task, window or Window(), turns)
    asked = await _ask(task, model, keep, turns, tally, task.ask_about(sample))
    reading, label = task.read(asked.reply), task.name(sample, len(turns))
    return Probe(
        after_turn=len(turns),
        sample=sample.id,
        label=label,
        kept=spans(asked.shown),
        request=asked.request.fingerprint,
        reply=asked.reply,
        answer=reading.answer,
        outcome=reading.outcome,
        correct=reading.answer == label,
        overflows=asked.overflows,
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that was answered, and how many were refused as too long before it."""

    request: Request
    shown: Shown
    reply: Reply
    overflows: int


async def _ask(
    task: Task,
    model: ChatModel,
    keep: ContextPolicy,
    turns: Sequence[Turn],
    tally: Tally,
    question: Message,
) -> _Asked:
    """Ask a question after `turns`; where the model says that it is too much, show less."""
    tokens, overflows = count_message(tally.window.counter, question), 0
    while True:
        budget = tally.budget(tokens)
        if budget < 0:
            raise ContextFull(0, budget)
        shown = keep(Past(turns, tally, range(len(turns)), budget, question, task.key))
        request = recall(task.system, turns, shown, question)
        try:
            return _Asked(request, shown, await _timed(model, request), overflows)
        except ContextOverflow:
            if not shown:
                raise
            overflows += 1
            tally.overflow(tokens, shown)


def _tally_of(task: Task, window: Window, turns: Sequence[Turn]) -> Tally:
    """Return the tally of a session after these turns."""
    tally = Tally.of_frame(window, task.system)
    for turn in turns:
        tally.add(turn, count_message(window.counter, turn.question), shown_in(turn.kept))
    return tally


def recall(system: Message, turns: Sequence[Turn], shown: Shown, question: Message) -> Request:
    """Return the messages of a request: the frame, the turns shown, the question."""
    said = [message for index in shown for message in turns[index].messages]
    return Request((system, *said, question))


async def _timed(model: ChatModel, request: Sequence[Message]) -> Reply:
    """Return the model's reply, with the times that it left open filled in."""
    start = time.perf_counter()
    reply = await model.complete(request)
    latency = time.perf_counter() - start if reply.latency_s is None else reply.latency_s
    at = reply.at or datetime.now(UTC).isoformat(timespec="milliseconds")
    return replace(reply, latency_s=round(latency, 6), at=at)
