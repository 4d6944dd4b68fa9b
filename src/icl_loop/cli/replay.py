"""`icl-loop replay`: watch a saved session, or verify that sessions replay."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from icl_loop.cli.options import Transcripts
from icl_loop.core.errors import InputError, TranscriptError, nearest
from icl_loop.replay.verification import Finding, examine_all
from icl_loop.terminal.console import (
    BAD_INPUT,
    STOPPED_SHORT,
    err,
    out,
    print_error,
    print_json,
    print_text,
)
from icl_loop.terminal.progress import WorkProgress
from icl_loop.terminal.session_view import Display, SessionView
from icl_loop.transcripts import read, read_header
from icl_loop.transcripts.files import find

_SPEED = 2.0
_LISTED = 12
"""Sessions that an error lists at most."""
_SHARED = ("data", "donor")
"""Causes with a message that is often the same for many sessions."""


def replay(
    paths: Transcripts,
    session: Annotated[
        str | None, Option(metavar="ARM-STREAM", help="Session to show, such as label-0.")
    ] = None,
    verify: Annotated[
        bool, Option("--verify", help="Play sessions again from the saved replies, and compare.")
    ] = False,
    as_json: Annotated[
        bool, Option("--json", help="With --verify, print the findings as JSON.")
    ] = False,
    start: Annotated[int, Option("--from", min=0, help="First turn to show.")] = 0,
    speed: Annotated[
        float | None,
        Option(min=1 / 16, max=64, help="Turns per second; 2 on a terminal, otherwise no limit."),
    ] = None,
    step: Annotated[bool, Option("--step", help="Start paused.")] = False,
    errors: Annotated[bool, Option("--errors", help="Show wrong answers only.")] = False,
    reply: Annotated[bool, Option("--reply", help="Show whole replies.")] = False,
    window: Annotated[
        bool, Option("--window", help="Show which past turns each request contained.")
    ] = False,
    text: Annotated[bool, Option("--text", help="Show questions as the model saw them.")] = False,
) -> None:
    """Watch a saved session turn by turn, or verify that sessions replay.

    On a terminal this opens a viewer; press ? there for its keys.
    Of several sessions, such as those in a folder, you choose one first.
    Otherwise the turns are printed one after another.
    """
    files = _named(find(paths), session)
    if verify:
        _verify(files, as_json=as_json)
        return
    if as_json:
        raise InputError("--json needs --verify")
    display = Display(reply, window, text, errors)
    watched = out.is_interactive and sys.stdin.isatty() and sys.stdout.isatty()
    if len(files) > 1:
        if not watched:
            where = f"{paths[0]} contains" if len(paths) == 1 else "the paths contain"
            how = "name the path of one" if session else "choose one with --session"
            raise InputError(f"{where} {len(files)} sessions; {how}: {_names(files)}")
        _choose_and_watch(files, display, start, speed or _SPEED, playing=not step)
        return
    view = _view(files[0], start)
    if view.turns and watched:
        _report_left(view, _watch(view, display, start, speed or _SPEED, playing=not step))
    elif step:
        raise InputError("--step needs a terminal")
    else:
        _print(view, display, start, speed or _SPEED * out.is_terminal)


def _view(file: Path, start: int) -> SessionView:
    """Return the view of a transcript that has a turn `start`."""
    view = SessionView(read(file), colour=bool(out.color_system) and not out.no_color)
    if start and start >= len(view.turns):
        raise InputError(f"--from {start}: the session has turns 0 to {len(view.turns) - 1}")
    return view


def _named(files: list[Path], session: str | None) -> list[Path]:
    """Return the transcripts of a session, or all of them."""
    if session is None:
        return files
    chosen = [file for file in files if file.stem == session.removesuffix(".jsonl")]
    if not chosen:
        near = nearest(session, {file.stem for file in files})
        raise InputError(f"unknown session {session!r}: {near}")
    return chosen


def _names(files: list[Path]) -> str:
    """Return the names of some sessions, or their paths if names repeat."""
    unique = len({file.stem for file in files}) == len(files)
    names = [file.stem if unique else str(file) for file in files[:_LISTED]]
    return ", ".join(names) + (", …" if len(files) > _LISTED else "")


def _watch(view: SessionView, display: Display, start: int, speed: float, *, playing: bool) -> int:
    """Open the viewer and return the turn where it was left."""
    from icl_loop.terminal.viewer import Viewer  # noqa: PLC0415  only the viewer needs textual

    viewer = Viewer(view, display, start, speed, playing=playing)
    left = viewer.run()
    if viewer.return_code:
        raise Exit(viewer.return_code)
    return left or 0


def _report_left(view: SessionView, left: int) -> None:
    """Say where the viewer was left."""
    out.print(view.heading())
    out.print(f"left at turn {left}; continue with --from {left}", highlight=False)


def _choose_and_watch(
    files: Sequence[Path], display: Display, start: int, speed: float, *, playing: bool
) -> None:
    """Let sessions be chosen from a list and watched, one after another; say where the last was left."""
    from icl_loop.terminal.session_picker import SessionPicker  # noqa: PLC0415  as above

    rows, last = _rows(files), None
    picker = SessionPicker(rows)
    while (chosen := picker.run()) is not None:
        view = _view(files[chosen], start)
        last = view, _watch(view, display, start, speed, playing=playing)
        picker = SessionPicker(rows, chosen)
    if picker.return_code:
        raise Exit(picker.return_code)
    if last:
        _report_left(*last)


def _rows(files: Sequence[Path]) -> list[str]:
    """Return what is known of each transcript without reading all of it, in columns."""
    cells = [_cells(file) for file in files]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cells(file: Path) -> tuple[str, ...]:
    try:
        header = read_header(file)
    except TranscriptError as error:
        return file.stem, "", "", str(error)
    model = header.settings.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    return file.stem, header.experiment, str(name or "?"), f"{header.turns} turns planned"


def _print(view: SessionView, display: Display, start: int, speed: float) -> None:
    """Print the turns one after another, then the chart."""
    out.print(view.heading())
    for index in view.visible(display):
        if index >= start:
            out.print(view.turn(index, display))
            out.print()
            time.sleep(1 / speed if speed else 0)
    if view.turns:
        out.print(view.chart(len(view.turns) - 1, min(out.width, 100), 6))


def _verify(files: Sequence[Path], *, as_json: bool) -> None:
    """Verify transcripts and print the findings.

    Raises:
        Exit: With code 2 if a file is not a transcript (the others are still verified), or with
            code 1 if a session does not replay.
    """
    errors: dict[Path, str] = {}
    for path in files:
        try:
            read_header(path)
        except TranscriptError as error:
            errors[path] = str(error)
            print_error(f"error: {error}")
    readable = [path for path in files if path not in errors]
    with WorkProgress(err, "verifying", "sessions", len(readable)) as progress:
        findings = examine_all(readable, lambda _: progress.add())
    if as_json:
        fields = {finding.path: finding.fields() | {"error": None} for finding in findings}
        for path, message in errors.items():
            unread = Finding(path, 0, ended=False).fields()
            fields[path] = unread | {"replays": False, "error": message}
        print_json([fields[path] for path in files])
    else:
        for finding in findings:
            print_text(f"{finding.path}: {_result(finding)}")
    if any(finding.difference for finding in findings):
        _print_summary(findings)
    if errors:
        raise Exit(BAD_INPUT)
    if any(finding.difference for finding in findings):
        raise Exit(STOPPED_SHORT)


def _result(finding: Finding) -> str:
    """Return whether a session replays, or its first difference."""
    difference = finding.difference
    if difference is None:
        return f"{finding.turns} turns replay{'' if finding.ended else ' (unfinished)'}"
    if difference.cause in _SHARED:
        return f"cannot be replayed: {difference.cause}"
    return f"{difference.cause}: {difference.message}"


def _print_summary(findings: Sequence[Finding]) -> None:
    """Print each message that sessions share once, and how many sessions do not replay."""
    different = [finding.difference for finding in findings if finding.difference]
    shared = Counter((each.cause, each.message) for each in different if each.cause in _SHARED)
    for (cause, message), count in shared.items():
        print_error(f"{cause}, {count} session{'s' * (count > 1)}: {message}")
    causes = Counter(each.cause for each in different)
    counted = ", ".join(f"{count} {cause}" for cause, count in causes.items())
    print_error(f"sessions that do not replay: {len(different)} of {len(findings)} ({counted})")
