"""Context policies: the turns they show, in which order, and their tokens."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_distances
from sklearn.preprocessing import StandardScaler

from builders import experiment, play_on, played, session
from contracts import check_policy
from icl_loop.context.history import History, Past, build_request
from icl_loop.context.message_parser import MessageParser
from icl_loop.context.policy import continued_turn
from icl_loop.context.policy_parser import POLICIES, context_policy
from icl_loop.context.window import Window, from_spans
from icl_loop.core.errors import ContextFull, InputError
from icl_loop.core.messages import Message, Reply, fingerprint
from icl_loop.core.records import Event, Feedback, Note, Turn
from icl_loop.experiment import Session
from icl_loop.loop import ask_probes, play_events
from icl_loop.models import CallableModel, ChatModel, ReplayModel, ScriptedModel

SINGLE = [
    "stateless",
    "last(3)",
    "within",
    "within(700)",
    "block",
    "block(0.9, 0.3)",
    "first",
    "first(4)",
    "only_correct",
    "only_incorrect",
    "stochastic(0.4)",
    "redrawn(0.4)",
    "parallel(3, 0.4)",
    "reservoir(5)",
    "reservoir(None)",
    "per_class(2)",
    "nearest(4)",
    "notes(6, 60)",
    "reset(9)",
    "all",
]
CHAINED = [
    "last(5) | within(800)",
    "last(6) | block",
    "only_correct | block",
    "only_incorrect | stochastic(0.5) | last(3)",
    "reset(9) | reservoir(4)",
    "last(8) | only_correct",
    "only_correct | nearest(3)",
    "nearest(6) | only_correct | last(2)",
    "nearest(8) | per_class(1)",
    "nearest(9) | parallel(2, 0.6) | reservoir(2)",
    "per_class(2) | stochastic(0.7) | nearest(5)",
    "stochastic(0.5) | per_class(1)",
    "only_correct | redrawn(0.5)",
    "redrawn(0.5) | redrawn(0.7) | nearest(3)",
    "per_class(3) | redrawn(0.5) | first",
    "parallel(2, 0.5) | block",
    "only_correct | parallel(3, 0.7) | first(4)",
    "stochastic(0.6) | parallel(2, 0.7) | reservoir(4)",
    "notes(7, 60) | parallel(2, 0.5)",
    "redrawn(0.5) | notes(6, 60)",
    "only_correct | notes(6, 60)",
    "notes(7, 60) | last(3)",
]


async def until_full(chosen: Session, model: ChatModel, policy: str, window: Window) -> list[Event]:
    """Play a session under a policy until the window is full."""
    so_far: list[Event] = []
    history = History.for_task(chosen.task, window)
    try:
        async for event in play_events(chosen.task, model, context_policy(policy), history):
            so_far.append(event)  # noqa: PERF401  a comprehension would lose the turns before the error
    except ContextFull:
        pass
    return so_far


@pytest.mark.parametrize("policy", [*SINGLE, *CHAINED])
@pytest.mark.parametrize(("tokens", "merged"), [(1_600, True), (2_400, False), (4_000, True)])
async def test_policies_meet_the_contract(policy: str, tokens: int, *, merged: bool) -> None:
    """No policy exceeds the budget, shows later turns, or uses anything the model was not told."""
    chosen = session(30, feedback="label")
    window = Window(tokens=tokens, reserve=200, merged=merged)
    by_play = await until_full(chosen, chosen.open_model(), policy, window)
    shown = check_policy(context_policy(policy), chosen.task, by_play, window)
    turns = [event for event in by_play if isinstance(event, Turn)]
    assert [list(from_spans(turn.kept)) for turn in turns] == [list(each) for each in shown]


@settings(max_examples=20)
@given(
    st.sampled_from([*SINGLE, *CHAINED]),
    st.lists(st.sampled_from("0123456789?"), min_size=18, max_size=18),
    st.sampled_from([*({"kind": kind} for kind in ("correctness", "none", "demonstrations"))]),
    st.integers(0, 3),
)
async def test_the_contract_holds_for_any_answers(
    policy: str, answers: list[str], feedback: dict[str, Any], delay: int
) -> None:
    """The contract holds for any answers and feedback, late or not."""
    late = {"delay": delay} if feedback["kind"] == "correctness" else {}
    made = experiment(turns=18, streams=1, feedback={**feedback, **late})
    (chosen,) = made.sessions()
    model = ScriptedModel([f"Answer: {answer}" for answer in answers] * 2)
    window = Window(tokens=2_400, reserve=100)
    by_play = await until_full(chosen, model, policy, window)
    check_policy(context_policy(policy), chosen.task, by_play, window)


def test_every_policy_is_tested() -> None:
    """The contract of every policy is tested."""
    assert {str(policy).split("(", maxsplit=1)[0] for policy in SINGLE} == POLICIES.keys()


async def shown_by(policy: str, answers: str, **changes: Any) -> list[list[int]]:  # noqa: ANN401  settings
    """Return the turns that each request shows in a session with these answers (r for correct)."""
    chosen = session(len(answers), policy=policy, **changes)
    truths = [chosen.task.true_label(turn) for turn in range(len(answers))]
    given = [
        truth if answer == "r" else str((int(truth) + 1) % 10)
        for truth, answer in zip(truths, answers, strict=True)
    ]
    turns = await played(chosen, ScriptedModel([f"Answer: {answer}" for answer in given]))
    return [list(from_spans(turn.kept)) for turn in turns]


async def test_policies_select_by_feedback() -> None:
    """`only_correct` and `only_incorrect` select turns by the feedback that was told."""
    right = await shown_by("only_correct", "rwrrw", feedback="correctness")
    wrong = await shown_by("only_incorrect", "rwrrw", feedback="correctness")
    assert right == [[], [0], [0], [0, 2], [0, 2, 3]]
    assert wrong == [[], [], [1], [1], [1]]
    assert await shown_by("only_correct", "rwrrw", feedback="flipped") == wrong
    assert await shown_by("only_correct", "rwrrw", feedback="none") == [[]] * 5


async def test_late_feedback_counts_when_it_is_told() -> None:
    """A turn with late feedback is selected only after the model was told."""
    made = experiment(
        turns=6,
        streams=1,
        context={"policy": "only_correct"},
        feedback={"kind": "correctness", "delay": 2},
    )
    (chosen,) = made.sessions()
    model = ScriptedModel([f"Answer: {chosen.task.true_label(turn)}" for turn in range(6)])
    turns = await played(chosen, model)
    assert [list(from_spans(turn.kept)) for turn in turns] == [[], [], [], [0], [0, 1], [0, 1, 2]]


async def test_the_first_turns_stay() -> None:
    """`first` keeps showing the first turns and adds no others."""
    assert await shown_by("first(2)", "rwrr") == [[], [0], [0, 1], [0, 1]]


async def test_a_turn_is_drawn_once() -> None:
    """`stochastic` keeps showing a turn once drawn; another stream draws other turns."""
    shown = await shown_by("stochastic(0.5)", "w" * 40)
    assert all(set(before) <= set(after) for before, after in pairwise(shown))
    assert 8 < len(shown[-1]) < 32
    assert shown[-1] != (await shown_by("stochastic(0.5)", "w" * 40, stream=1))[-1]
    assert await shown_by("stochastic(1)", "www") == [[], [0], [0, 1]]
    assert await shown_by("stochastic(0)", "www") == [[]] * 3


def interval(p: float, count: int) -> tuple[float, float]:
    """Return where a share of `count` draws with probability `p` lies, to 4.5 standard deviations."""
    apart = 4.5 * (p * (1 - p) / count) ** 0.5
    return p - apart, p + apart


@settings(max_examples=8)
@given(st.sampled_from([0.1, 0.3, 0.5, 0.8]), st.integers(0, 2**32))
async def test_redrawn_turns_are_drawn_for_every_request(p: float, seed: int) -> None:
    """`redrawn` shows each turn with probability p, and each request draws independently."""
    (chosen,) = experiment(
        turns=60, streams=1, seed=seed, context={"policy": f"redrawn({p})"}
    ).sessions()
    turns = await played(chosen, CallableModel(lambda _: "Answer: 1"))
    shown = [set(from_spans(turn.kept)) for turn in turns]
    pairs = sum(range(60))
    low, high = interval(p, pairs)
    assert low < sum(map(len, shown)) / pairs < high
    low, high = interval(p * p, pairs - 59)
    both = sum(len(before & after) for before, after in pairwise(shown))
    assert low < both / (pairs - 59) < high


async def test_a_random_part_is_shown_if_not_all_drawn_turns_fit() -> None:
    """If the turns that `redrawn` draws do not fit, older and newer ones are equally likely shown."""
    chosen = session(
        100, policy="redrawn(0.9)", model={"name": "simulated/chance", "context_window": 4_000}
    )
    shown = [list(from_spans(turn.kept)) for turn in (await played(chosen))[50:]]
    assert all(len(each) < 20 and each == sorted(each) for each in shown)
    old = sum(2 * index < turn for turn, each in enumerate(shown, start=50) for index in each)
    low, high = interval(0.5, sum(map(len, shown)))
    assert low < old / sum(map(len, shown)) < high


async def test_probes_draw_for_themselves() -> None:
    """Probes of one checkpoint see different draws of `redrawn` and different parallel contexts."""
    for policy in ("redrawn(0.5)", "parallel(8, 0.5)"):
        (chosen,) = experiment(
            turns=20, streams=1, context={"policy": policy}, probes={"at": [20], "count": 8}
        ).sessions()
        history = History.for_task(chosen.task, chosen.window)
        async for _ in play_events(chosen.task, chosen.open_model(), chosen.policy, history):
            pass
        probes = ask_probes(chosen.task, chosen.open_model(), chosen.policy, history)
        assert len({each.kept async for each in probes}) >= 3


async def test_each_request_shows_one_parallel_context() -> None:
    """`parallel` shows one of k contexts, each picked equally often; a turn stays in its contexts."""
    shown = await shown_by("parallel(4, 0.5)", "w" * 200)
    chosen = session(200, policy="parallel(4, 0.5)")
    history, policy = History.for_task(chosen.task), chosen.policy
    contexts: list[list[int]] = []
    for turn in await played(chosen, CallableModel(lambda _: "Answer: 1")):
        last = continued_turn(policy, history, turn.question)
        mine = next((each for each in contexts if each[-1] == last), [])
        if not mine:
            contexts.append(mine)
        mine.append(turn.index)
        history.add(turn)
    assert len(contexts) == 4
    low, high = interval(0.25, 200)
    assert all(low < len(mine) / 200 < high for mine in contexts)
    for mine in contexts:
        for before, after in pairwise(mine):
            assert set(shown[before]) == {index for index in shown[after] if index < before}
    low, high = interval(0.5, 190)
    finals = [set(shown[mine[-1]]) for mine in contexts]
    assert all(low < len(final) / 190 < high for final in finals)
    assert all(30 < len(one & other) < 70 for one in finals for other in finals if one is not other)


async def test_parallel_contexts_keep_their_prefix() -> None:
    """Cut in blocks, each parallel context keeps the prefix that a single one keeps; redrawn has none."""
    shares = {}
    for policy in ("block", "parallel(4, 0.5) | block", "redrawn(0.5)"):
        chosen = session(
            120, policy=policy, model={"name": "simulated/chance", "context_window": 8_000}
        )
        turns = (await played(chosen))[60:]
        shares[policy] = sum(turn.prefix or 0 for turn in turns) / sum(
            turn.counted or 0 for turn in turns
        )
    block, parallel, redrawn = shares.values()
    assert block > parallel > 0.8
    assert redrawn < 0.2


async def test_chained_draws_are_independent() -> None:
    """The second `stochastic` in a chain draws independently; the first as if it were alone."""
    alone, twice = [
        set((await shown_by(policy, "w" * 80))[-1])
        for policy in ("stochastic(0.5)", "only_incorrect | stochastic(0.5) | stochastic(0.5)")
    ]
    assert twice < alone
    assert 8 < len(twice) < 32


def test_a_reservoir_is_a_fair_sample() -> None:
    """Every turn has the same probability to be in the reservoir."""
    parser, window = MessageParser.for_task(session(2).task), Window(tokens=10**6)
    counts = [0] * 20
    question, feedback = Message("user", ()), Feedback(True, "")
    turn = Turn(0, "", "", question, None, "ok", feedback, kept=(), request="", reply=Reply(""))
    for stream in range(400):
        history = History(window, Message("system", ()), parser, (1, stream))
        for index in range(20):
            history.add(replace(turn, index=index))
        past = Past(history, range(20), 10**6, turn.question)
        for index in context_policy("reservoir(5)")(past):
            counts[index] += 1
    assert sum(counts) == 400 * 5
    assert all(65 < count < 140 for count in counts)  # 100 +- 4 standard deviations of 8.7


async def test_the_newest_of_each_class_are_shown() -> None:
    """`per_class` shows the newest turns of each revealed label or confirmed answer."""
    answers = "rwrwr" * 6
    chosen = session(30, policy="per_class(1)")
    truths = [chosen.task.true_label(turn) for turn in range(30)]
    revealed = await shown_by("per_class(1)", answers, feedback="label")
    confirmed = await shown_by("per_class(1)", answers, feedback="correctness")
    for turn in range(30):
        newest = {truths[index]: index for index in range(turn)}
        known = {truths[index]: index for index in range(turn) if answers[index] == "r"}
        assert revealed[turn] == sorted(newest.values())
        assert confirmed[turn] == sorted(known.values())


KINDS = ["picture", "table", "text"]


def of_kind(kind: str, folder: Path, policy: str) -> Session:
    """Return a session of 25 turns about pictures, table rows or texts."""
    if kind == "picture":
        return session(25, policy=policy)
    if kind == "table":
        return session(25, policy=policy, dataset="wine", encoding="table")
    words = ["tea", "oil", "rope", "sail", "gull", "salt"]
    rows = [
        f"{words[i % 6]} and {words[(i * i + 2) % 5]} {i}{'!' * (i % 3)},{i % 2}" for i in range(70)
    ]
    (folder / "words.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
    return session(25, policy=policy, dataset=f"csv:{folder / 'words.csv'}", encoding="text")


def apart(kind: str, past: Sequence[Any], asked: Any) -> list[float]:  # noqa: ANN401  of any kind
    """Return the distance of each past sample, computed by scikit-learn."""
    if kind == "text":
        grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(
            [*past, asked]
        )
        return cosine_distances(grams[:-1], grams[-1:])[:, 0].tolist()  # type: ignore[no-any-return]
    if kind == "table":
        rows = StandardScaler().fit_transform([each.values for each in [*past, asked]])
        return np.linalg.norm(rows[:-1] - rows[-1], axis=1).tolist()  # type: ignore[no-any-return]
    return [float(np.linalg.norm(each - asked)) for each in past]


@pytest.mark.parametrize("kind", KINDS)
async def test_nearest_shows_the_most_similar_samples(kind: str, tmp_path: Path) -> None:
    """`nearest` shows the samples at the smallest distances, whatever their labels."""
    chosen = of_kind(kind, tmp_path, "nearest(3)")
    turns = await played(chosen)
    parser = MessageParser.for_task(chosen.task)
    seen = [parser.sample(turn.question) for turn in turns]
    for turn in turns[4:]:
        distances = apart(kind, seen[: turn.index], seen[turn.index])
        kept = from_spans(turn.kept)
        others = [distances[index] for index in range(turn.index) if index not in kept]
        assert len(kept) == 3
        assert max(distances[index] for index in kept) <= min(others) + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "policy",
    [
        "nearest(4)",
        "nearest(6) | per_class(1)",
        "per_class(3) | nearest(2)",
        "nearest(5) | redrawn(0.5)",
    ],
)
async def test_the_contract_holds_for_every_kind_of_sample(
    policy: str, kind: str, tmp_path: Path
) -> None:
    """Policies that compare samples meet the contract for pictures, table rows and texts."""
    chosen = of_kind(kind, tmp_path, policy)
    window = Window(tokens=2_400, reserve=200, merged=False)
    by_play = await until_full(chosen, chosen.open_model(), policy, window)
    assert any(
        shown for shown in check_policy(context_policy(policy), chosen.task, by_play, window)
    )


async def test_nearest_can_precede_other_policies() -> None:
    """The policy after `nearest` chooses among the most similar turns, in the order of play."""
    near = await shown_by("nearest(6)", "r" * 25)
    newest = await shown_by("nearest(6) | last(2)", "r" * 25)
    assert newest == [sorted(each)[-2:] for each in near]


@pytest.mark.parametrize("delay", [0, 2])
async def test_block_recovers_from_an_empty_window(delay: int) -> None:
    """After a cut that leaves no turn, `block` shows the turns played since."""
    (chosen,) = experiment(
        turns=40,
        streams=1,
        context={"policy": "block(1.0, 0.0)"},
        model={"name": "simulated/chance", "context_window": 4_000},
        feedback={"kind": "correctness", "delay": delay},
    ).sessions()
    shown = [list(from_spans(turn.kept)) for turn in await played(chosen)]
    cuts = [turn for turn, each in enumerate(shown) if turn and not each]
    assert len(cuts) >= 2
    for cut, after in pairwise([*cuts, 40]):
        assert all(shown[turn][-1] == turn - 1 for turn in range(cut + 1, after))
        assert all(shown[turn][0] == cut - delay for turn in range(cut + 1, after))


@pytest.mark.parametrize("policy", ["reservoir(12)", "nearest(12)"])
async def test_orders_share_a_prefix_with_the_last_request(policy: str) -> None:
    """Turns of the last request keep their place up to the first one that is no longer shown."""
    turns = await played(session(60, policy=policy))
    for before, after in pairwise(turns):
        was, now = list(from_spans(before.kept)), list(from_spans(after.kept))
        stays = next((place for place, index in enumerate(was) if index not in now), len(was))
        assert now[:stays] == was[:stays]


class NoteTaker:
    """Answers 1, writes numbered notes, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[list[Message]] = []
        self.written = 0

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return notes if the request asks for them, else an answer."""
        self.requests.append(list(messages))
        if "Write notes" not in messages[-1].text:
            return Reply("Answer: 1")
        self.written += 1
        return Reply(f"note {self.written} " + "word " * 100)


async def test_notes_replace_the_turns() -> None:
    """After a note, requests show the note, cut to its token limit, and only the turns since."""
    chosen, model = session(8, policy="notes(3, 20)"), NoteTaker()
    each = [event async for event in play_on(chosen, model)]
    assert ["note" if isinstance(event, Note) else "turn" for event in each] == (
        ["turn"] * 3 + ["note"] + ["turn"] * 3 + ["note"] + ["turn"] * 2
    )
    notes = [event for event in each if isinstance(event, Note)]
    counter = chosen.window.counter
    assert all(15 <= counter.count(note.text) <= 20 for note in notes)
    assert [note.text.split()[:2] for note in notes] == [["note", "1"], ["note", "2"]]
    assert [note.kept for note in notes] == [((0, 2),), ((3, 5),)]
    last = model.requests[-1]
    assert last[1].text == chosen.task.prompts.notes.show(notes[-1].text)  # type: ignore[union-attr]  # en has notes
    assert sum(message.role == "assistant" for message in last) == 1
    asked_again = model.requests[7]
    assert notes[0].text in asked_again[1].text
    assert [event.request for event in each] == [fingerprint(each) for each in model.requests]


async def test_notes_without_thoughts() -> None:
    """A note is what the reply says in the end; the transcript keeps all of it."""
    said = "<think>\nA plan.\n</think>\n\nuser: short words are A\nAnswer: rarely<|im_end|>"
    model = CallableModel(lambda asked: said if "Write notes" in asked[-1].text else "Answer: 1")
    each = [event async for event in play_on(session(4, policy="notes(3, 90)"), model)]
    (note,) = (event for event in each if isinstance(event, Note))
    assert note.text == "user: short words are A\nAnswer: rarely"
    assert note.reply.text == said


async def test_a_session_with_notes_resumes() -> None:
    """A resumed session requests no note again."""
    chosen = session(9, policy="notes(3, 20)")
    whole = [event async for event in play_on(chosen, NoteTaker())]
    for cut in range(len(whole) + 1):
        model = NoteTaker()
        model.written = sum(isinstance(event, Note) for event in whole[:cut])
        resumed = ReplayModel(whole[:cut], then=model)
        again = [event async for event in play_on(chosen, resumed)]
        assert [event.request for event in again] == [event.request for event in whole]
        assert len(model.requests) == len(whole) - cut


@pytest.mark.parametrize(
    "policy",
    ["notes(3, 20) | last(2)", "redrawn(0.5)", "parallel(2, 0.7) | block", "nearest(2)"],
)
async def test_play_continues_a_history(policy: str) -> None:
    """A session continued from some of its turns equals the uninterrupted one."""
    chosen = session(9, policy=policy)
    model = CallableModel(lambda messages: f"Answer: {len(messages) % 10}")
    whole = [event async for event in play_on(chosen, model)]
    for cut in range(len(whole) + 1):
        rest = play_on(chosen, model, whole[:cut])
        assert [event.request async for event in rest] == [each.request for each in whole[cut:]]


async def test_requests_can_be_rebuilt() -> None:
    """A request rebuilt from the turns it showed has the recorded fingerprint."""
    for policy in ("reservoir(4)", "nearest(4)", "per_class(1)"):
        chosen = session(20, policy=policy)
        turns = await played(chosen)
        for turn in turns:
            request = build_request(chosen.task.system, turns, from_spans(turn.kept), turn.question)
            assert fingerprint(request) == turn.request


@pytest.mark.parametrize(
    "policy",
    [
        *("last(-1)", "last(2.5)", "within(True)", "per_class('3')", "notes(0)", "reset(0)"),
        *("stochastic(2)", "block(0.5, 0.9)", "lst(3)", "last(m=3)", "last(3) + all", "all | 3"),
        *("redrawn(None)", "redrawn(-1)", "parallel(0)", "parallel(2.5)", "parallel(3, 2)"),
        *("redrawn | block", "nearest | last(9) | block", "parallel | parallel(2)"),
        *("x" * 40_000, f"last({'m' * 40_000}=3)", f"last('{'m' * 40_000}')", "(" * 40_000),
    ],
)
def test_invalid_policies(policy: str) -> None:
    """An invalid policy or argument is an error, whose message is short."""
    with pytest.raises(InputError) as caught:
        context_policy(policy)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "policy", ["reservoir(5) | last(3)", "block | only_correct", "block | last(2)"]
)
def test_some_policies_must_come_last(policy: str) -> None:
    """A policy that orders turns or depends on earlier requests must be the last of a chain."""
    with pytest.raises(InputError, match="must be the last"):
        context_policy(policy)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"context": {"policy": "notes(5, 40000)"}}, "too short for these notes"),
    ],
)
def test_a_policy_that_does_not_suit_the_session_is_refused(
    changes: dict[str, Any], complaint: str
) -> None:
    """An unsuitable policy is reported before the first request."""
    with pytest.raises(InputError, match=complaint):
        experiment(**changes).check()
