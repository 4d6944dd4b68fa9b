"""What a context policy is, and how policies combine.

A context policy chooses the past turns that the next request shows, and their order. It is a value
that is called with a `Past` and returns indices of turns. Policies combine from left to right:
`only_correct | last(50)`. A policy knows only what the messages of the session say; it sees neither
samples nor correct labels.
"""

import operator
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from icl_loop.context.history import History, Past
from icl_loop.context.window import Shown
from icl_loop.core.errors import ContextFull, IclLoopError, InputError, StoppedShort
from icl_loop.core.messages import Message
from icl_loop.core.validation_messages import shown_value


class ContextPolicy(Protocol):
    """Chooses the past turns that the next request shows."""

    def __call__(self, past: Past) -> Shown:
        """Return some of `past.candidates` that take at most `past.budget` tokens.

        Raises:
            ContextFull: The policy requires turns that do not fit.
        """
        ...


def choose_turns(
    policy: ContextPolicy,
    history: History,
    question: Message,
    limit: int | None = None,
    spare: int = 0,
) -> Shown:
    """Return the past turns that `policy` shows with `question`.

    Args:
        policy: The policy.
        history: The session so far.
        question: The question about to be asked.
        limit: Most tokens of the request, if it is more limited than by the window.
        spare: Tokens to leave free beside these turns.

    Raises:
        ContextFull: The question or the turns that the policy requires do not fit.
    """
    budget = history.tokens.available(question, limit) - spare
    if budget < 0:
        raise ContextFull(0, budget)
    return policy(Past(history, range(len(history.turns)), budget, question))


def continued_turn(policy: ContextPolicy, history: History, question: Message) -> int:
    """Return the turn whose request the next one continues, -1 if there is none."""
    past = Past(history, (), 0, question)
    for part in parts(policy):
        if isinstance(part, Policy):
            past = replace(past, continued=part.continued(past))
    return past.last


class Policy(ABC):
    """A policy that combines with `|` and prints as it is written in an experiment file.

    Subclasses are dataclasses, whose fields are the arguments.

    Attributes:
        lowest: The lowest value of an argument.
        continues: Whether it keeps the first turn that the last request showed.
        comes_last: Whether no policy may follow it, because it orders the turns or depends on the
            turns shown before.
        takes_notes: Whether it has the model write notes.
        draws: Whether it draws turns at random.
        recalls: Whether it can show a turn that it did not show in the request before.
        is_parallel: Whether it keeps several contexts.
    """

    lowest: ClassVar[int] = 0
    continues: ClassVar[bool] = False
    comes_last: ClassVar[bool] = False
    takes_notes: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    recalls: ClassVar[bool] = False
    is_parallel: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (not isinstance(value, int) or value < self.lowest):
                raise InputError(
                    f"{name_of(type(self))}: {name} must be a whole number of at least"
                    f" {self.lowest}, got {name}={value}"
                )

    @abstractmethod
    def choose(self, past: Past) -> Shown:
        """Return some of the candidates, whether or not they fit."""

    def continued(self, past: Past) -> int:
        """Return the turn whose request this one continues, -1 if none: the newest one."""
        return past.last

    def __call__(self, past: Past) -> Shown:
        """Return the newest of the chosen turns that fit; see `ContextPolicy`."""
        return replace(past, candidates=self.choose(past)).newest_within(past.budget)

    def __or__(self, other: ContextPolicy) -> "Chain":
        return Chain((*parts(self), *parts(other)))

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return name_of(type(self)) + (f"({given})" if given else "")


def name_of(policy: type[Policy]) -> str:
    """Return the name of a policy class in experiment files, such as `per_class` for `PerClass`."""
    return re.sub("(?<!^)(?=[A-Z])", "_", policy.__name__).lower()


@dataclass(frozen=True)
class Chain(Policy):
    """Policies that each choose from the turns that the one before chose.

    The last one makes the turns fit the budget.
    """

    policies: tuple[ContextPolicy, ...]

    def __post_init__(self) -> None:
        for policy in self.policies[:-1]:
            if isinstance(policy, Policy) and policy.comes_last:
                raise InputError(
                    f"{policy} must be the last policy of a chain, but {self.policies[-1]} follows"
                )
        own = [each for each in self.policies if isinstance(each, Policy)]
        if sum(each.takes_notes for each in own) > 1:
            raise InputError(f"{self}: only one policy of a chain can take notes")
        if sum(each.is_parallel for each in own) > 1:
            raise InputError(f"{self}: only one policy of a chain can keep several contexts")
        recalling = next((each for each in own if each.recalls), None)
        if recalling and own[-1].continues:
            raise InputError(
                f"{self}: {name_of(type(own[-1]))} continues the last request, but"
                f" {name_of(type(recalling))} chooses anew for each request; use within instead of"
                f" {name_of(type(own[-1]))}"
            )

    def choose(self, past: Past) -> Shown:
        """Return the turns that the last policy chooses."""
        return _choose(self.policies[-1], self._before_last(past))

    def __call__(self, past: Past) -> Shown:
        """Return the turns that the last policy shows."""
        return self.policies[-1](self._before_last(past))

    def _before_last(self, past: Past) -> Past:
        for policy in self.policies[:-1]:
            draws = past.draws + (isinstance(policy, Policy) and policy.draws)
            last = policy.continued(past) if isinstance(policy, Policy) else past.continued
            past = replace(past, candidates=_choose(policy, past), draws=draws, continued=last)
        return past

    def __str__(self) -> str:
        return " | ".join(map(str, self.policies))


@dataclass(frozen=True)
class Function(Policy):
    """The turns that a Python function chooses; if too many, those at the end that fit.

    Attributes:
        name: Name of the function.
        code: Digest of its code.
        function: The function; None if the policy comes from a file, which cannot hold it.
    """

    recalls: ClassVar[bool] = True
    name: str
    code: str
    function: ContextPolicy | None = None

    def __post_init__(self) -> None:
        """Accept any name."""

    def choose(self, past: Past) -> Shown:
        """Return the turns that the function returns.

        Raises:
            InputError: The function is not known, or reads a label.
            StoppedShort: It raised an exception, which is the cause, or did not return past turns.
        """
        if self.function is None:
            raise InputError(f"{self.name} is a Python function, which is not saved")
        try:
            chosen = self.function(replace(past, history=past.history.without_labels()))
        except IclLoopError:
            raise
        except Exception as error:
            detail = f": {error}" if str(error) else ""
            raise StoppedShort(
                f"the context policy {self.name} raised {type(error).__name__}{detail}"
            ) from error
        try:
            turns = [operator.index(turn) for turn in chosen]
        except TypeError:
            raise StoppedShort(
                f"the context policy {self.name} must return indices of turns, but returned"
                f" {shown_value(chosen)}"
            ) from None
        known = set(past.candidates)
        for turn, times in Counter(turns).items():
            if times > 1 or turn not in known:
                fault = " more than once" if times > 1 else ", which is not among past.candidates"
                raise StoppedShort(f"the context policy {self.name} returned turn {turn}{fault}")
        return turns

    def __str__(self) -> str:
        return f"function({self.name!r}, {self.code!r})"


def with_functions(policy: Policy, functions: Mapping[str, ContextPolicy]) -> Policy:
    """Return a policy with the functions that are known by the texts of their policies."""
    if isinstance(policy, Function):
        return replace(policy, function=functions.get(str(policy)))
    if isinstance(policy, Chain):
        known = (
            with_functions(each, functions) if isinstance(each, Policy) else each
            for each in policy.policies
        )
        return Chain(tuple(known))
    return policy


def unknown_functions(policy: ContextPolicy) -> list[str]:
    """Return the texts of the policies in a chain whose functions are not known."""
    functions = (part for part in parts(policy) if isinstance(part, Function))
    return [str(part) for part in functions if part.function is None]


def _choose(policy: ContextPolicy, past: Past) -> Shown:
    return policy.choose(past) if isinstance(policy, Policy) else policy(past)


def parts(policy: ContextPolicy) -> tuple[ContextPolicy, ...]:
    """Return the policies of a chain, or the policy alone if it is not a chain."""
    return policy.policies if isinstance(policy, Chain) else (policy,)
