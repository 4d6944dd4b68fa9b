"""The types of the `icl_loop` fixture, which runs a command in this process."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

_PROGRESS = re.compile(r"^[a-z][a-z ]*: [\d,]+ of [\d,]+ \w+\n", re.MULTILINE)


@dataclass(frozen=True)
class Done:
    """The exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def lasting(self) -> "Done":
        """The same without lines of progress, which appear only if a command takes seconds."""
        return replace(self, stderr=_PROGRESS.sub("", self.stderr))


Command = Callable[..., Done]
