"""The nearest shown past image of every turn, decoded from the questions in transcripts."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_loop.core.messages import user
from icl_loop.tasks.encodings import Pixels
from icl_loop.tasks.question_decoding import QuestionDecoder, recorded_question_decoder
from icl_loop.transcripts.columns import is_exported, read_table
from icl_loop.transcripts.files import sources


def nearest_pictures(paths: Iterable[Path]) -> dict[str, list[int | None]]:
    """Return, by session path, the nearest past image shown to each turn.

    Sessions whose questions are not images written as text are left out. Files are not validated here;
    `frame` does that.
    """
    found = {}
    for source in sources(paths):
        for path, settings, turns in _exported(source) if is_exported(source) else _saved(source):
            pictures = _pictures(settings, turns)
            if pictures is not None:
                found[path] = nearest_shown(pictures, [_shown(turn) for turn in turns])
    return found


Fields = Mapping[str, Any]
Session = tuple[str, Fields, Sequence[Fields]]
"""Path, settings and turns of a session."""


def _saved(path: Path) -> Iterator[Session]:
    """Yield the session of a transcript; `frame` has validated it, so only three fields are read."""
    header, *lines = (json.loads(line) for line in path.read_bytes().split(b"\n")[:-1])
    turns = [line for line in lines if line.get("type") == "turn"]
    yield str(path), header.get("settings", {}), turns


def _exported(path: Path) -> Iterator[Session]:
    """Yield the sessions of an export."""
    known = read_table(path, "sessions", ("path", "header"))
    turns = read_table(path, "turns", ("path", "question", "kept"))
    for (name,), part in known.join(turns, on="path").group_by("path", maintain_order=True):
        settings = json.loads(part["header"][0]).get("settings", {})
        yield str(name), settings, part.select("question", "kept").to_dicts()


def _shown(turn: Fields) -> list[int]:
    """Return the past turns in the ranges [first, last] that a request showed."""
    return [past for first, last in turn["kept"] for past in range(first, last + 1)]


def _pictures(settings: Fields, turns: Sequence[Fields]) -> NDArray[np.float32] | None:
    """Return the images of all turns, shape (turns, height, width); None unless all have one size."""
    see = recorded_question_decoder(settings)
    questions = [turn.get("question") for turn in turns]
    seen = [_picture(see, text) if isinstance(text, str) else None for text in questions]
    pictures = [picture for picture in seen if picture is not None]
    if len(pictures) < len(seen) or len({picture.shape for picture in pictures}) != 1:
        return None
    return np.stack(pictures)


@lru_cache(maxsize=10_000)  # the arms of a stream ask the same questions
def _picture(see: QuestionDecoder, question: str) -> Pixels | None:
    """Return the image that a question shows as text."""
    return see(user(question))


def nearest_shown(pictures: ArrayLike, shown: Sequence[Sequence[int]]) -> list[int | None]:
    """Return, for each turn of a session, the shown past turn with the nearest image.

    Args:
        pictures: The image of each turn, shape (turns, ...).
        shown: The past turns shown in each request.

    Returns:
        The past turn at the smallest Euclidean distance (the latest one on ties), or None if no past
        turn was shown.
    """
    flat = np.asarray(pictures, dtype=np.float64).reshape(len(shown), -1)
    return [_nearest(flat, turn, np.asarray(past, np.intp)) for turn, past in enumerate(shown)]


def _nearest(pictures: NDArray[np.float64], turn: int, past: NDArray[np.intp]) -> int | None:
    if not past.size:
        return None
    newest_first = np.sort(past)[::-1]
    distances = ((pictures[newest_first] - pictures[turn]) ** 2).sum(axis=1)
    return int(newest_first[distances.argmin()])
