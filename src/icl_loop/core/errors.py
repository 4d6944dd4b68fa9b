"""The exceptions of `icl_loop`. Exceptions of libraries are translated into these where they occur."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches

from icl_loop.core.messages import Usage

OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}
"""Errors of a process, or of all processes, that cannot open another file or connection."""


class IclLoopError(Exception):
    """The base of all exceptions of `icl_loop`; its message is for users."""


class InputError(IclLoopError):
    """The input is wrong; nothing was requested or written. The exit code is 2."""


class DatasetError(InputError):
    """A data set is missing, corrupt or inconsistent."""


class EncodingError(InputError):
    """A text does not follow its encoding."""


class TranscriptError(InputError):
    """A file is not a valid transcript; the message names file and line."""


class ChecksumMismatch(TranscriptError):
    """A transcript does not match one of its checksums."""


class SettingsMismatch(InputError):
    """Saved sessions have other settings than those given now."""


class StoppedShort(IclLoopError):
    """A run or session cannot continue; what was saved is kept. The exit code is 1."""


class ContextFull(StoppedShort):
    """The next request does not fit the context window."""

    def __init__(self, needed: int, available: int) -> None:
        """Name the tokens that the required past turns need, and the tokens left for them."""
        super().__init__(needed, available)
        self.needed, self.available = needed, available

    def __str__(self) -> str:
        available = max(self.available, 0)
        return f"the context is full: past turns need {self.needed} tokens, {available} are left"


class ModelError(StoppedShort):
    """The model did not answer; this is never recorded as a turn.

    Attributes:
        usage: Tokens that the endpoint reports for the failed request, if it does.
    """

    def __init__(self, message: str, *, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage


class ModelUnavailable(ModelError):
    """The model did not answer, but a later attempt may succeed: time-out, rate limit, server fault.

    Attributes:
        retry_after_s: Seconds to wait before the next attempt, if the endpoint said so.
        limited: Whether a rate limit was exceeded.
        reached: Whether the endpoint itself reported the failure, which shows that the address is
            right.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        limited: bool = False,
        reached: bool = False,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message, usage=usage)
        self.retry_after_s, self.limited, self.reached = retry_after_s, limited, reached


class ContextOverflow(ModelError):
    """The request is too long for the model; a shorter one may be answered."""


class RequestRefused(ModelError):
    """The model will never answer this request: wrong key, model name or request."""


class BudgetSpent(StoppedShort):
    """The next request could exceed the budget of money or tokens."""


class ReplayMismatch(StoppedShort):
    """A replay differs from the saved session."""

    def __init__(self, turn: int | None, field: str, expected: object, found: object) -> None:
        """Name the first turn and field that differ, and their values in replay and transcript.

        `turn` is None if the header differs.
        """
        super().__init__(turn, field, expected, found)
        self.turn, self.field, self.expected, self.found = turn, field, expected, found

    def __str__(self) -> str:
        where = "" if self.turn is None else f"turn {self.turn}: "
        found, expected = repr(self.found), repr(self.expected)
        pairs = enumerate(zip(found, expected, strict=False))
        start = max(0, next((place for place, (a, b) in pairs if a != b), 0) - 40)
        found, expected = _excerpt(found, start), _excerpt(expected, start)
        return f"{where}{self.field} is {found} in the transcript, expected {expected}"


def _excerpt(text: str, start: int, length: int = 120) -> str:
    """Return `text` if it is short, else the part from `start`, marked where it is cut."""
    if len(text) <= length:
        return text
    return "…" * (start > 0) + text[start : start + length] + "…" * (start + length < len(text))


class FolderLocked(StoppedShort):
    """Another process is writing transcripts to the same folder."""


def reason_of(error: OSError) -> str:
    """Return why the operating system refused; if too many files are open, also what to do."""
    if error.errno in OUT_OF_FILES:
        return (
            "too many files are open (allow more with `ulimit -n`, or play fewer sessions at once"
            " with --concurrency)"
        )
    return error.strerror or str(error) or type(error).__name__


def nearest(value: str, choices: Iterable[str]) -> str:
    """Return a hint at the choice most similar to `value`, or at all choices if none is similar.

    >>> nearest("stateles", ["all", "stateless"])
    "did you mean 'stateless'?"
    """
    names = {name.lower(): name for name in sorted(choices)}
    close = get_close_matches(value.lower(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {names[close[0]]!r}?"
    return "choose one of " + ", ".join(names.values())
