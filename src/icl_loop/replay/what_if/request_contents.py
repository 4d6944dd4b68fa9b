"""What the requests of a session held: tokens, turns, classes, and what a learner makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from icl_loop.analysis.baseline import LEARNER, baseline
from icl_loop.context import context_policy, from_spans
from icl_loop.replay.what_if.policy_replay import history_of
from icl_loop.transcripts import Header, Transcript

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RequestContents:
    """The requests of one session under one policy, turn by turn.

    Attributes:
        header: The session.
        policy: The policy.
        played: Whether the session was really played under it.
        tokens: Tokens of each request, as counted here, shape (turns,).
        prefix: How many of them a prefix cache could serve.
        shown: Past turns shown, by their right label, shape (turns, labels).
        told: Past turns shown whose label was told by then, by that label.
        right: Whether the learner answers right from each request.
    """

    header: Header
    policy: str
    played: bool
    tokens: Numbers
    prefix: Numbers
    shown: Numbers
    told: Numbers
    right: NDArray[np.bool_]

    @property
    def exposure(self) -> Numbers:
        """Past turns shown in each request."""
        return np.asarray(self.shown.sum(axis=1))


async def request_contents(
    transcript: Transcript, learner: str = LEARNER, *, played: bool = False
) -> RequestContents:
    """Return what the requests of a session held, and how `learner` fares with them."""
    turns, labels = transcript.turns, transcript.header.labels
    history = history_of(transcript)
    true = _places(labels, [turn.label for turn in turns])
    told = _places(labels, [told.label for told in history.feedback])
    shape, delay = (len(turns), len(labels)), history.parser.delay
    shown_by_class, told_by_class = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for turn in turns:
        shown = np.array(from_spans(turn.kept), np.intp)
        shown_by_class[turn.index] = _counts(true[shown], len(labels))
        known = shown[shown + delay < turn.index]
        told_by_class[turn.index] = _counts(told[known], len(labels))
    return RequestContents(
        header=transcript.header,
        policy=str(context_policy(transcript.header.settings["context"]["policy"])),
        played=played,
        tokens=np.array([turn.counted or 0 for turn in turns], np.int64),
        prefix=np.array([turn.prefix or 0 for turn in turns], np.int64),
        shown=shown_by_class,
        told=told_by_class,
        right=np.array(await baseline(transcript, learner), np.bool_),
    )


def _places(labels: Sequence[str], named: Sequence[str | None]) -> NDArray[np.intp]:
    """Return the place of each name among the labels, -1 for one that is none of them."""
    places = {label: place for place, label in enumerate(labels)}
    return np.array([places.get(name or "", -1) for name in named], np.intp)


def _counts(places: NDArray[np.intp], size: int) -> Numbers:
    return np.bincount(places[places >= 0], minlength=size)


def turns_of(all_requests: Sequence[RequestContents]) -> pl.DataFrame:
    """Return the requests as a frame, a row for each turn of a session under a policy."""
    return pl.concat([_rows(each, place) for place, each in enumerate(all_requests)])


def _rows(requests: RequestContents, place: int) -> pl.DataFrame:
    header = requests.header
    return pl.DataFrame(
        {
            "turn": np.arange(len(requests.tokens)),
            "tokens": requests.tokens,
            "prefix": requests.prefix,
            "shown": requests.exposure,
            "baseline": requests.right,
        }
    ).with_columns(
        requests=pl.lit(place),
        experiment=pl.lit(header.experiment),
        arm=pl.lit(header.arm),
        policy=pl.lit(requests.policy),
        played=pl.lit(requests.played),
        turns=pl.lit(header.turns),
        chance=pl.lit(1 / max(1, len(header.labels))),
    )
