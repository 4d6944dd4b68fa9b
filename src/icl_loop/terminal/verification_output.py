"""What `replay --verify` prints: a line for each session, and what they have in common once."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress

from icl_loop.core.errors import TranscriptError
from icl_loop.replay.verification import IN_WORDS, Difference, Finding, examine_all
from icl_loop.terminal.console import STOPPED_SHORT, WRONG_INPUT, complain, err, out, print_json
from icl_loop.terminal.formatting import printable
from icl_loop.transcripts import read_header

_OUTSIDE = ("data", "donor")
"""Causes that lie outside the transcripts, and that many of them share."""
_LONGEST = 300
"""Most characters of a difference that are printed; `--json` has all of it."""


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
    """Return what was found in one session."""
    found = finding.difference
    if found is None:
        unfinished = "" if finding.ended else ", and it can go on"
        return printable(f"{finding.path}: {finding.turns} turns replay{unfinished}")
    if found.cause in _OUTSIDE:
        return printable(f"{finding.path}: cannot be derived again: {_words(found)}")
    turn = "" if found.turn is None else f", turn {found.turn}"
    what = found.what if len(found.what) <= _LONGEST else f"{found.what[:_LONGEST]} …"
    said = f"{finding.path}{turn}: {what}: {_words(found)}, since {found.since}"
    return printable(said)


def _words(found: Difference) -> str:
    return IN_WORDS[found.cause]


def _sum_up(findings: Sequence[Finding]) -> None:
    """Say once what several sessions have in common, and how many do not replay for which cause."""
    different = [finding.difference for finding in findings if finding.difference]
    if not different:
        return
    shared = Counter((each.what, _words(each)) for each in different if each.cause in _OUTSIDE)
    for (what, words), count in shared.items():
        complain(f"{words}, {_sessions(count)}: {what}")
    causes = Counter(map(_words, different))
    counted = ", ".join(f"{count} {words}" for words, count in causes.items())
    complain(f"not replayed: {len(different)} of {_sessions(len(findings))} ({counted})")


def _sessions(count: int) -> str:
    return f"{count} session{'' if count == 1 else 's'}"
