"""The history of a session, as far as a context policy may know it: no samples, no labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import takewhile
from typing import cast

from icl_loop.context.message_parser import MessageParser
from icl_loop.context.similarity import Distances, SampleStore
from icl_loop.context.token_budget import TokenBudget
from icl_loop.context.window import Shown, Window, from_spans
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, user
from icl_loop.core.records import Choice, Event, Exemplar, Note, Turn, keyed_index
from icl_loop.core.tokens import count_message
from icl_loop.tasks.prompts import ParsedFeedback
from icl_loop.tasks.task import Task

DRAWN_FROM = 2**53
"""A random number of a turn is drawn from this many."""


class UnlabelledTurn:
    """A turn of which a context policy can read only what the messages of the session say."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __getattr__(self, name: str) -> object:
        """Return a field of the turn.

        Raises:
            InputError: The model may not have been told what it says.
        """
        if name in ("sample", "label", "feedback"):
            raise InputError(
                f"a context policy cannot read turn.{name}, of which the model may not have been told;"
                " past.feedback says what it was told"
            )
        return getattr(self._turn, name)


class History:
    """The turns and notes of a session so far.

    Attributes:
        key: Seed and stream, for policies that draw at random.
        exemplars: What requests show before the turns.
        tokens: Token counts of the turns, and what they leave of the window.
        times_shown: How many requests showed each turn.
    """

    def __init__(
        self,
        window: Window,
        system: Message,
        parser: MessageParser,
        key: tuple[str | int, ...] = (),
        events: Iterable[Event] = (),
        exemplars: Sequence[Exemplar] = (),
    ) -> None:
        self.system, self.parser, self.key, self.exemplars = system, parser, key, exemplars
        self.turns: list[Turn] = []
        self.notes: list[Note] = []
        self._choice: Choice | None = None
        opening = count_message(window.counter, system) + sum(
            count_message(window.counter, each.question) + window.count_answered(each)
            for each in exemplars
        )
        self.tokens = TokenBudget(window, opening, len(exemplars))
        self.times_shown: Counter[int] = Counter()
        self._feedback: list[ParsedFeedback] = []
        self._samples = SampleStore()
        self._unlabelled: list[Turn] = []
        self._draws: dict[tuple[str | int, ...], list[int]] = {}
        for event in events:
            self.add(event)

    @classmethod
    def for_task(
        cls, task: Task, window: Window | None = None, events: Iterable[Event] = ()
    ) -> "History":
        """Return the history of a session of `task` after the turns and notes in `events`."""
        parser = MessageParser.for_task(task)
        return cls(window or Window(), task.system, parser, task.key, events, task.exemplars)

    def add(self, event: Event) -> None:
        """Add the next turn, note or choice; a choice adds nothing that later requests show."""
        if event.overflows:
            self.tokens.limit = event.counted if event.limit is None else event.limit
        if isinstance(event, Turn):
            shown = from_spans(event.kept)
            self.times_shown.update(shown)
            self.tokens.add(event, shown)
            self.turns.append(event)
        elif isinstance(event, Note):
            self.notes.append(event)
            self.tokens.note = sum(map(self.tokens.of_message, self.note_messages))
        else:
            self._choice = event

    @property
    def note_messages(self) -> tuple[Message, ...]:
        """The message that shows the latest note; none if there is no note or it is blank."""
        text = self.notes[-1].text if self.notes else ""
        return (user(self.parser.note_prompts.show(text)),) if text.strip() else ()

    @property
    def standing(self) -> tuple[Message, ...]:
        """The messages between the system message and the turns: exemplars, and notes if any."""
        shown = (message for each in self.exemplars for message in each.messages)
        return (*shown, *self.note_messages)

    @property
    def feedback(self) -> Sequence[ParsedFeedback]:
        """What the model was told about each turn, up to the last turn it was told about."""
        timing, played = self.parser.timing, len(self.turns)
        for index in range(len(self._feedback), played):
            if (after := timing.told_after(index)) >= played:
                break
            told = self.turns[after].feedback.told
            self._feedback.append(self.parser.feedback(self.turns[index], told))
        return self._feedback

    def without_labels(self) -> "History":
        """Return this history with turns of which only what the messages say can be read."""
        _ = self.feedback  # reads what the turns of the copy hide
        unread = self.turns[len(self._unlabelled) :]
        self._unlabelled.extend(cast("Turn", UnlabelledTurn(turn)) for turn in unread)
        history = copy(self)
        history.turns = self._unlabelled
        return history

    def distances(self, question: Message) -> Distances | None:
        """Return how far the sample of each turn is from that of `question`, shape (turns,).

        None if `question` asks about no sample.

        Raises:
            InputError: The question of a turn shows no sample that can be read.
        """
        asked = self.parser.sample(question)
        if asked is None:
            return None
        for turn in self.turns[len(self._samples) :]:
            sample = self.parser.sample(turn.question)
            if sample is None:
                raise InputError(
                    f"nearest compares samples, but cannot read that of turn {turn.index}"
                )
            self._samples.add(sample)
        return self._samples.distances(asked)

    def draws(self, *purpose: str | int) -> Sequence[int]:
        """Return a random number in [0, `DRAWN_FROM`) for each turn, always the same ones."""
        drawn = self._draws.setdefault(purpose, [])
        for index in range(len(drawn), len(self.turns)):
            drawn.append(keyed_index(DRAWN_FROM, *self.key, *purpose, index))
        return drawn

    def request(self, shown: Shown, question: Message) -> tuple[Message, ...]:
        """Return the request that shows these turns and asks `question`."""
        return build_request(self.system, self.turns, shown, question, self.standing)

    def shown_by(self, turn: int) -> Shown:
        """Return the turns that the request of a turn showed; none if `turn` is -1."""
        return from_spans(self.turns[turn].kept) if turn >= 0 else ()

    def prefix_tokens(self, shown: Shown, last: int | None = None) -> int:
        """Return the tokens that a request showing `shown` shares with the start of an earlier one.

        That is the request of turn `last`, of the newest one if None; -1 if none is comparable. If the
        sample asked about was chosen, it is the request for the choice where that shares more.
        """
        last = len(self.turns) - 1 if last is None else last
        if not self.turns:
            return 0
        tokens = self._shared_with_turn(shown, last)
        if self._choice is None or self._choice.after_turn < len(self.turns):
            return tokens
        chosen = from_spans(self._choice.kept)
        same = shown[: _common(chosen, shown)]
        return max(tokens, self.tokens.system + self.tokens.note + self.tokens.of_turns(same))

    def _shared_with_turn(self, shown: Shown, last: int) -> int:
        """Return the tokens shared with the start of the request of turn `last`; -1 if there is none."""
        if last < 0 or (self.notes and self.notes[-1].after_turn > last):
            return self.tokens.system  # this request shows a note that the earlier one did not
        before = self.shown_by(last)
        common = _common(before, shown)
        tokens = self.tokens.system + self.tokens.note + self.tokens.of_turns(shown[:common])
        if common == len(before) < len(shown) and shown[common] == last:
            tokens += self.tokens.of_message(self.turns[last].question)
        return tokens


def _common(before: Shown, shown: Shown) -> int:
    """Return how many leading turns two requests have in common."""
    pairs = zip(before, shown, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def build_request(
    system: Message,
    turns: Sequence[Turn] | Mapping[int, Turn],
    shown: Shown,
    question: Message,
    standing: Sequence[Message] = (),
) -> tuple[Message, ...]:
    """Return the messages of a request: system, exemplars and notes, the turns shown, the question."""
    past = [message for index in shown for message in turns[index].messages]
    return (system, *standing, *past, question)


@dataclass(frozen=True, slots=True)
class Past:
    """What a policy chooses from, and the question about to be asked.

    Attributes:
        candidates: The turns to choose from: all, or those that the policies before chose.
        budget: Tokens that the chosen turns may take.
        draws: How many policies before drew turns at random.
        continued: The turn whose request this one continues, -1 if none; the newest turn if None.
    """

    history: History
    candidates: Shown
    budget: int
    question: Message
    draws: int = 0
    continued: int | None = None

    @property
    def last(self) -> int:
        """The turn whose request this one continues, -1 if none."""
        return len(self.history.turns) - 1 if self.continued is None else self.continued

    @property
    def last_shown(self) -> Shown:
        """The turns that the request of that turn showed."""
        return self.history.shown_by(self.last)

    @property
    def feedback(self) -> dict[int, ParsedFeedback]:
        """What the model was told about each candidate; those it was not told about are missing."""
        told = self.history.feedback
        return {index: told[index] for index in self.candidates if index < len(told)}

    def since(self, turn: int) -> Shown:
        """Return the candidates from this turn on."""
        return [index for index in self.candidates if index >= turn]

    def newest_within(self, tokens: int) -> Shown:
        """Return the newest candidates that take at most `tokens` tokens together."""
        fitting = self.history.tokens.first_fitting(reversed(self.candidates), tokens)
        return self.candidates[len(self.candidates) - len(fitting) :]

    def with_stable_prefix(self, chosen: Shown) -> Shown:
        """Return the chosen turns in an order that shares a long prefix with the continued request.

        Its turns stay in place up to the first one that is no longer chosen; the others follow in the
        order of `chosen`.
        """
        prefix = list(takewhile(set(chosen).__contains__, self.last_shown))
        rest = set(chosen).difference(prefix)
        return prefix + [index for index in chosen if index in rest]
