"""From the turns of an experiment to its verdict: the primary contrast, its controls, secondaries."""

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
"""Name of the constant answerer that always gives the most frequent label of the late turns."""


@dataclass(frozen=True, slots=True)
class Secondary:
    """A secondary contrast and its Holm-adjusted p-value."""

    contrast: Contrast
    p_holm: float | None


@dataclass(frozen=True, slots=True)
class NullQuestion:
    """A simpler explanation to rule out, and the contrast that does so; None if not played."""

    question: str
    contrast: Contrast | None

    @property
    def holds(self) -> bool | None:
        """Whether the explanation is ruled out; None if not tested."""
        if self.contrast is None or self.contrast.p is None:
            return None
        return self.contrast.above


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The conclusion of an experiment.

    Attributes:
        experiment: Name of the experiment.
        primary: The primary contrast; None if none was named or one of its arms has no turns.
        recorded: Whether the primary contrast was recorded before the first request.
        needed: Further contrasts that must be significant for the verdict "learned".
        verdict: The verdict on the primary contrast, or None without one.
        evidence: The e-process over the streams of the primary contrast.
        controlled: Whether the first arm receives feedback on its own answers and a control arm
            without it was played.
        stopped_early: Whether the run stopped because the evidence sufficed. The verdict then rests
            on e-values instead of p-values.
        secondary: The other contrasts.
        ladder: Questions about simpler explanations, from the weakest to the strongest.
        warnings: Caveats for the reader.
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
    ladder: tuple[NullQuestion, ...]
    warnings: tuple[str, ...]


def conclude_each(
    turns: pl.DataFrame, primary: Pair | None = None, sessions: pl.DataFrame | None = None
) -> list[Conclusion]:
    """Return the conclusion of every experiment in a frame, in order of appearance."""
    alone = turns["experiment"].n_unique() == 1  # avoids a copy
    parts = [turns] if alone else turns.partition_by("experiment", maintain_order=True)
    return [conclude(part, primary, sessions) for part in parts]


def conclude(
    turns: pl.DataFrame, primary: Pair | None = None, sessions: pl.DataFrame | None = None
) -> Conclusion:
    """Return the conclusion from the turns of one experiment.

    Args:
        turns: The result of `frame`.
        primary: The arm of interest and the arm it is compared with; None uses the recorded contrast.
        sessions: The result of `analysis.sessions`, from which the arms' roles are read. Without it,
            the primary contrast stands alone and most questions are not tested.

    Raises:
        InputError: The turns belong to several experiments, or an arm of `primary` does not exist.
    """
    names = turns["experiment"].unique().to_list()
    if len(names) != 1:
        raise InputError(f"expected the turns of one experiment, got {len(names)}")
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
    """Return the verdict on a primary contrast and the further contrasts it needs.

    "learned" requires that a control was played and that every contrast shows the first arm to be
    better: by p, or by e-value if the run stopped early. Because all of them must hold, their p-values need no
    adjustment (intersection-union test, Berger 1982).
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
            raise InputError(f"there is no arm {arm!r}: {nearest(arm, arms)}")
    if primary and primary[0] == primary[1]:
        raise InputError(f"a contrast needs two different arms, got {primary[0]!r} twice")


def _refuse_lengths(turns: pl.DataFrame) -> None:
    """Raise TranscriptError if the sessions of an arm differ in their planned number of turns."""
    planned = turns.group_by("arm", maintain_order=True).agg(pl.col("turns").unique().sort())
    for arm, lengths in planned.iter_rows():
        if len(lengths) > 1:
            raise TranscriptError(
                f"sessions of arm {arm!r} were planned with {lengths[0]} and {lengths[-1]} turns;"
                " analyse them separately"
            )


def _played(primary: Pair | None, arms: Sequence[str]) -> Pair | None:
    """Return the recorded contrast, or None while one of its arms has no turns."""
    return primary if primary and set(primary) <= set(arms) else None


@dataclass(frozen=True, slots=True)
class _Late:
    """The second halves of an arm's complete sessions, by stream.

    Attributes:
        accuracy: Share of right answers.
        commonest: Share of the most frequent label.
    """

    accuracy: Mapping[int, float]
    commonest: Mapping[int, float]


def _late(turns: pl.DataFrame) -> dict[str, _Late]:
    """Return the late accuracy of every arm, from complete sessions only."""
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
    """Compares late accuracies with a common equivalence margin."""

    late: Mapping[str, _Late]
    margin: float

    def __call__(self, first: str, second: str) -> Contrast:
        """Return the contrast between two arms."""
        one, other = (self.late.get(arm, _NOTHING).accuracy for arm in (first, second))
        return Contrast.of((first, second), one, other, self.margin)

    def with_most_frequent(self, arm: str) -> Contrast:
        """Return the contrast between an arm and the best constant answer in hindsight."""
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
    """Return the first arm against all others, and renamed-label arms against their stateless twins."""
    if primary is None:
        return ()
    first = primary[0]
    twins = ((arm, roles.stateless_twin(arm)) for arm in roles.renamed())
    pairs = [(first, arm) for arm in arms] + [(arm, twin) for arm, twin in twins if twin]
    left = dict.fromkeys(pair for pair in pairs if pair not in ((first, first), primary))
    contrasts = [compare(*pair) for pair in left]
    adjusted = holm([each.p for each in contrasts])
    return tuple(map(Secondary, contrasts, adjusted))


def _ladder(compare: _Comparison, roles: Roles, primary: Pair | None) -> Iterator[NullQuestion]:
    """Yield the questions from the weakest to the strongest, including those not tested."""
    first = primary[0] if primary else None

    def ask(question: str, arm: str | None, other: str | None) -> NullQuestion:
        return NullQuestion(question, compare(arm, other) if arm and other else None)

    yield ask("context matters?", first, first and roles.stateless_twin(first))
    yield ask("content of feedback matters?", first, first and roles.control(first, "yoked"))
    yield NullQuestion(
        "more than label frequencies?", compare.with_most_frequent(first) if first else None
    )
    anew = "more than prior knowledge?"
    renamed = [arm for arm in roles.renamed() if roles.stateless_twin(arm)]
    yield from (ask(anew, arm, roles.stateless_twin(arm)) for arm in renamed)
    if not renamed:
        yield NullQuestion(anew, None)
