"""The types of the `icl_loop` fixture, which runs a command in this process."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Done:
    """The exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]
