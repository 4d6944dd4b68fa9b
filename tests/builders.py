"""Small experiments and sessions for tests, parsed as from an experiment file."""

import re
import tarfile
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from icl_loop.context.history import History
from icl_loop.core.records import Event, Turn
from icl_loop.experiment import Experiment, Session, parse
from icl_loop.loop import play, play_events
from icl_loop.models import ChatModel
from icl_loop.transcripts.comparison import TIME_FIELDS


def experiment(**changes: Any) -> Experiment:  # noqa: ANN401  any setting of an experiment file
    """Return a small experiment on the embedded digits; `changes` are top-level settings."""
    return parse({"name": "small", "turns": 12, "streams": 2, "seed": 7, **changes})


def session(
    turns: int = 12,
    stream: int = 0,
    *,
    policy: str = "block",
    feedback: str = "label",
    model: str | Mapping[str, Any] = "reference/nearest",
    **task: Any,  # noqa: ANN401  any setting of the task table
) -> Session:
    """Return one session; `task` holds settings of the task table."""
    table = {"name": model} if isinstance(model, str) else dict(model)
    made = experiment(
        turns=turns,
        streams=stream + 1,
        task=task,
        model=table,
        context={"policy": policy},
        feedback={"kind": feedback},
    )
    return list(made.sessions())[stream]


async def played(session: Session, model: ChatModel | None = None) -> list[Turn]:
    """Play a session with its own model or another and return its turns."""
    turns = play(session.task, model or session.open_model(), session.policy, session.window)
    return [turn async for turn in turns]


def play_on(
    session: Session, model: ChatModel | None = None, events: Iterable[Event] = ()
) -> AsyncIterator[Event]:
    """Play the turns and notes of a session that follow `events`."""
    history = History.for_task(session.task, session.window, events)
    return play_events(session.task, model or session.open_model(), session.policy, history)


def unpacked(archive: Path, folder: Path, start: str) -> Path:
    """Write the files of a tar archive whose names begin with `start` to a folder, and return it.

    `TarFile.extractall` has filters since Python 3.11.4 only, and warns without one.
    """
    with tarfile.open(archive) as members:
        for member in members:
            if member.name.startswith(start) and (content := members.extractfile(member)):
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    return folder / start


def without_times(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a transcript line except for times."""
    return {key: value for key, value in line.items() if key not in TIME_FIELDS}


def transcripts_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of every transcript in `folder` without times, by file name."""
    return {path.name: _untimed(path.read_bytes()) for path in sorted(folder.glob("*.jsonl"))}


def without_checksum(text: str) -> str:
    """Return the text of a transcript without checksums, so that edits pass unnoticed."""
    return _CHECKSUMS.sub("}", text)


def _untimed(data: bytes) -> bytes:
    return _TIMES.sub(b"", data)


_CHECKSUMS = re.compile(r',"crc32":"[0-9a-f]{8}"\}$', re.MULTILINE)
_TIMES = re.compile(b'"(?:' + "|".join(sorted(TIME_FIELDS)).encode() + rb')":(?:"[^"]*"|[-+.\de]+)')
