"""Late accuracy of streams, the contrasts between arms, and the gates that their answers must pass."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from icl_loop.analysis.answer_problems import FIRST, SAME_SHARE, WRONG_SHARE
from icl_loop.analysis.contrasts import FEWEST_STREAMS, Contrast
from icl_loop.analysis.side_requests import counterfactual_contrast

MOST_FREQUENT = "the most frequent label"
"""Name of the constant answerer that always gives the most frequent label of the late turns."""
CHANCE = "chance"
"""Name of the answerer that guesses."""
PARSED_SHARE = 0.5
"""Arms are compared only if at least this share of their late answers was parsed."""


@dataclass(frozen=True, slots=True)
class LateStream:
    """The late turns of one arm in one stream; shares are averaged over repeated sessions.

    Attributes:
        correct: Share of correct answers.
        most_frequent: Accuracy of the best constant answer in hindsight.
        chance: Accuracy of guessing.
        parsed: Share of answers that were parsed.
        same: Share of answers that are the most frequent one of their session.
        repeated: Number of parsed answers after the first one of each session.
    """

    correct: float
    most_frequent: float
    chance: float
    parsed: float
    same: float
    repeated: int


@dataclass(frozen=True, slots=True)
class FailedGate:
    """Why nothing can be concluded from a contrast, and a turn that shows it.

    Attributes:
        reason: What is wrong, without a full stop.
        arm: The arm of the turn.
        path: The session of the turn.
        turn: Its number.
    """

    reason: str
    arm: str
    path: str
    turn: int


class LateAccuracy:
    """The late accuracy of the sessions that have ended, and contrasts between arms.

    Late is the second half of the turns that the shortest compared session played. Sessions have ended
    if they played all planned turns or filled their context window; others are left out.
    """

    def __init__(
        self, turns: pl.DataFrame, margin: float, probed: pl.DataFrame | None = None
    ) -> None:
        """Take the turns of one experiment and its probes; contrasts have this equivalence margin."""
        sessions = turns.group_by("path", maintain_order=True).agg(
            pl.col("arm", "stream", "turns", "status").first(), played=pl.len()
        )
        is_whole = pl.col("played") == pl.col("turns")
        ended = sessions.filter(is_whole | (pl.col("status") == "context_full"))
        self._turns = turns
        if ended.height < sessions.height:
            self._turns = turns.join(ended.select("path"), on="path", how="semi")
        self._margin, self._probed = margin, probed
        self._late: dict[int, Mapping[str, Mapping[int, LateStream]]] = {}
        self._planned: dict[str, int] = {}
        self._played: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for _, arm, stream, planned, _, played in ended.iter_rows():
            self._planned[arm] = planned
            self._played[arm][stream] = min(played, self._played[arm].get(stream, played))

    def contrast(self, first: str, second: str) -> Contrast:
        """Return the contrast between two arms."""
        one, other = self._streams(first, second)
        return self._contrast(first, second, _values(one, "correct"), _values(other, "correct"))

    def contrast_with_most_frequent(self, arm: str) -> Contrast:
        """Return the contrast between an arm and the best constant answer in hindsight."""
        (own,) = self._streams(arm)
        best = _values(own, "most_frequent")
        return self._contrast(arm, MOST_FREQUENT, _values(own, "correct"), best)

    def contrast_with_chance(self, arm: str) -> Contrast:
        """Return the contrast between an arm and guessing: a one-sample test."""
        (own,) = self._streams(arm)
        return self._contrast(arm, CHANCE, _values(own, "correct"), _values(own, "chance"))

    def contrast_of_probes(self, arm: str) -> Contrast | None:
        """Return the contrast of an arm's probes as told with flipped verdicts, if there are any."""
        if self._probed is None:
            return None
        return counterfactual_contrast(self._probed, arm, self._margin)

    def window(self, *arms: str) -> tuple[int, int]:
        """Return the first late turn of these arms, and the turn after the last, from 0."""
        lengths = [self._played[arm][stream] for arm in arms for stream in self._common(arms)]
        shortest = min(lengths, default=0)
        return shortest // 2, shortest

    def is_shortened(self, *arms: str) -> bool:
        """Return whether a session of these arms ended before its planned turns."""
        _, shortest = self.window(*arms)
        return 0 < shortest < min(self._planned[arm] for arm in arms)

    def failed_gate(self, contrasts: Sequence[Contrast]) -> FailedGate | None:
        """Return why nothing can be concluded from contrasts, or None; only those between arms count.

        The gates: at least half of the answers of every arm were parsed; one of the two arms gives
        several answers; the difference is not the same in every stream.
        """
        between_arms = [each for each in contrasts if set(each.arms) <= self._planned.keys()]
        return next(self._failed(between_arms), None)

    def _failed(self, contrasts: Sequence[Contrast]) -> Iterator[FailedGate]:
        compared = [(each.arms, self._streams(*each.arms)) for each in contrasts]
        for arms, streams in compared:
            for arm, own in zip(arms, streams, strict=True):
                share = _mean(_values(own, "parsed"))
                if share < PARSED_SHARE:
                    reason = f"only {share:.0%} of the late answers of {arm!r} could be read"
                    yield self._shown(reason, arm, arms, pl.col("outcome") != "ok")
        for arms, streams in compared:
            if all(map(_is_constant, streams)):
                first, second = arms
                reason = f"{first!r} and {second!r} give one answer, whatever the question"
                yield self._shown(reason, first, arms, pl.col("outcome") == "ok")
        for each in contrasts:
            if each.k >= FEWEST_STREAMS and len(set(each.differences)) == 1:
                first, second = each.arms
                reason = (
                    f"the difference between {first!r} and {second!r} is the same in every stream"
                    f" ({100 * each.differences[0]:+z.1f} points), so nothing is known about other"
                    " streams"
                )
                yield self._shown(reason, first, each.arms, pl.lit(value=True))

    def _shown(
        self, reason: str, arm: str, arms: tuple[str, str], condition: pl.Expr
    ) -> FailedGate:
        """Return a failed gate with the first late turn of an arm that fulfils the condition."""
        start, stop = self.window(*arms)
        is_late = pl.col("turn").is_between(start, stop - 1) & pl.col("correct").is_not_null()
        late = self._turns.filter(is_late, condition, arm=arm)
        return FailedGate(reason, arm, *late.select("path", "turn").row(0))

    def _contrast(
        self, first: str, second: str, one: Mapping[int, float], other: Mapping[int, float]
    ) -> Contrast:
        return Contrast.of((first, second), one, other, self._margin)

    def _common(self, arms: Sequence[str]) -> set[int]:
        """Return the streams in which all arms have ended."""
        return set.intersection(*(set(self._played[arm]) for arm in arms))

    def _streams(self, *arms: str) -> list[dict[int, LateStream]]:
        """Return the late turns of arms in the streams in which all of them have ended."""
        common, (_, stop) = self._common(arms), self.window(*arms)
        if not common:
            return [{} for _ in arms]
        if stop not in self._late:
            self._late[stop] = self._measured(stop // 2, stop)
        return [
            {stream: late for stream, late in self._late[stop][arm].items() if stream in common}
            for arm in arms
        ]

    def _measured(self, start: int, stop: int) -> dict[str, dict[int, LateStream]]:
        """Return the turns from `start` to `stop` of every arm and stream."""
        late = self._turns.filter(pl.col("turn").is_between(start, stop - 1))
        late = late.drop_nulls("correct")
        numbers = pl.col("path", "label", "answer").cast(pl.Categorical).to_physical()
        parsed = pl.col("answer").drop_nulls()
        sessions = (
            late.select(
                *("arm", "stream", "correct", "chance"),
                numbers,  # integers group faster than strings
                ok=pl.col("outcome") == "ok",
            )
            .group_by("path", maintain_order=True)
            .agg(
                pl.col("arm", "stream", "chance").first(),
                pl.col("correct", "ok").mean(),
                most_frequent=pl.col("label").unique_counts().max() / pl.len(),
                same=parsed.unique_counts().max() / parsed.len(),
                repeated=parsed.len().cast(pl.Int64) - 1,
            )
        )
        streams = sessions.group_by("arm", "stream", maintain_order=True).agg(
            pl.col("correct", "most_frequent", "chance", "ok").mean(),
            pl.col("same").fill_null(0).mean(),
            pl.col("repeated").clip(0).sum(),
        )
        found: defaultdict[str, dict[int, LateStream]] = defaultdict(dict)
        for arm, stream, *values in streams.iter_rows():
            found[arm][stream] = LateStream(*values)
        return found


def _values(streams: Mapping[int, LateStream], name: str) -> dict[int, float]:
    """Return one attribute of every stream."""
    return {stream: getattr(late, name) for stream, late in streams.items()}


def _mean(values: Mapping[int, float]) -> float:
    """Return the mean over streams; 1 without streams, which pass every gate."""
    return sum(values.values()) / len(values) if values else 1.0


def _is_constant(streams: Mapping[int, LateStream]) -> bool:
    """Return whether an arm gives one answer in each session although the correct one varies."""
    repeated = sum(late.repeated for late in streams.values())
    correct, parsed = _mean(_values(streams, "correct")), _mean(_values(streams, "parsed"))
    return (
        repeated >= FIRST - 1
        and _mean(_values(streams, "same")) >= SAME_SHARE
        and parsed - correct >= WRONG_SHARE * parsed
    )
