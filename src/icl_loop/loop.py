"""The loop: an async generator of turns. It opens no file and prints nothing."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from icl_loop.context.fork import Fork, spare_tokens
from icl_loop.context.history import History
from icl_loop.context.policies import notes_policy
from icl_loop.context.policy import ContextPolicy, continued_turn
from icl_loop.context.window import Shown, Window, from_spans, to_spans
from icl_loop.core.errors import ContextOverflow
from icl_loop.core.messages import Message, Reply, fingerprint
from icl_loop.core.records import Choice, Event, Exchange, Note, Probe, Sample, Turn
from icl_loop.core.tokens import truncate
from icl_loop.models.chat import ChatModel
from icl_loop.tasks.reply_marks import split_thoughts, without_marks
from icl_loop.tasks.task import Task

OVERFLOW_SHRINK = 0.8
"""After a context overflow, the next request is at most this fraction of the rejected one."""


async def play(
    task: Task, model: ChatModel, policy: ContextPolicy, window: Window | None = None
) -> AsyncIterator[Turn]:
    """Play `task` turn by turn, showing `model` the past turns that `policy` chooses.

    `window` limits the tokens of a request; by default to 32,768.

    Yields:
        Each turn when it is finished.

    Raises:
        ContextFull: A question, or the turns that `policy` requires, do not fit the window.
        ModelError: The model did not answer; the turn is not yielded.
    """
    async for event in play_events(task, model, policy, History.for_task(task, window)):
        if isinstance(event, Turn):
            yield event


async def play_events(
    task: Task, model: ChatModel, policy: ContextPolicy, history: History
) -> AsyncIterator[Event]:
    """Play the turns of `task` that are not in `history` yet; add them to it, notes included.

    Yields:
        Each turn, and before it the note that `policy` has the model write, and the model's choice
        of the sample, if these are due.
    """
    notes = notes_policy(policy)
    task, samples = task.with_choices(history.turns)
    for index in range(len(history.turns), len(task)):
        if notes is not None and notes.is_due(history):
            exchange = await _ask(model, policy, Fork(history, task), notes.question(history))
            _, said = split_thoughts(exchange.reply.text)
            counter = history.tokens.window.counter
            text = truncate(without_marks(said).strip(), notes.tokens, counter)
            note = Note(after_turn=index, text=text, **vars(exchange))
            history.add(note)
            yield note
        if index in task.candidates:
            reply = None
            if task.chooser == "model":
                question = task.choice_question(index)
                exchange = await _ask(model, policy, Fork(history, task), question)
                choice = _choice(index, task, exchange)
                history.add(choice)
                yield choice
                reply = exchange.reply
            samples[index], _ = task.choose(index, reply)
        turn = await _play(index, task, model, policy, history)
        history.add(turn)
        yield turn


def _choice(index: int, task: Task, exchange: Exchange) -> Choice:
    sample, parsed = task.choose(index, exchange.reply)
    return Choice(
        after_turn=index,
        candidates=tuple(each.id for each in task.candidates[index]),
        number=None if parsed.answer is None else int(parsed.answer),
        outcome=parsed.outcome,
        sample=sample.id,
        **vars(exchange),
    )


async def _play(
    index: int, task: Task, model: ChatModel, policy: ContextPolicy, history: History
) -> Turn:
    """Ask about one sample, parse and score the answer, and choose the feedback."""
    question, calibration = task.question(index), history.tokens.calibration.value
    exchange = await _ask(model, policy, Fork(history, task), question)
    parsed = task.parse(exchange.reply)
    return Turn(
        index=index,
        sample=task.samples[index].id,
        label=task.true_label(index),
        question=question,
        answer=parsed.answer,
        outcome=parsed.outcome,
        feedback=task.score(index, parsed.answer, history.turns),
        echo=task.shown_reply(index, exchange.reply, parsed.answer),
        calibration=calibration,
        **vars(exchange),
    )


async def ask_probes(
    task: Task,
    model: ChatModel,
    policy: ContextPolicy,
    history: History,
    saved: Iterable[Probe] = (),
) -> AsyncGenerator[Probe]:
    """Ask the probes due after the turns in `history`, which does not change; yield each.

    Those in `saved` are not asked again. Probes with other verdicts show the turns that the probe
    with the verdicts as told showed. Before the first turn there are no verdicts to change.

    Raises:
        ContextFull: A question, or the turns that `policy` requires, do not fit the window.
        InputError: The feedback on a turn cannot be flipped.
        ModelError: The model did not answer.
    """
    played = len(history.turns)
    if played not in task.checkpoints:
        return
    asked = {(each.verdicts, each.sample): each for each in saved if each.after_turn == played}
    spare = spare_tokens(history, task)
    for verdicts in task.verdicts if played else task.verdicts[:1]:
        fork = Fork(history, task, verdicts, spare)
        before: Shown = ()
        for sample in task.probes:
            key = verdicts, sample.id
            if key not in asked:
                told = asked.get(("told", sample.id))
                kept = None if told is None else from_spans(told.kept)
                asked[key] = await _probe(sample, model, policy, fork, kept, before)
                yield asked[key]
            before = from_spans(asked[key].kept)


async def _probe(
    sample: Sample,
    model: ChatModel,
    policy: ContextPolicy,
    fork: Fork,
    kept: Shown | None,
    before: Shown,
) -> Probe:
    task = fork.task
    exchange = await _ask(model, policy, fork, task.question_about(sample), kept, before)
    played = len(fork.history.turns)
    parsed, label = task.parse(exchange.reply), task.label_of(sample, played)
    return Probe(
        after_turn=played,
        sample=sample.id,
        label=label,
        answer=parsed.answer,
        outcome=parsed.outcome,
        correct=parsed.answer == label,
        verdicts=fork.verdicts,
        **vars(exchange),
    )


async def _ask(
    model: ChatModel,
    policy: ContextPolicy,
    fork: Fork,
    question: Message,
    kept: Shown | None = None,
    before: Shown = (),
) -> Exchange:
    """Ask `question` after the past turns; show fewer if the model rejects the request as too long.

    Args:
        model: The model.
        policy: Chooses the turns.
        fork: The history.
        question: The question.
        kept: The turns to show; None asks the policy.
        before: The turns that the previous request of the fork showed.
    """
    limit, overflows = fork.history.tokens.limit, 0
    last = continued_turn(policy, fork.history, question)
    while True:
        if kept is None or overflows:
            kept = fork.choose(policy, question, limit)
        request = fork.request(kept, question)
        counted = fork.counted(kept, question)
        try:
            reply = await _complete(model, request)
        except ContextOverflow:
            if not kept:
                raise
            limit, overflows = int(OVERFLOW_SHRINK * counted), overflows + 1
        else:
            return Exchange(
                kept=to_spans(kept),
                request=fingerprint(request),
                reply=reply,
                overflows=overflows,
                limit=limit if overflows else None,
                counted=counted,
                prefix=fork.prefix(kept, last, before),
            )


async def _complete(model: ChatModel, request: tuple[Message, ...]) -> Reply:
    """Return the model's reply, with its latency and time filled in if the model left them out."""
    start = time.perf_counter()
    reply = await model.complete(request)
    latency = time.perf_counter() - start if reply.latency_s is None else reply.latency_s
    at = reply.at or datetime.now(UTC).isoformat(timespec="milliseconds")
    return replace(reply, latency_s=round(latency, 6), at=at)
