"""The most similar shown past sample of every turn, decoded from the questions in transcripts."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_loop.core.errors import EncodingError, InputError
from icl_loop.tasks.encodings import PngEncoding, get_encoding
from icl_loop.tasks.prompts import open_prompt_set
from icl_loop.transcripts.columns import is_exported, read_table
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.reader import lines_of

if TYPE_CHECKING:
    from icl_loop.models.features import SampleFeatures


def nearest_turns(paths: Iterable[Path]) -> dict[str, list[int | None]]:
    """Return, by session path, the shown past turn whose sample is nearest to that of each turn.

    Distances are Euclidean, between pixels, between the columns of table rows (scaled to standard
    deviation 1 within the session), and between character n-grams of texts; see
    `models.features`. Sessions whose questions cannot be decoded, such as those with images that are
    not written as text, are left out. Files are not validated here; `frame` does that.
    """
    found = {}
    for source in sources(paths):
        for path, settings, turns in _exported(source) if is_exported(source) else _saved(source):
            samples = _features(settings, turns)
            if samples is not None:
                found[path] = nearest_shown(samples, [_shown(turn) for turn in turns])
    return found


Fields = Mapping[str, Any]
Session = tuple[str, Fields, Sequence[Fields]]
"""Path, settings and turns of a session."""


def _saved(path: Path) -> Iterator[Session]:
    """Yield the session of a transcript; `frame` has validated it, so only three fields are read."""
    lines = (json.loads(line) for line in lines_of(path) if line.endswith(b"\n"))
    header = next(lines)
    turns = [
        {name: line.get(name) for name in ("question", "kept")}
        for line in lines
        if line.get("type") == "turn"
    ]
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
    return [past for first, last in turn["kept"] or () for past in range(first, last + 1)]


def _features(settings: Fields, turns: Sequence[Fields]) -> NDArray[np.float64] | None:
    """Return the features of all samples, shape (turns, features); None unless they can be compared."""
    from icl_loop.models.features import standardised  # noqa: PLC0415  all models are slow to import

    decode = _decoder(settings)
    found = [
        decode(each["question"]) if decode and each.get("question") else None for each in turns
    ]
    samples = [sample for sample in found if sample is not None]
    if not samples or len(samples) < len(found) or len({each.form for each in samples}) != 1:
        return None
    vectors = [each.features for each in samples]
    form = samples[0].form
    is_table = form is not None and isinstance(form[0], str)  # columns, not the shape of an image
    return np.stack(standardised(vectors) if is_table else vectors).astype(np.float64)


Decoder = Callable[[str], "SampleFeatures | None"]


def _decoder(settings: Fields) -> Decoder | None:
    """Return the decoder of a session's questions; None if its prompt set or encoding is not known."""
    task = settings.get("task")
    if not isinstance(task, dict):
        return None
    return _open_decoder(str(task.get("prompts")), str(task.get("encoding")))


@lru_cache(maxsize=16)
def _open_decoder(prompts: str, encoding: str) -> Decoder | None:
    try:
        sentences, how = open_prompt_set(prompts), get_encoding(encoding)
        sentences.section_for(encoding)
    except InputError:
        return None
    if isinstance(how, PngEncoding):
        return None  # its questions hold no pixels

    from icl_loop.models.features import sample_features  # noqa: PLC0415  as above

    @lru_cache(maxsize=10_000)  # the arms of a stream ask the same questions
    def decode(question: str) -> "SampleFeatures | None":
        asked = sentences.parse_question(question, encoding)
        try:
            return asked and sample_features(asked[1], how.decode(asked[1]))
        except EncodingError:
            return None

    return decode


def nearest_shown(samples: ArrayLike, shown: Sequence[Sequence[int]]) -> list[int | None]:
    """Return, for each turn of a session, the shown past turn with the nearest sample.

    Args:
        samples: The features of each turn's sample, shape (turns, ...).
        shown: The past turns shown in each request.

    Returns:
        The past turn at the smallest Euclidean distance (the latest one on ties), or None if no past
        turn was shown.
    """
    flat = np.asarray(samples, dtype=np.float64).reshape(len(shown), -1)
    return [_nearest(flat, turn, np.asarray(past, np.intp)) for turn, past in enumerate(shown)]


def _nearest(samples: NDArray[np.float64], turn: int, past: NDArray[np.intp]) -> int | None:
    if not past.size:
        return None
    newest_first = np.sort(past)[::-1]
    distances = ((samples[newest_first] - samples[turn]) ** 2).sum(axis=1)
    return int(newest_first[distances.argmin()])
