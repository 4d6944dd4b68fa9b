"""The output of `replay --verify`: a line per session and a summary."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import typer

from icl_loop.core.errors import TranscriptError
from icl_loop.replay.verification import Finding, examine_all
from icl_loop.terminal.console import (
    BAD_INPUT,
    STOPPED_SHORT,
    err,
    print_error,
    print_json,
    print_text,
)
from icl_loop.terminal.progress import WorkProgress
from icl_loop.transcripts import read_header

_SHARED = ("data", "donor")
"""Causes with a message that is often the same for many sessions."""


def verify_all(files: Sequence[Path], *, as_json: bool) -> None:
    """Verify transcripts and print the findings.

    Raises:
        Exit: With code 2 if a file is not a transcript (the others are still verified), or with
            code 1 if a session does not replay.
    """
    errors = {path: error for path in files if (error := _header_error(path))}
    for error in errors.values():
        print_error(f"error: {error}")
    readable = [path for path in files if path not in errors]
    with WorkProgress(err, "verifying", "sessions", len(readable)) as progress:
        findings = examine_all(readable, lambda _: progress.advance())
    if as_json:
        fields = {finding.path: finding.fields() | {"error": None} for finding in findings}
        for path, error in errors.items():
            unread = Finding(path, 0, ended=False).fields()
            fields[path] = unread | {"replays": False, "error": error}
        print_json([fields[path] for path in files])
    else:
        for finding in findings:
            print_text(_line(finding))
    _print_summary(findings)
    if errors:
        raise typer.Exit(BAD_INPUT)
    if any(finding.difference for finding in findings):
        raise typer.Exit(STOPPED_SHORT)


def _header_error(path: Path) -> str | None:
    """Return why a file does not start like a transcript, or None if it does."""
    try:
        read_header(path)
    except TranscriptError as error:
        return str(error)
    return None


def _line(finding: Finding) -> str:
    """Return the line for one session."""
    difference = finding.difference
    if difference is None:
        unfinished = "" if finding.ended else " (unfinished)"
        return f"{finding.path}: {finding.turns} turns replay{unfinished}"
    if difference.cause in _SHARED:
        return f"{finding.path}: cannot be replayed: {difference.cause}"
    return f"{finding.path}: {difference.cause}: {difference.message}"


def _print_summary(findings: Sequence[Finding]) -> None:
    """Print each message that sessions share once, and how many sessions do not replay."""
    different = [finding.difference for finding in findings if finding.difference]
    if not different:
        return
    shared = Counter((each.cause, each.message) for each in different if each.cause in _SHARED)
    for (cause, message), count in shared.items():
        print_error(f"{cause}, {_sessions(count)}: {message}")
    causes = Counter(each.cause for each in different)
    counted = ", ".join(f"{count} {cause}" for cause, count in causes.items())
    print_error(f"sessions that do not replay: {len(different)} of {len(findings)} ({counted})")


def _sessions(count: int) -> str:
    return f"{count} session{'' if count == 1 else 's'}"
