"""The command that shows a saved session, or proves that it replays."""

import time
from typing import Annotated

import typer

from icl_loop import screen
from icl_loop.analysis import find
from icl_loop.cli.console import out
from icl_loop.cli.options import Paths
from icl_loop.cli.verifying import verify_all
from icl_loop.errors import InputError
from icl_loop.transcripts import read


def replay(
    paths: Paths,
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
    delay: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds between turns; 0.5 in a terminal, else none."),
    ] = None,
) -> None:
    """Watch a saved session turn by turn, or prove that it replays."""
    files = find(paths)
    if check:
        verify_all(files, as_json=as_json)
        return
    if as_json:
        raise InputError("--json says what --verify found; give both")
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:6]) + (", …" if len(files) > 6 else "")
        raise InputError(f"{paths[0]} holds {len(files)} sessions; name one of them: {names}")
    transcript = read(files[0])
    if start and start >= len(transcript.turns):
        raise InputError(f"--from {start}: the session has turns 0 to {len(transcript.turns) - 1}")
    show = screen.Replay(transcript, colour=out.color_system is not None)
    pause = delay if delay is not None else 0.5 * out.is_terminal
    out.print(show.heading())
    for index in range(start, len(transcript.turns)):
        out.print(show.turn(index))
        time.sleep(pause)
