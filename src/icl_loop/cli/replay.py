"""The command that shows a saved session, or proves that it replays."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from icl_loop.analysis import find
from icl_loop.cli.options import Paths
from icl_loop.core.errors import InputError, nearest
from icl_loop.terminal.console import out
from icl_loop.terminal.verification_output import verify_all
from icl_loop.terminal.viewer import Keyboard, Replay, Show, View, has_keys, watch
from icl_loop.transcripts import read

_SPEED = 2.0
"""Turns a second in a terminal."""
_NAMED = 12
"""Sessions of a folder that an error names."""


def replay(
    paths: Paths,
    session: Annotated[
        str | None,
        typer.Option(metavar="ARM-STREAM", help="Which session of a folder, such as label-0."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--verify", help="Prove that every request, judgement and told word can be re-derived."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --verify, print what was found as JSON.")
    ] = False,
    start: Annotated[int, typer.Option("--from", min=0, help="First turn to show.")] = 0,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.0625,
            max=64,
            help="Turns a second; 2 in a terminal, else as fast as can be.",
        ),
    ] = None,
    step: Annotated[bool, typer.Option("--step", help="Wait for a key after each turn.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Show wrong answers only.")] = False,
    reply: Annotated[bool, typer.Option("--reply", help="Show whole replies.")] = False,
    window: Annotated[
        bool, typer.Option("--window", help="Show which past turns each request held.")
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Show questions as the model saw them.")
    ] = False,
) -> None:
    """Watch a saved session turn by turn, or prove that it replays.

    In a terminal the session is drawn in place and steered by keys; a line there names them.
    Elsewhere the turns are printed one after the other.
    """
    files = _chosen(find(paths), session)
    if check:
        verify_all(files, as_json=as_json)
        return
    if as_json:
        raise InputError("--json says what --verify found; give both")
    if len(files) > 1:
        raise InputError(
            f"{paths[0]} holds {len(files)} sessions; name one{'' if session else ' with --session'}: {_names(files)}"
        )
    shown = Replay(read(files[0]), colour=out.color_system is not None)
    if start and start >= len(shown):
        raise InputError(f"--from {start}: the session has turns 0 to {len(shown) - 1}")
    view = View(start, playing=not step, errors=errors, show=Show(reply, window, text))
    if len(shown) and out.is_interactive and has_keys():
        _watch(shown, replace(view, speed=speed or _SPEED))
    elif step:
        raise InputError(
            "--step waits for keys, so it takes a terminal to read from and to write to"
        )
    else:
        _print(shown, view, speed or _SPEED * out.is_terminal)


def _chosen(files: list[Path], session: str | None) -> list[Path]:
    """Return the files of a session, all of them if none is named."""
    if session is None:
        return files
    chosen = [file for file in files if file.stem == session.removesuffix(".jsonl")]
    if not chosen:
        near = nearest(session, {file.stem for file in files})
        raise InputError(f"unknown session {session!r}: {near}")
    return chosen


def _names(files: list[Path]) -> str:
    """Return the names of some sessions; where folders share them, the paths."""
    apart = len({file.stem for file in files}) == len(files)
    names = [file.stem if apart else str(file) for file in files[:_NAMED]]
    return ", ".join(names) + (", …" if len(files) > _NAMED else "")


def _watch(shown: Replay, view: View) -> None:
    """Show the session in place; say afterwards where it was left."""
    left = watch(shown, view, out, Keyboard(sys.stdin.fileno()))
    out.print(shown.heading())
    out.print(f"left at turn {left.at}; --from {left.at} goes on there", highlight=False)


def _print(shown: Replay, view: View, speed: float) -> None:
    """Print the turns one after the other, then the curve."""
    out.print(shown.heading())
    for index in range(view.at, len(shown)):
        if view.errors and shown.right[index]:
            continue
        out.print(shown.turn(index, view.show))
        out.print()
        time.sleep(1 / speed if speed else 0)
    if len(shown):
        out.print(shown.curve(len(shown) - 1, min(out.width, 100), 5))
        out.print(shown.caption(len(shown) - 1))
