"""The command line as tests give commands to it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    """How a command went."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]
