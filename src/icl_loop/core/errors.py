"""The exceptions of `icl_loop`.

    IclLoopError
    ├── InputError                 the input is wrong (exit code 2)
    │   ├── DatasetError           a data set is missing, corrupt or inconsistent
    │   ├── EncodingError          a text does not follow its encoding
    │   ├── TranscriptError        a file is not a valid transcript
    │   │   └── ChecksumMismatch   it was changed after it was written
    │   └── SettingsMismatch       saved sessions have other settings
    └── StoppedShort               a run or session cannot continue (exit code 1)
        ├── ContextFull            the next request does not fit the window
        ├── ModelError             the model did not answer
        │   ├── ModelUnavailable   a later attempt may succeed: time-out, rate limit, server fault
        │   ├── ContextOverflow    the request is too long for the model
        │   └── RequestRefused     every attempt would fail: wrong key, model name or request
        ├── BudgetSpent            the next request could exceed the budget
        ├── ReplayMismatch         a replay differs from the saved session
        └── FolderLocked           another process is writing to the folder

Exceptions of libraries are translated into these where they occur.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class IclLoopError(Exception):
    """The base of all exceptions of `icl_loop`; its message is for users."""


class InputError(IclLoopError):
    """The input is wrong; nothing was requested or written."""


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
    """A run or session cannot continue; what was saved is kept."""


class ContextFull(StoppedShort):
    """The next request does not fit the context window.

    Attributes:
        needed: Tokens of the past turns that must be shown.
        available: Tokens left for past turns.
    """

    def __init__(self, needed: int, available: int) -> None:
        super().__init__(needed, available)
        self.needed = needed
        self.available = available

    def __str__(self) -> str:
        available = max(self.available, 0)
        return f"the context is full: past turns need {self.needed} tokens, {available} are left"


class ModelError(StoppedShort):
    """The model did not answer; this is never recorded as a turn."""


class ModelUnavailable(ModelError):
    """The model did not answer, but may answer later.

    Attributes:
        retry_after_s: Seconds to wait before the next attempt, if the endpoint said so.
        limited: Whether a rate limit was exceeded.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, limited: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.limited = limited


class ContextOverflow(ModelError):
    """The request is too long for the model; a shorter one may be answered."""


class RequestRefused(ModelError):
    """The model will never answer this request."""


class BudgetSpent(StoppedShort):
    """The next request could exceed the budget of money or tokens."""


class ReplayMismatch(StoppedShort):
    """A replay differs from the saved session.

    Attributes:
        turn: The first turn that differs, None if it is the header.
        field: The field of the transcript.
        expected: The value that the replay gives.
        found: The value in the transcript.
    """

    def __init__(self, turn: int | None, field: str, expected: object, found: object) -> None:
        super().__init__(turn, field, expected, found)
        self.turn = turn
        self.field = field
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        where = "" if self.turn is None else f"turn {self.turn}: "
        expected, found = repr(self.expected), repr(self.found)
        pairs = enumerate(zip(expected, found, strict=False))
        differs = next((place for place, (one, other) in pairs if one != other), 0)
        found, expected = _excerpt(found, differs), _excerpt(expected, differs)
        return f"{where}{self.field} is {found} in the transcript, expected {expected}"


_EXCERPT = 120
"""Longest value that an error message shows in full."""


def _excerpt(text: str, place: int) -> str:
    """Return `text` if it is short, else the part around the character at `place`."""
    if len(text) <= _EXCERPT:
        return text
    start = max(0, place - _EXCERPT // 3)
    part = text[start : start + _EXCERPT]
    return ("…" if start else "") + part + ("…" if start + _EXCERPT < len(text) else "")


class FolderLocked(StoppedShort):
    """Another process is writing transcripts to the same folder."""


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
