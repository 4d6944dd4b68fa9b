"""The fork of a session in which a probe is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from icl_loop.context.history import History, build_request
from icl_loop.context.policy import ContextPolicy, choose_turns
from icl_loop.context.window import Shown
from icl_loop.core.messages import Message
from icl_loop.core.records import Feedback, Turn, Verdicts
from icl_loop.tasks.counterfactuals import counterfactual
from icl_loop.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Fork:
    """The history of a session, perhaps with other verdicts on the past answers.

    The policy chooses turns by the verdicts that were told.

    Attributes:
        verdicts: The verdicts shown.
        spare: Tokens to leave free for each turn shown, because other forks say more about it.
    """

    history: History
    task: Task
    verdicts: Verdicts = "told"
    spare: Sequence[int] = ()
    _changed: dict[tuple[int, ...], Sequence[Turn]] = field(default_factory=dict)
    """Turns with other verdicts, as most probes of a checkpoint show the same ones."""

    def choose(self, policy: ContextPolicy, question: Message, limit: int | None) -> Shown:
        """Return the past turns to show with `question` in at most `limit` tokens.

        Raises:
            ContextFull: The question or the turns that the policy requires do not fit.
        """
        tokens, left_free = self.history.tokens, 0
        while True:
            shown = choose_turns(policy, self.history, question, limit, left_free)
            if not self.spare:
                return shown
            needed = tokens.of_turns(shown) + sum(map(self.spare.__getitem__, shown))
            over = needed - tokens.available(question, limit)
            if over <= 0:
                return shown
            left_free += over

    def request(self, shown: Shown, question: Message) -> tuple[Message, ...]:
        """Return the request that shows these turns and asks `question`."""
        history = self.history
        if self.verdicts == "told":
            return history.request(shown, question)
        turns = dict(zip(shown, self.turns(shown), strict=True))
        return build_request(history.system, turns, shown, question, history.standing)

    def counted(self, shown: Shown, question: Message) -> int:
        """Return the tokens of that request."""
        if self.verdicts == "told":
            return self.history.tokens.of_request(shown, question)
        return self.history.tokens.of_request((), question) + self._tokens(self.turns(shown))

    def prefix(self, shown: Shown, last: int, before: Shown) -> int:
        """Return the tokens that a request shares with the start of the one that it continues.

        That is the request of turn `last`; for verdicts that were not told, it is the previous probe
        of the fork, which showed `before`.
        """
        if self.verdicts == "told":
            return self.history.prefix_tokens(shown, last)
        pairs = zip(self.turns(before), self.turns(shown), strict=False)
        common = [turn for _, turn in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        return self.history.tokens.system + self.history.tokens.note + self._tokens(common)

    def turns(self, shown: Shown) -> Sequence[Turn]:
        """Return these turns with the verdicts of the fork."""
        if (known := self._changed.get(tuple(shown))) is not None:
            return known
        turns = [self.history.turns[index] for index in shown]
        texts = counterfactual(self.verdicts, turns, self.task, self.history.turns)
        changed = self._changed[tuple(shown)] = [
            replace(turn, feedback=Feedback(turn.feedback.correct, text))
            for turn, text in zip(turns, texts, strict=True)
        ]
        return changed

    def _tokens(self, turns: Sequence[Turn]) -> int:
        """Return the tokens of turns of the fork."""
        counted = self.history.tokens.of_turns([turn.index for turn in turns])
        return counted + sum(map(self.longer, turns))

    def longer(self, turn: Turn) -> int:
        """Return by how many tokens a turn of the fork is longer than it was told."""
        told, text = self.history.turns[turn.index].feedback.told, turn.feedback.told
        count = self.history.tokens.window.count_feedback
        return 0 if text == told else count(text) - count(told)


def spare_tokens(history: History, task: Task) -> list[int]:
    """Return by how many tokens the feedback on each turn can be longer in a fork than it was told.

    Empty if the task asks no probes with other verdicts.
    """
    every = range(len(history.turns))
    forks = [Fork(history, task, each) for each in task.verdicts if each in ("flipped", "removed")]
    longer = ([fork.longer(turn) for turn in fork.turns(every)] for fork in forks)
    return [max(0, *each) for each in zip(*longer, strict=True)]
