"""The exceptions of `icl_loop`, in one tree.

    IclLoopError
    ├── InputError            something given to the program is wrong (exit code 2)
    │   ├── DatasetError      a data set is missing, corrupt or does not fit together
    │   ├── EncodingError     a text is not what an encoding writes
    │   ├── TranscriptError   a transcript cannot be read as one
    │   │   └── ChecksumMismatch   it was changed after it was written
    │   └── SettingsMismatch    saved sessions were played under other settings
    └── StoppedShort          a run or a session could not go on (exit code 1)
        ├── ContextFull       the window has no room for the next request
        ├── ModelError        a model did not answer
        │   ├── ModelUnavailable   it may answer later: time-outs, limits, server faults
        │   ├── ContextOverflow    the request is longer than it can read
        │   └── RequestRefused     it will not answer this: key, name or request is wrong
        ├── BudgetSpent       the next request could pass the money or tokens allowed
        ├── ReplayMismatch    a replay differs from the saved session
        └── FolderLocked     another process is writing the same transcripts

Errors of libraries are translated into these once, at the edge where they arise.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class IclLoopError(Exception):
    """Anything that `icl_loop` raises on purpose; its text is one sentence for people."""


class InputError(IclLoopError):
    """Something given to the program is wrong; nothing was requested or written."""


class DatasetError(InputError):
    """A data set is missing, corrupt or does not fit together."""


class EncodingError(InputError):
    """A text is not what an encoding writes."""


class TranscriptError(InputError):
    """A transcript cannot be read as one; the message names file and line."""


class ChecksumMismatch(TranscriptError):
    """A transcript does not match one of its checksums."""


class SettingsMismatch(InputError):
    """Saved sessions were played under other settings than those asked for now."""


class StoppedShort(IclLoopError):
    """A run or a session could not go on; what was saved is kept."""


class ContextFull(StoppedShort):
    """The window has no room for the next request under the context policy."""

    def __init__(self, needed: int, available: int) -> None:
        """Say how many tokens of past turns were `needed` and how many are `available`."""
        super().__init__(
            f"the context is full: the turns to show need {needed} tokens, {max(available, 0)} are left"
        )
        self.needed = needed
        self.available = available

    def __reduce__(self) -> tuple[type["ContextFull"], tuple[int, int]]:
        return ContextFull, (self.needed, self.available)


class ModelError(StoppedShort):
    """A model did not answer; this is never recorded as a turn."""


class ModelUnavailable(ModelError):
    """A model did not answer now but may later: time-outs, limits, server faults."""

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, limited: bool = False
    ) -> None:
        """Say what happened, how long to wait if the server said so, and if it was a rate limit."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.limited = limited


class ContextOverflow(ModelError):
    """A model cannot read a request this long; a shorter one may do."""


class RequestRefused(ModelError):
    """A model will not answer this request however often it is asked."""


class BudgetSpent(StoppedShort):
    """The next request could pass the money or the tokens that a run may take."""


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
    """Another process is writing transcripts in the same directory."""


def nearest(value: str, choices: Iterable[str]) -> str:
    """Return a clause that names the choice nearest to `value`, or all of them if none is near.

    >>> nearest("stateles", ["all", "stateless"])
    "did you mean 'stateless'?"
    """
    names = {name.lower(): name for name in sorted(choices)}
    close = get_close_matches(value.lower(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {names[close[0]]!r}?"
    return "choose one of " + ", ".join(names.values())
