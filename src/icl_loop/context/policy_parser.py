"""Context policies as an experiment file writes them: names with arguments, joined by `|`."""

import ast
import inspect
from collections.abc import Mapping
from contextlib import suppress

from icl_loop.context import policies, random_policies
from icl_loop.context.policy import Function, Policy, name_of
from icl_loop.core.errors import InputError, nearest
from icl_loop.core.validation_messages import shown_value

_CLASSES = (
    *(policies.All, policies.Stateless, policies.Last, policies.Within, policies.Block),
    *(policies.First, policies.OnlyCorrect, policies.OnlyIncorrect),
    *(random_policies.Stochastic, random_policies.Redrawn, random_policies.Parallel),
    *(random_policies.Reservoir, policies.PerClass, policies.Nearest),
    *(policies.Notes, policies.Reset),
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
        return _build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(
            f"context policy {shown_value(text)} is malformed; write it like last(50) | within"
        ) from None


def _build(node: ast.expr) -> Policy:
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _build(left) | _build(right)
        case ast.Name(id=name):
            return _call(name, ast.Call(node, [], []))
        case ast.Call(
            func=ast.Name(id="function"),
            args=[ast.Constant(str() as name), ast.Constant(str() as code)],
        ):
            return Function(name, code)  # as transcripts record it
        case ast.Call(func=ast.Name(id=name)):
            return _call(name, node)
    raise ValueError("neither a policy nor a chain")


def _call(name: str, call: ast.Call) -> Policy:
    if name not in POLICIES:
        raise InputError(f"unknown context policy {shown_value(name)}: {nearest(name, POLICIES)}")
    given = [_number(name, arg) for arg in call.args]
    named = {str(keyword.arg): _number(name, keyword.value) for keyword in call.keywords}
    signature = inspect.signature(POLICIES[name])
    try:
        signature.bind(*given, **named)
    except TypeError:
        known = ", ".join(signature.parameters) or "none"
        raise InputError(
            f"context policy {name}: wrong arguments; its parameters: {known}"
        ) from None
    return POLICIES[name](*given, **named)


def _number(name: str, node: ast.expr) -> float | None:
    with suppress(ValueError):
        value = ast.literal_eval(node)
        if not isinstance(value, bool) and isinstance(value, int | float | None):
            return value
    raise InputError(f"context policy {name}: {shown_value(ast.unparse(node))} is not a number")
