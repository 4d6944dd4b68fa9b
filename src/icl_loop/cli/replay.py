"""The command that shows a saved session, or proves that it replays."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from icl_loop import screen
from icl_loop.analysis import find
from icl_loop.cli.console import complain, exit_code, out, say
from icl_loop.errors import IclLoopError, InputError
from icl_loop.runner import verify
from icl_loop.transcripts import read


def replay(
    path: Annotated[Path, typer.Argument(help="A transcript, or a folder of them.")],
    check: Annotated[
        bool,
        typer.Option(
            "--verify", help="Prove that every request, judgement and told word can be re-derived."
        ),
    ] = False,
    start: Annotated[int, typer.Option("--from", min=0, help="First turn to show.")] = 0,
    delay: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds between turns; 0.5 in a terminal, else none."),
    ] = None,
) -> None:
    """Watch a saved session turn by turn, or prove that it replays."""
    files = find([path])
    if check:
        _verify_all(files)
        return
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:6]) + (", …" if len(files) > 6 else "")
        raise InputError(f"{path} holds {len(files)} sessions; name one of them: {names}")
    transcript = read(files[0])
    if start and start >= len(transcript.turns):
        raise InputError(f"--from {start}: the session has turns 0 to {len(transcript.turns) - 1}")
    show = screen.Replay(transcript, colour=out.color_system is not None)
    pause = delay if delay is not None else 0.5 * out.is_terminal
    out.print(show.heading())
    for index in range(start, len(transcript.turns)):
        out.print(show.turn(index))
        time.sleep(pause)


def _verify_all(files: list[Path]) -> None:
    codes = []
    for file in files:
        try:
            turns = asyncio.run(verify(read(file)))
        except IclLoopError as error:
            codes.append(exit_code(error))
            complain(f"{file}: {error}")
        else:
            say(f"{file}: {turns} turns replay")
    if codes:
        complain(f"{len(codes)} of {len(files)} sessions do not replay")
        raise typer.Exit(max(codes))
