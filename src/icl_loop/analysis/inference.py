"""From the turns of an experiment to its verdict: the primary contrast, its controls, secondaries."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from icl_loop.analysis.arm_roles import Pair, Roles
from icl_loop.analysis.caveats import caveats
from icl_loop.analysis.contrasts import MARGIN, Contrast, adjusted, e_process
from icl_loop.analysis.curves import LATE
from icl_loop.core.errors import InputError, TranscriptError, nearest

Verdict = Literal["learned", "equivalent", "no evidence", "descriptive only"]
MOST_FREQUENT = "the most frequent label"
"""Name of the constant answerer that always gives the most frequent label of the late turns."""


@dataclass(frozen=True, slots=True)
class Secondary:
    """A secondary contrast and its p-value adjusted for the number of secondary contrasts."""

    contrast: Contrast
    p_adjusted: float | None


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
    late = _LateAccuracy(turns, roles.margin or MARGIN)
    recorded = roles.primary if roles.primary and set(roles.primary) <= set(arms) else None
    chosen = primary or recorded
    contrast = late.contrast(*chosen) if chosen else None
    needed = tuple(
        late.contrast(first, control)
        for first, second in ([chosen] if chosen else [])
        for control in roles.controls(first)
        if control != second
    )
    controlled = chosen is not None and roles.is_controlled(*chosen)
    return Conclusion(
        experiment=names[0],
        primary=contrast,
        recorded=chosen is not None and chosen == roles.primary,
        needed=needed,
        verdict=None
        if contrast is None
        else verdict(contrast, needed, stopped_early=roles.stopped_early, controlled=controlled),
        controlled=controlled,
        evidence=tuple(e_process(contrast.differences).tolist()) if contrast else (),
        stopped_early=roles.stopped_early,
        secondary=_secondary(late, roles, chosen, arms) if chosen else (),
        ladder=tuple(_ladder(late, roles, chosen and chosen[0])),
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
        passed = controlled and all(each.shown(stopped_early=stopped_early) for each in needed)
        return "learned" if passed else "no evidence"
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


class _LateAccuracy:
    """The accuracy over the second half of complete sessions, and contrasts between arms."""

    def __init__(self, turns: pl.DataFrame, margin: float) -> None:
        """Take the sessions of a frame; contrasts have this equivalence margin."""
        self._margin = margin
        self._accuracy: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._most_frequent: defaultdict[str, dict[int, float]] = defaultdict(dict)
        half = pl.col("turns") - pl.col("turns") // 2
        complete = (
            turns.filter(LATE)
            .group_by("arm", "stream", maintain_order=True)
            .agg(
                pl.col("correct").mean(),
                pl.col("label").unique_counts().max() / pl.len(),
                missing=half.first() - pl.len().cast(pl.Int64),
            )
            .filter(missing=0)
        )
        for arm, stream, accuracy, most_frequent, _ in complete.iter_rows():
            self._accuracy[arm][stream] = accuracy
            self._most_frequent[arm][stream] = most_frequent

    def contrast(self, first: str, second: str) -> Contrast:
        """Return the contrast between two arms."""
        return Contrast.of(
            (first, second), self._accuracy[first], self._accuracy[second], self._margin
        )

    def contrast_with_most_frequent(self, arm: str) -> Contrast:
        """Return the contrast between an arm and the best constant answer in hindsight."""
        return Contrast.of(
            (arm, MOST_FREQUENT), self._accuracy[arm], self._most_frequent[arm], self._margin
        )


def _secondary(
    late: _LateAccuracy, roles: Roles, primary: Pair, arms: Sequence[str]
) -> tuple[Secondary, ...]:
    """Return the first arm against all others, and renamed-label arms against their stateless twins."""
    first = primary[0]
    twins = ((arm, roles.stateless_twin(arm)) for arm in roles.renamed())
    pairs = [(first, arm) for arm in arms] + [(arm, twin) for arm, twin in twins if twin]
    others = dict.fromkeys(pair for pair in pairs if pair not in ((first, first), primary))
    contrasts = [late.contrast(*pair) for pair in others]
    return tuple(map(Secondary, contrasts, adjusted(contrasts)))


def _ladder(late: _LateAccuracy, roles: Roles, first: str | None) -> Iterator[NullQuestion]:
    """Yield the questions from the weakest to the strongest, including those not tested."""

    def ask(question: str, arm: str | None, other: str | None) -> NullQuestion:
        return NullQuestion(question, late.contrast(arm, other) if arm and other else None)

    yield ask("context matters?", first, first and roles.stateless_twin(first))
    yield ask("content of feedback matters?", first, first and roles.control(first, "yoked"))
    yield NullQuestion(
        "more than label frequencies?", late.contrast_with_most_frequent(first) if first else None
    )
    renamed: list[str | None] = [arm for arm in roles.renamed() if roles.stateless_twin(arm)]
    for arm in renamed or [None]:
        yield ask("more than prior knowledge?", arm, arm and roles.stateless_twin(arm))
