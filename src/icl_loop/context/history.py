"""What a session has been so far, as far as a context policy may know it.

All of it follows from the turns as they were played; it is worked out once and kept beside them, so
that a turn costs the same late as early. No label and no sample is in reach.
"""

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from icl_loop.context.held import Held
from icl_loop.context.window import Shown, TokenTotals, Window, shown_in
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, user
from icl_loop.core.records import Event, Note, Turn
from icl_loop.core.tokens import count_message
from icl_loop.tasks.answers import STATED, AnswerRule, parse_answer
from icl_loop.tasks.prompts import NotePrompts, ParsedFeedback, PromptSet
from icl_loop.tasks.question_decoding import eye

S = TypeVar("S")
Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class KnownFeedback:
    """What the messages of a session have told of one turn.

    Attributes:
        right: Whether its answer was said to be right; None if nothing was said.
        label: The label that was revealed, or the answer that was confirmed; None if neither was.
    """

    right: bool | None
    label: str | None


@dataclass(frozen=True)
class MessageParser:
    """How the messages of a session are understood: what was told, and what a question shows.

    Attributes:
        prompts: The sentences.
        encoding: Name of the encoding in which samples are shown.
        labels: The labels that may be answered.
        delay: Turns by which verdicts come late.
        rule: How replies are read.
    """

    prompts: PromptSet
    encoding: str
    labels: tuple[str, ...]
    delay: int = 0
    rule: AnswerRule = STATED

    def hear(self, told: str) -> ParsedFeedback | None:
        """Return what a told phrase means, or None if it is none."""
        return _heard(self.prompts, told)

    def answer(self, said: str) -> str | None:
        """Return the label that a reply shown answers, or None."""
        return _read(self.prompts.answer, self.labels, said, self.rule)

    def look(self, question: Message) -> Pixels | None:
        """Return the pixels that a question shows, row by row, or None if it shows no picture."""
        return _seen(self.prompts, self.encoding, question)

    @property
    def notebook(self) -> NotePrompts:
        """The sentences about notes.

        Raises:
            InputError: The prompt set has none.
        """
        if self.prompts.notes is None:
            raise InputError("the prompt set has no words for notes: it needs a table [notes]")
        return self.prompts.notes


@lru_cache(256)
def _heard(prompts: PromptSet, told: str) -> ParsedFeedback | None:
    return prompts.hear_told(told)


@lru_cache(1_024)
def _read(form: str, labels: tuple[str, ...], said: str, rule: AnswerRule) -> str | None:
    return parse_answer(said, labels, form=form, rule=rule).answer


@lru_cache(256)
def _seen(prompts: PromptSet, encoded: str, question: Message) -> Pixels | None:
    pixels = eye(prompts, encoded)(question)
    return None if pixels is None else np.ravel(pixels)


class Growing:
    """Turns of a session to which, as it goes on, turns are only ever added."""

    def __init__(self) -> None:
        self.turns: list[int] = []


class Part(Sequence[int]):
    """Neighbours in a growing list of turns, cut out without copying."""

    __slots__ = ("source", "start", "stop")

    def __init__(self, source: Growing, start: int, stop: int) -> None:
        self.source, self.start, self.stop = source, start, max(start, stop)

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "Shown": ...
    def __getitem__(self, index: int | slice) -> "int | Shown":
        if isinstance(index, int):
            place = index + (self.stop if index < 0 else self.start)
            if not self.start <= place < self.stop:
                raise IndexError(index)
            return self.source.turns[place]
        start, stop, step = index.indices(len(self))
        if step != 1:
            return self.source.turns[self.start : self.stop][index]
        return Part(self.source, self.start + start, self.start + stop)


@dataclass(slots=True)
class _Progress:
    """A state, the place in a list of turns from which on they were added to it, and the next."""

    state: Any
    start: int = 0
    next: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    """What a request held beside the frame: notes, turns, and the question of which turn."""

    notes: int
    shown: Shown
    asked: int
    turn: int | None


@dataclass
class History:
    """The turns and notes of a session so far, and what is worked out of them once.

    Attributes:
        tally: The tokens.
        senses: How the messages are understood.
        key: Seed and stream, for policies that draw at random.
        turns: Every turn played, in order, but for those that were let go of.
        notes: Every note taken, in order, likewise.
        shown: What the request of each turn showed, likewise.
    """

    tally: TokenTotals
    senses: MessageParser
    key: tuple[str | int, ...] = ()
    turns: Held[Turn] = field(default_factory=Held)
    notes: Held[Note] = field(default_factory=Held)
    shown: Held[Shown] = field(default_factory=Held)
    _memory: dict[tuple[Hashable, Growing | None], _Progress] = field(default_factory=dict)
    _before: _Request | None = None

    @classmethod
    def begun(
        cls,
        window: Window,
        frame: Message,
        senses: MessageParser,
        key: tuple[str | int, ...] = (),
        played: Iterable[Event] = (),
    ) -> "History":
        """Return the history of a session that opens with `frame` and has played these already."""
        history = cls(TokenTotals.of_frame(window, frame), senses, key)
        for each in played:
            if isinstance(each, Turn):
                history.add(each, shown_in(each.kept))
            else:
                history.take(each)
        return history

    def add(self, turn: Turn, shown: Shown) -> None:
        """Take note of a turn that was played, and of what its request showed."""
        asked = count_message(self.tally.window.counter, turn.question)
        self._before = _Request(len(self.notes), shown, asked, len(self.turns))
        self.tally.add(turn, asked, shown)
        self.turns.append(turn)
        self.shown.append(shown)

    def let_go(self, needed: Callable[[], range]) -> None:
        """Let go of turns that are not `needed`, but for those of which a verdict is still to come."""
        for each in (self.turns, self.shown):
            each.hold(needed, newest=1 + self.senses.delay)
        self.notes.hold(lambda: range(0))

    def take(self, note: Note) -> None:
        """Take in a note: later requests show it in place of those before."""
        self.notes.append(note)
        self._before = _Request(len(self.notes) - 1, shown_in(note.kept), 0, None)
        said = self.opening
        self.tally.aside = sum(count_message(self.tally.window.counter, each) for each in said)

    @property
    def opening(self) -> tuple[Message, ...]:
        """What stands between the frame and the turns shown: the latest note, if it says anything."""
        text = self.notes[-1].text if self.notes else ""
        return (user(self.senses.notebook.show(text)),) if text.strip() else ()

    def lesson(self, index: int) -> KnownFeedback | None:
        """Return what has been told of a turn, or None if that is not said before a later turn."""
        said_in = index + self.senses.delay
        if said_in >= len(self.turns):
            return None
        heard = self.senses.hear(self.turns[said_in].feedback.told)
        if heard is None or heard.ago != self.senses.delay:
            return KnownFeedback(None, None)
        label = heard.label
        if label is None and heard.correct:
            label = self.senses.answer(self.turns[index].messages[1].text)
        return KnownFeedback(heard.correct, label)

    def look(self, index: int) -> Pixels | None:
        """Return the pixels that the question of a past turn showed, or None."""
        return self.senses.look(self.turns[index].question)

    def counted(self, shown: Shown, asked: int) -> int:
        """Return the tokens, as counted here, of a request that shows these turns and asks."""
        return self.tally.frame + self.tally.aside + self.tally.of(shown) + asked

    def prefix(self, shown: Shown) -> int:
        """Return how many tokens a request that shows these turns has in common with the last one.

        Counted are those of the unbroken beginning: frame, notes, and turns in the same order.
        """
        before = self._before
        if before is None:
            return 0
        if before.notes != len(self.notes):
            return self.tally.opening
        common = _in_common(before.shown, shown)
        same = self.tally.opening + self.tally.aside + self.tally.of(shown[:common])
        goes_on = common == len(before.shown) < len(shown) and shown[common] == before.turn
        return same + before.asked if goes_on else same

    def gather(
        self,
        by: Hashable,
        source: Growing | None,
        fresh: Callable[[], S],
        add: Callable[[S, int], bool],
        start: int = 0,
    ) -> S:
        """Return a state made of all turns, or of those of `source`, each added to it once.

        Args:
            by: Whose state it is.
            source: The turns; all of them if None.
            fresh: Makes the state of no turn.
            add: Adds a turn to the state; False if it cannot yet be said how, which ends the adding.
            start: How many of the turns are left out; another number than before begins anew.
        """
        progress = self._memory.get((by, source))
        if progress is None or progress.start != start:
            progress = self._memory[by, source] = _Progress(fresh(), start, start)
        known = range(len(self.turns)) if source is None else source.turns
        while progress.next < len(known) and add(progress.state, known[progress.next]):
            progress.next += 1
        state: S = progress.state
        return state


@dataclass(frozen=True, slots=True)
class Past:
    """What a policy chooses from.

    Attributes:
        history: What was played.
        candidates: The turns still in the running: all of them, or what a policy before let pass.
        budget: Tokens that the turns shown may take in all.
        question: The message about to be asked.
        draws: How many policies before have drawn at random among the turns.
    """

    history: History
    candidates: Shown
    budget: int
    question: Message
    draws: int = 0

    @property
    def shown_before(self) -> Shown:
        """The turns that the request of the last turn showed."""
        return self.history.shown[-1] if self.history.shown else range(0)

    def newest_within(self, tokens: int) -> Shown:
        """Return the newest candidates whose tokens fit into `tokens` together."""
        tally = self.history.tally
        if isinstance(self.candidates, range):
            sums, stop = tally.sums, self.candidates.stop
            moves_on = stop == len(self.history.turns)
            least = max(self.candidates.start, tally.reach if moves_on else 0)
            start = bisect_left(sums, sums[stop] - tokens, least, stop)
            return range(start, stop)
        for start in range(len(self.candidates), 0, -1):
            tokens -= tally.of_one(self.candidates[start - 1])
            if tokens < 0:
                return self.candidates[start:]
        return self.candidates

    def sifted(self, by: Hashable, passes: Callable[[History, int], bool | None]) -> Shown:
        """Return the candidates that pass; each turn is tested once in a session.

        A turn of which it cannot yet be said is not shown.
        """
        source = self._source
        if source is _LOOSE:
            return [each for each in self.candidates if passes(self.history, each)]

        def add(into: Growing, index: int) -> bool:
            verdict = passes(self.history, index)
            if verdict:
                into.turns.append(index)
            return verdict is not None

        passed = self.history.gather(by, source, Growing, add)
        if not self.candidates:
            return Part(passed, 0, 0)
        first, last = self.candidates[0], self.candidates[-1]
        turns = passed.turns
        return Part(passed, bisect_left(turns, first), bisect_left(turns, last + 1))

    def gathered(self, by: Hashable, fresh: Callable[[], S], add: Callable[[S, int], bool]) -> S:
        """Return a state made of the candidates, each added once where they begin as before."""
        start = self._start
        if start is not None:
            return self.history.gather(by, self._source, fresh, add, start)
        state = fresh()
        all(add(state, index) for index in self.candidates)
        return state

    @property
    def _source(self) -> Growing | None:
        """The growing list of which the candidates are a part; None if that is all turns."""
        if isinstance(self.candidates, Part):
            return self.candidates.source
        return None if isinstance(self.candidates, range) else _LOOSE

    @property
    def _start(self) -> int | None:
        """How many turns of their source come before the candidates; None if others come after."""
        if not isinstance(self.candidates, range | Part):
            return None
        source = self._source
        known = len(self.history.turns) if source is None else len(source.turns)
        return self.candidates.start if self.candidates.stop == known else None


_LOOSE = Growing()
"""Stands for candidates that are no part of a growing list."""


def steadied(chosen: Sequence[int], before: Shown) -> Shown:
    """Return the turns chosen in an order that leaves the beginning of the last request unbroken.

    What was shown before stays in its place up to the first turn that is no longer chosen; the
    others follow in the order of `chosen`.
    """
    wanted = set(chosen)
    kept = list(takewhile(wanted.__contains__, before))
    moved = wanted.difference(kept)
    return [*kept, *filter(moved.__contains__, chosen)]


def _in_common(before: Shown, now: Shown) -> int:
    """Return how many leading turns two selections have in common, in one step for neighbours."""
    if isinstance(before, range) and isinstance(now, range):
        alike = not before or not now or before.start == now.start
        return min(len(before), len(now)) if alike else 0
    if isinstance(before, Part) and isinstance(now, Part) and before.source is now.source:
        return min(len(before), len(now)) if before.start == now.start else 0
    pairs = zip(before, now, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
