"""The shadow: what a reference learner answers from exactly the context that a model was shown.

It is computed from saved transcripts alone; no request is made, and no data set is opened.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from icl_loop import answers
from icl_loop.errors import InputError, nearest
from icl_loop.loop import recall
from icl_loop.messages import Request, system
from icl_loop.models import BUILT_IN, ChatModel, open_model
from icl_loop.records import Turn
from icl_loop.transcripts import Transcript, read

LEARNER = "reference/nearest"


async def shadow(transcript: Transcript, learner: str = LEARNER) -> list[bool]:
    """Return for each turn of a session whether `learner` answers it right in the model's place.

    The learner sees the system text, the turns that the request showed, replies and told words as
    they were, and the question.

    Raises:
        InputError: There is no such learner, or it does not understand the session's wording.
        RequestRefused: The session shows what the learner cannot read.
    """
    names = [name for name in BUILT_IN if name.startswith("reference/")]
    if learner not in names:
        raise InputError(f"unknown reference learner {learner!r}: {nearest(learner, names)}")
    task = transcript.header.settings.get("task", {})
    wordings = [task["wording"]] if "wording" in task else []
    model = open_model(learner, seed=transcript.header.seed, wordings=wordings)
    return [await _is_right(model, transcript, turn) for turn in transcript.turns]


async def _is_right(model: ChatModel, transcript: Transcript, turn: Turn) -> bool:
    reply = await model.complete(_request(transcript, turn))
    return answers.read(reply.text, transcript.header.labels).answer == turn.label


def _request(transcript: Transcript, turn: Turn) -> Request:
    """Return the messages that the model was sent."""
    shown: Sequence[int] = [index for first, last in turn.kept for index in range(first, last + 1)]
    return recall(system(transcript.header.system), transcript.turns, shown, turn.question)


async def shadows(paths: Iterable[Path], learner: str = LEARNER) -> pl.DataFrame:
    """Return the shadow of every turn of the transcripts at `paths`.

    Columns: `path`, `turn`, `shadow` (whether the learner is right).
    """
    frames = [pl.DataFrame(schema={"path": pl.String, "turn": pl.Int64, "shadow": pl.Boolean})]
    for path in paths:
        right = await shadow(read(path), learner)
        frames.append(
            pl.DataFrame(
                {"path": [str(path)] * len(right), "turn": range(len(right)), "shadow": right},
                schema=frames[0].schema,
            )
        )
    return pl.concat(frames)
