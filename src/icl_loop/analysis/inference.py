"""From the turns of an experiment to its verdict: one primary contrast, and what stands beside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from icl_loop.analysis.arm_roles import Pair, Roles
from icl_loop.analysis.caveats import caveats
from icl_loop.analysis.contrasts import MARGIN, Contrast, e_process, holm
from icl_loop.core.errors import InputError, TranscriptError, nearest

Verdict = Literal["learned", "equivalent", "no evidence", "descriptive only"]
MOST_FREQUENT = "the most frequent label"
"""Stands for an arm that answers always the label that is most frequent among its late turns."""


@dataclass(frozen=True, slots=True)
class Secondary:
    """A contrast beside the primary one, and its p adjusted for the number of them."""

    contrast: Contrast
    p_holm: float | None


@dataclass(frozen=True, slots=True)
class Rung:
    """A question of the ladder of nulls, and the contrast that answers it, None if not played."""

    question: str
    contrast: Contrast | None

    @property
    def holds(self) -> bool | None:
        """Whether the answer is yes; None if it was not tested."""
        if self.contrast is None or self.contrast.p is None:
            return None
        return self.contrast.above


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What an experiment supports.

    Attributes:
        experiment: Its name.
        primary: The primary contrast, None if none was named or one of its arms has no turns.
        recorded: Whether it was recorded before the first request, rather than named afterwards.
        needed: The contrasts that must hold besides before "learned" may be said.
        verdict: The verdict of the primary contrast, None without one.
        evidence: The e-process over the streams of the primary contrast.
        controlled: Whether the first arm is told of its own answers, and an arm that is not was
            played beside it.
        stopped_early: Whether the run stopped because that evidence sufficed; the verdict then
            rests on e-values, not on p.
        secondary: The other contrasts.
        ladder: The nulls, from the weakest to the strongest.
        warnings: What a reader should know before believing it.
    """

    experiment: str
    primary: Contrast | None
    recorded: bool
    needed: tuple[Contrast, ...]
    verdict: Verdict | None
    evidence: tuple[float, ...]
    stopped_early: bool
    controlled: bool
    secondary: tuple[Secondary, ...]
    ladder: tuple[Rung, ...]
    warnings: tuple[str, ...]


def conclude_each(
    turns: pl.DataFrame, primary: Pair | None = None, sessions: pl.DataFrame | None = None
) -> list[Conclusion]:
    """Return the conclusion of every experiment in a frame, in the order in which they appear."""
    alone = turns["experiment"].n_unique() == 1  # then nothing is copied
    parts = [turns] if alone else turns.partition_by("experiment", maintain_order=True)
    return [conclude(part, primary, sessions) for part in parts]


def conclude(
    turns: pl.DataFrame, primary: Pair | None = None, sessions: pl.DataFrame | None = None
) -> Conclusion:
    """Return what the turns of one experiment support.

    Args:
        turns: What `frame` returns.
        primary: The arm that is looked at, and the one that it is compared with; None takes what
            was recorded before the first request.
        sessions: What `analysis.sessions` returns. Without it arms have no roles: the primary
            contrast needs no other, and most of the ladder is not tested.

    Raises:
        InputError: The turns are of several experiments, or an arm of `primary` is not there.
    """
    names = turns["experiment"].unique().to_list()
    if len(names) != 1:
        raise InputError(f"one experiment is concluded at a time, got {len(names)}")
    arms = turns["arm"].unique(maintain_order=True).to_list()
    _refuse_unknown(primary, arms)
    _refuse_lengths(turns)
    roles = Roles.of(names[0], arms, sessions)
    compare = _Comparison(_late(turns), roles.margin or MARGIN)
    chosen = primary or _played(roles.primary, arms)
    contrast = compare(*chosen) if chosen else None
    needed = tuple(_needed(compare, roles, chosen))
    return Conclusion(
        experiment=names[0],
        primary=contrast,
        recorded=chosen is not None and chosen == roles.primary,
        needed=needed,
        verdict=None
        if contrast is None
        else verdict(
            contrast,
            needed,
            stopped_early=roles.stopped_early,
            controlled=roles.is_controlled(*contrast.arms),
        ),
        controlled=contrast is not None and roles.is_controlled(*contrast.arms),
        evidence=tuple(e_process(contrast.differences).tolist()) if contrast else (),
        stopped_early=roles.stopped_early,
        secondary=_secondary(compare, roles, chosen, arms),
        ladder=tuple(_ladder(compare, roles, chosen)),
        warnings=tuple(caveats(turns, roles, named=primary, contrast=contrast)),
    )


def verdict(
    primary: Contrast,
    needed: Sequence[Contrast] = (),
    *,
    stopped_early: bool = False,
    controlled: bool = True,
) -> Verdict:
    """Return the verdict of a primary contrast and of those that it needs.

    "learned" asks that every one is shown to be above, by p or, in a run that stopped early, by its
    e-value. Because it asks it of every one, no p is adjusted for their number (intersection-union
    test, Berger 1982). It also asks that a control was played: without one, a difference is shown
    and no learning.
    """
    if primary.p is None:
        return "descriptive only"
    if primary.shown(stopped_early=stopped_early):
        held = controlled and all(each.shown(stopped_early=stopped_early) for each in needed)
        return "learned" if held else "no evidence"
    return "equivalent" if primary.equivalent and not primary.significant else "no evidence"


def _refuse_unknown(primary: Pair | None, arms: Sequence[str]) -> None:
    for arm in primary or ():
        if arm not in arms:
            raise InputError(f"there is no arm {arm!r} to compare: {nearest(arm, arms)}")
    if primary and primary[0] == primary[1]:
        raise InputError(f"a contrast takes two arms, got {primary[0]!r} twice")


def _refuse_lengths(turns: pl.DataFrame) -> None:
    """Raise TranscriptError if sessions of one arm were planned with different numbers of turns."""
    planned = turns.group_by("arm", maintain_order=True).agg(pl.col("turns").unique().sort())
    for arm, lengths in planned.iter_rows():
        if len(lengths) > 1:
            raise TranscriptError(
                f"sessions of arm {arm!r} were planned with {lengths[0]} and with {lengths[-1]}"
                " turns; they are no one arm: analyse them apart"
            )


def _played(primary: Pair | None, arms: Sequence[str]) -> Pair | None:
    """Return the contrast that was recorded, None as long as one of its arms has no turns."""
    return primary if primary and set(primary) <= set(arms) else None


@dataclass(frozen=True, slots=True)
class _Late:
    """The second halves of an arm's whole sessions, by stream.

    Attributes:
        accuracy: Share of right answers.
        commonest: Share of the most frequent label.
    """

    accuracy: Mapping[int, float]
    commonest: Mapping[int, float]


def _late(turns: pl.DataFrame) -> dict[str, _Late]:
    """Return the late turns of every arm; a session that is not whole has none."""
    half = pl.col("turns") // 2
    sessions = (
        turns.filter(pl.col("turn") >= half)
        .group_by("arm", "stream", maintain_order=True)
        .agg(
            pl.col("correct").mean(),
            commonest=pl.col("label").unique_counts().max() / pl.len(),
            missing=(pl.col("turns") - half).first() - pl.len().cast(pl.Int64),
        )
        .filter(missing=0)
    )
    return {
        str(arm): _Late(
            accuracy=dict(part.select("stream", "correct").iter_rows()),
            commonest=dict(part.select("stream", "commonest").iter_rows()),
        )
        for (arm,), part in sessions.group_by("arm", maintain_order=True)
    }


_NOTHING = _Late({}, {})


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Makes contrasts of late accuracies, all within one margin."""

    late: Mapping[str, _Late]
    margin: float

    def __call__(self, first: str, second: str) -> Contrast:
        """Return the contrast of two arms."""
        one, other = (self.late.get(arm, _NOTHING).accuracy for arm in (first, second))
        return Contrast.of((first, second), one, other, self.margin)

    def with_most_frequent(self, arm: str) -> Contrast:
        """Return the contrast of an arm and the best answer that never changes, in hindsight."""
        late = self.late.get(arm, _NOTHING)
        return Contrast.of((arm, MOST_FREQUENT), late.accuracy, late.commonest, self.margin)


def _needed(compare: _Comparison, roles: Roles, primary: Pair | None) -> Iterator[Contrast]:
    if primary is not None:
        first, second = primary
        for control in roles.controls(first):
            if control != second:
                yield compare(first, control)


def _secondary(
    compare: _Comparison, roles: Roles, primary: Pair | None, arms: Sequence[str]
) -> tuple[Secondary, ...]:
    """Return the first arm against all others, and arms with new names against their twins."""
    if primary is None:
        return ()
    first = primary[0]
    twins = ((arm, roles.stateless_twin(arm)) for arm in roles.renamed())
    pairs = [(first, arm) for arm in arms] + [(arm, twin) for arm, twin in twins if twin]
    left = dict.fromkeys(pair for pair in pairs if pair not in ((first, first), primary))
    contrasts = [compare(*pair) for pair in left]
    adjusted = holm([each.p for each in contrasts])
    return tuple(map(Secondary, contrasts, adjusted))


def _ladder(compare: _Comparison, roles: Roles, primary: Pair | None) -> Iterator[Rung]:
    """Yield the nulls from the weakest to the strongest, those not tested included."""
    first = primary[0] if primary else None

    def rung(question: str, arm: str | None, other: str | None) -> Rung:
        return Rung(question, compare(arm, other) if arm and other else None)

    yield rung("context matters?", first, first and roles.stateless_twin(first))
    yield rung("content of feedback matters?", first, first and roles.control(first, "yoked"))
    yield Rung("more than label frequencies?", compare.with_most_frequent(first) if first else None)
    anew = "more than a re-awakened prior?"
    renamed = [arm for arm in roles.renamed() if roles.stateless_twin(arm)]
    yield from (rung(anew, arm, roles.stateless_twin(arm)) for arm in renamed)
    if not renamed:
        yield Rung(anew, None)
