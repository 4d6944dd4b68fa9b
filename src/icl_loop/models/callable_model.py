"""A model made from a Python function."""

import asyncio
import dis
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from threading import Thread
from types import CodeType, FunctionType, MethodType

from icl_loop.core.errors import IclLoopError, InputError, ModelError
from icl_loop.core.messages import Message, Reply

Answer = str | Reply | Awaitable[str | Reply]
ModelFunction = Callable[[Sequence[Message]], Answer]
"""Takes the messages of a conversation and returns the text of the reply, or a `Reply`."""
_PLAIN = (str, bytes, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class CallableModel:
    """A model made from a function, which may be asynchronous.

    A function that is not runs in a thread for each request, so that sessions play in parallel even
    if it blocks.
    """

    function: ModelFunction

    def __post_init__(self) -> None:
        """Raise InputError if the function cannot be called with the messages alone."""
        if isinstance(self.function, type):
            raise InputError(f"the model {self.name} is a class; pass an instance of it")
        if not callable(self.function):
            raise InputError(f"the model must be a function, not {_kind(self.function)}")
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # some functions written in C have none
            return
        try:
            signature.bind(())
        except TypeError as error:
            raise InputError(
                f"the model {self.name}{signature} must accept one argument, the messages: {error}"
            ) from None

    @property
    def name(self) -> str:
        """The qualified name of the function."""
        return function_name(self.function)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return what the function returns.

        Raises:
            ModelError: The function raised an exception, which is the cause, or did not return text.
        """
        try:
            if _is_async(self.function):
                answer = self.function(messages)
            else:
                answer, raised = await _in_thread(self.function, messages)
                if raised is not None:
                    raise raised  # noqa: TRY301  translated below, like any other
            if inspect.isawaitable(answer):
                answer = await answer
        except IclLoopError:
            raise
        except Exception as error:
            detail = f": {error}" if str(error) else ""
            raise ModelError(f"{self.name} raised {type(error).__name__}{detail}") from error
        if isinstance(answer, str):
            return Reply(answer)
        if isinstance(answer, Reply):
            return answer
        raise ModelError(f"{self.name} must return text, but returned {_kind(answer)}")


def function_name(function: object) -> str:
    """Return the qualified name of a function, or of the class of another object that can be called."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def function_digest(function: object) -> str:
    """Return a short digest of a function's code, by which a changed function is noticed.

    It covers bound arguments, default values, strings and functions of its module that the
    function uses, and simple values it closes over. It does not cover other modules or the state of
    objects.
    """
    return hashlib.sha256("\n".join(_described(function, set())).encode()).hexdigest()[:12]


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__qualname__}"


def _is_async(function: ModelFunction) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  an object may have an asynchronous one
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


async def _in_thread(
    function: ModelFunction, messages: Sequence[Message]
) -> tuple[Answer, BaseException | None]:
    """Return what `function` returns in a thread, and what it raises: a future cannot raise StopIteration.

    The thread does not keep the process alive if the function never returns.
    """
    called: Future[tuple[Answer, BaseException | None]] = Future()

    def call() -> None:
        called.set_running_or_notify_cancel()
        try:
            called.set_result((function(messages), None))
        except BaseException as error:  # noqa: BLE001  raised again below
            called.set_result(
                ("", error)
            )  # as a value, because a future cannot raise StopIteration

    Thread(target=copy_context().run, args=(call,), name="model", daemon=True).start()
    return await asyncio.wrap_future(called)


def _described(value: object, seen: set[int]) -> Iterator[str]:
    """Yield texts that are the same in every process as long as the code of `value` is the same."""
    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    yield type(value).__qualname__
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, partial):
        for part in (value.func, *value.args, *sorted(value.keywords)):
            yield from _described(part, seen)
        for name in sorted(value.keywords):
            yield from _described(value.keywords[name], seen)
    elif isinstance(value, MethodType):
        yield from _described(value.__func__, seen)
    elif isinstance(value, FunctionType):
        yield from _described_function(value, seen)
    elif isinstance(call := getattr(type(value), "__call__", None), FunctionType):  # noqa: B004
        yield from _described(call, seen)


def _described_function(function: FunctionType, seen: set[int]) -> Iterator[str]:
    yield from _described_code(function.__code__)
    defaults = function.__kwdefaults__ or {}
    for value in (*(function.__defaults__ or ()), *(defaults[name] for name in sorted(defaults))):
        yield from _described(value, seen)
    # a variable that the function itself assigns is state
    stored = {each.argval for each in dis.get_instructions(function) if "STORE" in each.opname}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name not in stored and (contents := _contents(cell)):
            yield from _described(contents[0], seen)
    for name in function.__code__.co_names:
        used = function.__globals__.get(name)
        own = isinstance(used, FunctionType) and used.__module__ == function.__module__
        if (own or isinstance(used, str)) and name not in stored:
            yield from _described(used, seen)


def _contents(cell: object) -> tuple[object, ...]:
    try:
        return (cell.cell_contents,)  # type: ignore[attr-defined]  # cells have no public type
    except ValueError:  # not assigned yet
        return ()


def _described_code(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _described_code(value)
        else:  # the order of a set of strings differs between processes
            yield repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
