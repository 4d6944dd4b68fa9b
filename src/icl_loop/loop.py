"""The loop: an async generator of turns. It opens no file, prints nothing, counts nothing."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from icl_loop.context import ContextPolicy, Past, Shown, Tally, Window, spans
from icl_loop.errors import ContextFull, ContextOverflow
from icl_loop.messages import Message, Reply, Request
from icl_loop.models import ChatModel
from icl_loop.records import Turn
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
        asked = count_message(window.counter, question)
        calibration, overflows = tally.calibration, 0
        while True:
            budget = tally.budget(asked)
            if budget < 0:
                raise ContextFull(0, budget)
            shown = keep(Past(turns, tally, range(index), budget, question, task.key))
            request = recall(task.system, turns, shown, question)
            try:
                reply = await _timed(model, request)
                break
            except ContextOverflow:
                if not shown:
                    raise
                overflows += 1
                tally.overflow(asked, shown)
        reading = task.read(reply)
        turn = Turn(
            index=index,
            sample=task.samples[index].id,
            label=task.truth(index),
            question=question,
            kept=spans(shown),
            request=request.fingerprint,
            reply=reply,
            answer=reading.answer,
            outcome=reading.outcome,
            feedback=task.judge(index, reading.answer),
            overflows=overflows,
            calibration=calibration,
        )
        yield turn
        turns.append(turn)
        tally.add(turn, asked, shown)


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
