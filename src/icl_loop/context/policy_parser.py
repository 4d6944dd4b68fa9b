"""Context policies as an experiment file writes them: names with arguments, joined by `|`."""

import ast
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from icl_loop.context.notes import Notes
from icl_loop.context.policies import (
    All,
    Block,
    First,
    Last,
    Nearest,
    OnlyCorrect,
    OnlyIncorrect,
    PerClass,
    Reservoir,
    Reset,
    Stateless,
    Stochastic,
    Within,
)
from icl_loop.context.policy import Policy, name_of
from icl_loop.core.errors import InputError, nearest

_CLASSES = (
    *(All, Stateless, Last, Within, Block, First, OnlyCorrect, OnlyIncorrect),
    *(Stochastic, Reservoir, PerClass, Nearest, Notes, Reset),
)
POLICIES: Mapping[str, type[Policy]] = {name_of(policy): policy for policy in _CLASSES}


def context_policy(text: str) -> Policy:
    """Return the policy that `text` describes: names with arguments, joined by `|`.

    >>> str(context_policy("last(50) | within(4000)"))
    'last(n=50) | within(tokens=4000)'

    Raises:
        InputError: `text` is malformed, or names an unknown policy or argument.
    """
    try:
        return _build(ast.parse(text.strip(), mode="eval").body, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _malformed(text) from None


def _malformed(text: str) -> InputError:
    return InputError(f"context policy {text!r} is malformed; write it like last(50) | within")


def _build(node: ast.expr, text: str) -> Policy:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _build(left, text) | _build(right, text)
        case ast.Name(id=name):
            return _call(name, [], [], text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(name, args, keywords, text)
        case _:
            raise _malformed(text)


def _call(
    name: str, args: Iterable[ast.expr], keywords: Iterable[ast.keyword], text: str
) -> Policy:
    if name not in POLICIES:
        raise InputError(f"unknown context policy {name!r}: {nearest(name, POLICIES)}")
    try:
        given = [_number(arg) for arg in args]
        named = {str(keyword.arg): _number(keyword.value) for keyword in keywords}
        inspect.signature(POLICIES[name]).bind(*given, **named)
    except (TypeError, ValueError) as error:
        raise InputError(f"context policy {text!r}: {name}: {error}") from None
    return POLICIES[name](*given, **named)


def _number(node: ast.expr) -> Any:  # noqa: ANN401  each policy's signature types it
    value = ast.literal_eval(node)
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"{value!r} is not a number")  # noqa: TRY004  the caller catches one kind
    return value
