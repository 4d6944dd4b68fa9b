"""Notes: the model regularly writes down what it has learned, in place of older turns."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import ClassVar

from icl_loop.context.history import History, Past
from icl_loop.context.policy import ContextPolicy, Policy, parts
from icl_loop.context.window import Shown
from icl_loop.core.messages import Message, user
from icl_loop.core.tokens import TokenCounter


@dataclass(frozen=True)
class Notes(Policy):
    """The turns since the model last rewrote its notes; the notes replace the others.

    Attributes:
        every: The model rewrites its notes after this many turns.
        tokens: Longer notes are cut to this many tokens.
    """

    lowest: ClassVar[int] = 1
    takes_notes: ClassVar[bool] = True
    every: int = 20
    tokens: int = 500

    def choose(self, past: Past) -> Shown:
        """Return the candidates since the last note."""
        return past.since(_turns_at_last_note(past.history))

    def is_due(self, history: History) -> bool:
        """Return whether the model is to rewrite its notes before the next turn."""
        return len(history.turns) - _turns_at_last_note(history) >= self.every

    def question(self, history: History) -> Message:
        """Return the message that asks for notes."""
        return user(history.parser.note_prompts.ask(self.tokens))


def _turns_at_last_note(history: History) -> int:
    return history.notes[-1].after_turn if history.notes else 0


def notes_policy(policy: ContextPolicy) -> Notes | None:
    """Return the policy in a chain that takes notes, if there is one."""
    return next((part for part in parts(policy) if isinstance(part, Notes)), None)


def truncate(text: str, tokens: int, counter: TokenCounter) -> str:
    """Return the whole words at the beginning of `text` that take at most `tokens` tokens."""
    if counter.count(text) <= tokens:
        return text
    ends = [place for place, character in enumerate(text) if character.isspace()]
    fitting = bisect_right(ends, tokens, key=lambda end: counter.count(text[:end]))
    return text[: ends[fitting - 1]].rstrip() if fitting else ""
