"""The loop: an async generator of turns. It opens no file, prints nothing, counts nothing."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from icl_loop.context import (
    ContextPolicy,
    History,
    MessageParser,
    Notes,
    Past,
    Shown,
    Window,
    needed,
    notes_in,
    shown_in,
    spans,
)
from icl_loop.core.errors import ContextFull, ContextOverflow
from icl_loop.core.messages import Message, Reply, Request, user
from icl_loop.core.records import Event, Note, Probe, Sample, Turn
from icl_loop.core.tokens import TokenCounter, count_message
from icl_loop.models import ChatModel
from icl_loop.tasks.task import Task


async def play(
    task: Task,
    model: ChatModel,
    keep: ContextPolicy,
    window: Window | None = None,
    begun: Sequence[Event] = (),
) -> AsyncIterator[Turn]:
    """Play `task` turn by turn, showing `model` the past turns that `keep` chooses.

    Args:
        task: What is asked, turn by turn.
        model: Who answers.
        keep: Chooses the past turns of each request.
        window: Limits the tokens of a request; 32,768 with room for the reply if None.
        begun: What was played already; it is not played again.

    Yields:
        One finished turn at a time.

    Raises:
        ContextFull: `keep` insists on more turns than fit, or a question alone does not fit.
        ModelError: The model did not answer; the turn is not yielded.
    """
    async for event in events(task, model, keep, window, begun):
        if isinstance(event, Turn):
            yield event


async def events(
    task: Task,
    model: ChatModel,
    keep: ContextPolicy,
    window: Window | None = None,
    begun: Sequence[Event] | History = (),
) -> AsyncIterator[Event]:
    """Play `task` as `play` does, and yield the notes that were taken between the turns as well.

    Args:
        task: What is asked, turn by turn.
        model: Who answers.
        keep: Chooses the past turns of each request.
        window: Limits the tokens of a request.
        begun: What was played already, or its history: then that is what grows.
    """
    history = _grown(task, keep, window, begun)
    taking = notes_in(keep)
    for index in range(len(history.turns), len(task)):
        if taking is not None and taking.is_due(history):
            note = await _take_note(taking, task, model, keep, history)
            history.take(note)
            yield note
        turn, shown = await _play_turn(index, task, model, keep, history)
        history.add(turn, shown)
        yield turn
        history.let_go(partial(needed, keep, history))


async def _play_turn(
    index: int, task: Task, model: ChatModel, keep: ContextPolicy, history: History
) -> tuple[Turn, Shown]:
    """Ask, read, judge and feed back one sample; return the turn, and what its request showed."""
    question, calibration = task.question(index), history.tally.calibration
    asked = await _ask(task, model, keep, history, question)
    reading = task.parse(asked.reply)
    turn = Turn(
        index=index,
        sample=task.samples[index].id,
        label=task.true_label(index),
        question=question,
        kept=spans(asked.shown),
        request=asked.request.fingerprint,
        reply=asked.reply,
        answer=reading.answer,
        outcome=reading.outcome,
        feedback=task.score(index, reading.answer, history.turns),
        overflows=asked.overflows,
        calibration=calibration,
        echo=task.shown_reply(index, asked.reply, reading.answer),
        counted=asked.counted,
        prefix=asked.prefix,
    )
    return turn, asked.shown


async def _take_note(
    taking: Notes, task: Task, model: ChatModel, keep: ContextPolicy, history: History
) -> Note:
    """Have the model rewrite its notes, shown the turns that would be shown to it now."""
    question = _about_notes(taking, history)
    asked = await _ask(task, model, keep, history, question)
    counter = history.tally.window.counter
    return Note(
        after_turn=len(history.turns),
        kept=spans(asked.shown),
        request=asked.request.fingerprint,
        reply=asked.reply,
        text=_cut(asked.reply.text.strip(), taking.tokens, counter),
        overflows=asked.overflows,
        counted=asked.counted,
        prefix=asked.prefix,
    )


def _about_notes(taking: Notes, history: History) -> Message:
    return user(history.senses.notebook.ask(taking.tokens))


def _cut(text: str, tokens: int, counter: TokenCounter) -> str:
    """Return the longest beginning of whole words of `text` that takes at most `tokens` tokens."""
    if counter.count(text) <= tokens:
        return text
    ends = [place for place, mark in enumerate(text) if mark.isspace()]
    fits, too_long = 0, len(ends)
    while fits < too_long:
        middle = (fits + too_long) // 2
        if counter.count(text[: ends[middle]]) <= tokens:
            fits = middle + 1
        else:
            too_long = middle
    return text[: ends[fits - 1]].rstrip() if fits else ""


async def probe(
    task: Task,
    model: ChatModel,
    keep: ContextPolicy,
    begun: Sequence[Event] | History,
    sample: Sample,
    window: Window | None = None,
) -> Probe:
    """Ask about a held-out sample after what was played, in a fork that leaves the session as it is.

    Raises:
        ContextFull: The question does not fit.
        ModelError: The model did not answer.
    """
    return await _probe(task, model, keep, _grown(task, keep, window, begun), sample)


async def probes(
    task: Task,
    model: ChatModel,
    keep: ContextPolicy,
    begun: Sequence[Event] | History,
    samples: Iterable[Sample],
    window: Window | None = None,
) -> AsyncGenerator[Probe, None]:
    """Ask about held-out samples as `probe` does, each in a fork of its own.

    What was played is worked out once for all of them, or is known from the history of it.
    """
    history = _grown(task, keep, window, begun)
    for sample in samples:
        yield await _probe(task, model, keep, history, sample)


async def _probe(
    task: Task, model: ChatModel, keep: ContextPolicy, history: History, sample: Sample
) -> Probe:
    limit = history.tally.limit
    try:
        asked = await _ask(task, model, keep, history, task.question_about(sample))
    finally:
        history.tally.limit = limit  # what a fork was refused binds neither another nor the session
    played = len(history.turns)
    reading, label = task.parse(asked.reply), task.label_of(sample, played)
    return Probe(
        after_turn=played,
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


def history_of(
    task: Task, keep: ContextPolicy, window: Window | None = None, begun: Iterable[Event] = ()
) -> History:
    """Return the history of a session of this task that has played these already."""
    delay = task.feedback.delay
    senses = MessageParser(task.prompts, task.encoding.name, task.labels, delay, task.rule)
    history = History.begun(window or Window(), task.system, senses, task.key)
    for event in begun:
        hear(history, keep, event)
    return history


def hear(history: History, keep: ContextPolicy, event: Event) -> None:
    """Take a turn or note that was played into a history, and the refusals that came before it.

    What was refused is what `keep` would have shown. Under another policy than the one it was played
    under that is a guess; but what was answered is never taken to be too long.
    """
    if event.overflows:
        history.tally.limit = max(_limit(history, keep, event), event.counted or 0)
    if isinstance(event, Turn):
        history.add(event, shown_in(event.kept))
    else:
        history.take(event)


def _limit(history: History, keep: ContextPolicy, event: Event) -> float:
    """Return the tokens that no request may take any more once those of an event were refused."""
    taking = notes_in(keep) or Notes()
    question = event.question if isinstance(event, Turn) else _about_notes(taking, history)
    tokens = count_message(history.tally.window.counter, question)
    for _ in range(event.overflows):
        try:
            refused = _choice(history, keep, question, tokens)
        except ContextFull:
            break
        history.tally.overflow(tokens, refused)
    return history.tally.limit


def _choice(history: History, keep: ContextPolicy, question: Message, tokens: int) -> Shown:
    """Return the past turns that are shown beside a question of so many tokens."""
    budget = history.tally.budget(tokens)
    if budget < 0:
        raise ContextFull(0, budget)
    return keep(Past(history, range(len(history.turns)), budget, question))


def _grown(
    task: Task, keep: ContextPolicy, window: Window | None, begun: Sequence[Event] | History
) -> History:
    return begun if isinstance(begun, History) else history_of(task, keep, window, begun)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that was answered, what it took, and how many were refused as too long before it."""

    request: Request
    shown: Shown
    reply: Reply
    overflows: int
    counted: int
    prefix: int


async def _ask(
    task: Task, model: ChatModel, keep: ContextPolicy, history: History, question: Message
) -> _Asked:
    """Ask a question after what was played; where the model says it is too much, show less."""
    tokens, overflows = count_message(history.tally.window.counter, question), 0
    while True:
        shown = _choice(history, keep, question, tokens)
        request = recall(task.system, history.turns, shown, question, history.opening)
        try:
            reply = await _timed(model, request)
        except ContextOverflow:
            if not shown:
                raise
            overflows += 1
            history.tally.overflow(tokens, shown)
        else:
            counted, prefix = history.counted(shown, tokens), history.prefix(shown)
            return _Asked(request, shown, reply, overflows, counted, prefix)


def recall(
    system: Message,
    turns: Sequence[Turn],
    shown: Shown,
    question: Message,
    opening: Sequence[Message] = (),
) -> Request:
    """Return the messages of a request: the frame, notes if any, the turns shown, the question."""
    said = [message for index in shown for message in turns[index].messages]
    return Request((system, *opening, *said, question))


async def _timed(model: ChatModel, request: Sequence[Message]) -> Reply:
    """Return the model's reply, with the times that it left open filled in."""
    start = time.perf_counter()
    reply = await model.complete(request)
    latency = time.perf_counter() - start if reply.latency_s is None else reply.latency_s
    at = reply.at or datetime.now(UTC).isoformat(timespec="milliseconds")
    return replace(reply, latency_s=round(latency, 6), at=at)
