"""What `replay --verify` prints: a line for each session, and what they have in common once."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress

from icl_loop.core.errors import TranscriptError
from icl_loop.replay.verification import Finding, examine_all
from icl_loop.terminal.console import STOPPED_SHORT, WRONG_INPUT, complain, err, out, print_json
from icl_loop.terminal.formatting import printable
from icl_loop.transcripts import read_header

_SHARED = ("data", "donor")
"""Causes with a message that is often the same for many sessions."""


def verify_all(files: Sequence[Path], *, as_json: bool) -> None:
    """Verify transcripts and print what was found; exit with 1 if any does not replay.

    A file that is no transcript is wrong input; the others are verified all the same.
    """
    unread = {path: said for path in files if (said := _unreadable(path))}
    for said in unread.values():
        complain(f"error: {said}")
    sound = [path for path in files if path not in unread]
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("verifying", total=len(sound))
        findings = examine_all(sound, lambda _: progress.advance(bar))
    if as_json:
        found = {finding.path: finding.fields() | {"error": None} for finding in findings}
        errors = {path: _unread_fields(path, said) for path, said in unread.items()}
        print_json([(found | errors)[path] for path in files])
    else:
        for finding in findings:
            out.print(_line(finding), markup=False, highlight=False, soft_wrap=True)
    _sum_up(findings)
    if unread:
        raise typer.Exit(WRONG_INPUT)
    if any(finding.difference for finding in findings):
        raise typer.Exit(STOPPED_SHORT)


def _unreadable(path: Path) -> str | None:
    """Return why a file is no transcript, None if it begins as one."""
    try:
        read_header(path)
    except TranscriptError as error:
        return str(error)
    return None


def _unread_fields(path: Path, said: str) -> dict[str, Any]:
    """Return the JSON of a file that is no transcript: that of a finding, and why there is none."""
    return Finding(path, 0, ended=False).fields() | {"replays": False, "error": said}


def _line(finding: Finding) -> str:
    """Return the line for one session."""
    difference = finding.difference
    if difference is None:
        unfinished = "" if finding.ended else " (unfinished)"
        return printable(f"{finding.path}: {finding.turns} turns replay{unfinished}")
    if difference.cause in _SHARED:
        return printable(f"{finding.path}: cannot be replayed: {difference.cause}")
    return printable(f"{finding.path}: {difference.cause}: {difference.message}")


def _sum_up(findings: Sequence[Finding]) -> None:
    """Print each message that sessions share once, and how many sessions do not replay."""
    different = [finding.difference for finding in findings if finding.difference]
    if not different:
        return
    shared = Counter((each.cause, each.message) for each in different if each.cause in _SHARED)
    for (cause, message), count in shared.items():
        complain(f"{cause}, {_sessions(count)}: {message}")
    causes = Counter(each.cause for each in different)
    counted = ", ".join(f"{count} {cause}" for cause, count in causes.items())
    complain(f"sessions that do not replay: {len(different)} of {len(findings)} ({counted})")


def _sessions(count: int) -> str:
    return f"{count} session{'' if count == 1 else 's'}"
