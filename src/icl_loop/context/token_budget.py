"""The tokens of the turns played so far, and how many of them fit the next request."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from icl_loop.context.calibration import Calibration
from icl_loop.context.window import Shown, Window
from icl_loop.core.messages import Message
from icl_loop.core.records import Turn
from icl_loop.core.tokens import IMAGE_TOKENS, REQUEST_TOKENS, count_message


@dataclass(slots=True)
class TokenBudget:
    """The tokens of system message, note and turns, and the budget for past turns that follows.

    Attributes:
        system: Tokens of the system message and the exemplars.
        exemplars: Number of exemplars.
        limit: Most counted tokens of a request since the model rejected a longer one.
    """

    window: Window
    system: int
    exemplars: int = 0
    note: int = 0
    turns: list[int] = field(default_factory=list)
    limit: int | None = None
    calibration: Calibration = field(default_factory=Calibration)

    def available(self, question: Message, limit: int | None = None) -> int:
        """Return the tokens left for past turns in a request of at most `limit` tokens."""
        fits = (self.window.tokens - self.window.reserve) / self.calibration.value
        most = fits if limit is None else min(fits, limit)
        return int(most) - self.of_request((), question)

    def of_message(self, message: Message) -> int:
        """Return the tokens of a message."""
        return count_message(self.window.counter, message)

    def of_request(self, shown: Shown, question: Message) -> int:
        """Return the tokens of a request that shows these turns and asks `question`."""
        extra = REQUEST_TOKENS + self.of_message(question)
        return self.system + self.note + self.of_turns(shown) + extra

    def of_turns(self, shown: Shown) -> int:
        """Return the tokens of these turns."""
        return sum(map(self.turns.__getitem__, shown))

    def of_images(self, turn: Turn, shown: Shown) -> int:
        """Return how many tokens are counted for the images in the request of a turn."""
        images = len(shown) + self.exemplars + 1
        return IMAGE_TOKENS * images if turn.question.has_image else 0

    def add(self, turn: Turn, shown: Shown) -> None:
        """Add the next turn, whose request showed `shown`."""
        if turn.reply.usage.prompt:
            counted = self.of_request(shown, turn.question)
            self.calibration.add(turn.reply.usage.prompt, counted, self.of_images(turn, shown))
        self.turns.append(self.of_message(turn.question) + self.window.count_answered(turn))

    def first_fitting(self, turns: Iterable[int], tokens: int) -> list[int]:
        """Return the longest beginning of `turns` that takes at most `tokens` tokens."""
        fitting = []
        for index in turns:
            tokens -= self.turns[index]
            if tokens < 0:
                break
            fitting.append(index)
        return fitting
