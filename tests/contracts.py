"""Contracts to inherit: a new model, policy, encoding or data set is tested by one call.

Each function checks the laws in its docstring and raises AssertionError if one is broken.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np
import pytest

from icl_loop.context.history import History
from icl_loop.context.policy import ContextPolicy, choose_turns, continued_turn
from icl_loop.context.window import Shown, Window, to_spans
from icl_loop.core.errors import ContextFull, RequestRefused
from icl_loop.core.messages import Message, Reply, fingerprint, merged, system
from icl_loop.core.records import Choice, Content, Event, Feedback, Measurements, Note, Turn
from icl_loop.core.tokens import REQUEST_TOKENS, count_messages
from icl_loop.models import ChatModel
from icl_loop.tasks.datasets import Dataset
from icl_loop.tasks.encodings import Encoding, Pixels
from icl_loop.tasks.task import Task


def check_encoding(encoding: Encoding, values: Pixels | Measurements | str) -> None:
    """Check that `decode` inverts `encode` to the precision of the encoding.

    Encoding the decoded values gives the same result, and a text is printable without a final line
    feed.
    """
    shown = encoding.encode(values)
    back = encoding.decode(shown)
    _check_alike(values, back, getattr(encoding, "step", 0))
    assert encoding.encode(back) == shown
    if isinstance(shown, str) and encoding.modality != "text":
        assert all(mark.isprintable() or mark == "\n" for mark in shown)
        assert not shown.endswith("\n")


def _check_alike(
    values: Pixels | Measurements | str, back: Pixels | Measurements | str, step: float
) -> None:
    """Check that pixels agree to half a step, numbers to 4 digits, and texts exactly."""
    if isinstance(values, Measurements):
        assert isinstance(back, Measurements)
        assert back.names == values.names
        assert np.all(np.abs(back.values - values.values) <= 0.5001e-3 * np.abs(values.values))
    elif isinstance(values, str):
        assert back == values
    else:
        assert isinstance(back, np.ndarray)
        assert back.dtype == np.float32
        assert back.shape == values.shape
        assert back.min() >= 0
        assert back.max() <= 1
        assert np.abs(back - values).max() <= step / 2 + 1e-6


def check_dataset(dataset: Dataset) -> None:
    """Check the samples, labels and ids of a data set, and that its checksum is stable.

    A stream draws without replacement, is a function of its key, and begins with a shorter stream.
    """
    count = min(len(dataset), 200)
    samples = [dataset[index] for index in range(count)]
    assert len({sample.id for sample in samples}) == count
    assert {sample.modality for sample in samples} == {dataset.modality}
    for sample in samples:
        _check_content(sample.content)
        assert sample.label in dataset.labels
    assert len(set(dataset.labels)) == len(dataset.labels) >= 2
    again = Dataset(dataset.name, dataset.contents, dataset.classes, dataset.labels)
    assert again.sha256 == dataset.sha256
    smallest = int(np.bincount(dataset.classes, minlength=len(dataset.labels)).min())
    drawn = dataset.stream(smallest, seed=1, number=0)  # no class can be needed more often
    assert len(set(drawn)) == len(drawn) == smallest
    assert drawn == dataset.stream(smallest, seed=1, number=0)
    assert drawn[: smallest // 2] == dataset.stream(smallest // 2, seed=1, number=0)


def _check_content(content: Content) -> None:
    """Check that images are uint8, grey or RGB; rows finite and named; and texts not blank."""
    if isinstance(content, str):
        assert content.strip()
    elif isinstance(content, Measurements):
        assert content.values.shape == (len(content.names),)
        assert len(set(content.names)) == len(content.names) >= 1
        assert np.isfinite(content.values).all()
    else:
        assert content.dtype == np.uint8
        assert content.ndim == 2 or content.shape[2:] == (3,)
        assert min(content.shape) >= 1


def check_policy(
    policy: ContextPolicy,
    task: Task,
    played: Sequence[Event],
    window: Window,
) -> list[Shown]:
    """Check a policy; return the turns that it shows before each turn of a session.

    It shows past turns only, each once, within the budget, and the request fits the window less the
    reserve. It chooses the same turns every time, whether the history was built at once or turn by
    turn, and if samples, labels and scores are removed. The counted tokens of a request are correct,
    and `prefix` is the part that the request shares with the one that it continues.
    """
    history, blind = (History.for_task(task, window) for _ in range(2))
    so_far: list[Event] = []
    shown_before_each: list[Shown] = []
    requests: list[Sequence[Message]] = []
    for event in played:
        if isinstance(event, Choice):
            continue  # no later request shows it
        if isinstance(event, Note):
            history.add(event)
            blind.add(event)
            so_far.append(event)
            requests = [task.opening] * len(requests)  # all that is shared across a note
            continue
        try:
            shown = choose_turns(policy, history, event.question)
        except ContextFull:
            break
        anew = History.for_task(task, window, so_far)
        for other in (history, blind, anew):
            assert list(choose_turns(policy, other, event.question)) == list(shown)
        assert len(set(shown)) == len(shown)
        assert all(0 <= each < event.index for each in shown)
        assert history.tokens.of_turns(shown) <= history.tokens.available(event.question)
        request = history.request(shown, event.question)
        last = continued_turn(policy, history, event.question)
        before = requests[last] if last >= 0 else task.opening * bool(requests)
        _check_tokens(request, before, history, shown, last)
        requests.append(request)
        shown_before_each.append(shown)
        turn = replace(event, kept=to_spans(shown))
        history.add(turn)
        blind.add(_blinded(turn))
        so_far.append(turn)
    return shown_before_each


def _blinded(turn: Turn) -> Turn:
    """Return the turn without everything that the messages of its session do not say."""
    opposite = Feedback(not turn.feedback.correct, turn.feedback.told)
    return replace(turn, sample="?", label="?", answer=None, outcome="refusal", feedback=opposite)


def _check_tokens(
    request: Sequence[Message],
    before: Sequence[Message],
    history: History,
    shown: Shown,
    last: int,
) -> None:
    """Check the counted tokens of a request and of the prefix that it shares with `before`.

    That is the request of turn `last`.
    """
    window = history.tokens.window
    sent = merged(request) if window.merged else request
    tokens = count_messages(window.counter, sent) + REQUEST_TOKENS
    counted = history.tokens.of_request(shown, request[-1])
    prefix = history.prefix_tokens(shown, last)
    assert tokens <= counted <= window.tokens - window.reserve
    assert 0 <= prefix < counted
    if not window.merged:
        pairs = zip(before, request, strict=False)
        common = [new for _, new in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        assert tokens == counted
        assert prefix == count_messages(window.counter, common)


async def check_built_in(
    make: Callable[[int], ChatModel], conversation: Sequence[Message]
) -> Reply:
    """Check the built-in model that `make` opens from a seed; return its reply.

    The reply depends only on the seed and the request: not on earlier requests, and not on whether
    neighbouring messages of one role are merged. It also answers without past turns, and it refuses
    an unknown system text.
    """
    model, other = make(1), make(1)
    reply = await check_model(model, conversation)
    empty = [conversation[0], conversation[-1]]
    at_first = await check_model(model, empty)
    for _ in range(2):
        assert await check_model(other, merged(conversation)) == reply
        assert await check_model(other, empty) == at_first
    unknown = [system(conversation[0].text + "!"), *conversation[1:]]
    with pytest.raises(RequestRefused, match="does not begin with the system text"):
        await check_model(model, unknown)
    return reply


async def check_model(model: ChatModel, conversation: Sequence[Message]) -> Reply:
    """Check a model; return its reply to `conversation`.

    `complete` is a coroutine function that leaves the messages unchanged and returns a text with
    consistent token counts.
    """
    before = fingerprint(conversation)
    answering = model.complete(conversation)
    assert inspect.iscoroutine(answering)
    reply: Reply = await answering
    assert fingerprint(conversation) == before
    assert isinstance(reply.text, str)
    assert reply.attempts >= 1
    assert reply.latency_s is None or reply.latency_s >= 0
    usage = reply.usage
    assert 0 <= usage.cached <= usage.prompt
    assert 0 <= usage.reasoning <= usage.completion
    return reply
