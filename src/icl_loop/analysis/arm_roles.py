"""Which arm is the control of which: read from what their sessions were set to, not from names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from icl_loop.core.errors import TranscriptError

Pair = tuple[str, str]
NO_CONTEXT = frozenset({"stateless", "last(n=0)", "last(0)"})
"""The policies that show nothing of the past."""
RENAMED = frozenset({"abstract", "deranged"})
"""The label maps of which a model can know nothing beforehand."""


@dataclass(frozen=True, slots=True)
class Role:
    """What matters of an arm's settings when it is compared; None where that is unknown."""

    feedback: str | None
    donor: str | None
    labels: str | None
    policy: str | None
    context: str | None
    setup: str | None

    @property
    def stateless(self) -> bool:
        """Whether every question stands alone."""
        return self.policy in NO_CONTEXT

    @property
    def is_control(self) -> bool:
        """Whether the arm tells nothing, or nothing about its own answers."""
        return self.feedback in ("none", "yoked")


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of the arms of an experiment, and the contrast that was named beforehand.

    Attributes:
        arms: The role of each arm.
        primary: The primary contrast that was recorded, None if there was none.
        margin: The margin of equivalence that was recorded.
        stopped_early: Whether its run stopped because the evidence of the streams played sufficed.
        planned: The numbers of streams that were planned; several, if some were added.
        contradictory: Whether sessions recorded different primary contrasts or margins.
        mismatches: What was recorded of donors that do not fit, by arm.
    """

    arms: Mapping[str, Role] = field(default_factory=dict)
    primary: Pair | None = None
    margin: float | None = None
    stopped_early: bool = False
    contradictory: bool = False
    planned: tuple[int, ...] = ()
    mismatches: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: str, arms: Sequence[str], sessions: pl.DataFrame | None) -> "Roles":
        """Return the roles of these arms of an experiment, from what `sessions` returns."""
        if sessions is None:
            return cls()
        mine = sessions.filter(experiment=experiment)
        plans = mine.select("primary", "margin").unique(maintain_order=True)
        named = plans.row(0, named=True) if plans.height else {"primary": None, "margin": None}
        columns = mine.select("arm", "feedback", "donor", "labels", "policy", "context", "setup")
        _refuse_mixed(columns)
        settings = {arm: Role(*rest) for arm, *rest in columns.unique("arm").iter_rows()}
        planned = sorted(mine["planned_streams"].drop_nulls().unique())
        return cls(
            arms={arm: settings[arm] for arm in arms if arm in settings},
            primary=named["primary"] and (named["primary"][0], named["primary"][1]),
            margin=named["margin"],
            stopped_early=bool(mine["stopped_early"].any()),
            contradictory=plans.height > 1,
            planned=tuple(planned),
            mismatches=dict(_mismatches(mine)),
        )

    def is_stateless(self, arm: str) -> bool:
        """Whether an arm is known to be shown nothing of the past."""
        return arm in self.arms and self.arms[arm].stateless

    def controls(self, first: str) -> tuple[str, ...]:
        """Return the arms that `first` must be above before it has learned from being told.

        They differ from it in feedback alone, which is none, or of a donor: of `first` itself, or
        of one not recorded.
        """
        role = self.arms.get(first)
        if role is None or role.is_control:
            return ()
        return tuple(
            arm
            for arm, other in self.arms.items()
            if other.is_control
            and (other.setup, other.context) == (role.setup, role.context)
            and other.donor in (None, first)
        )

    def is_controlled(self, first: str, second: str) -> bool:
        """Whether `first` is told of its own answers, and an arm that is not was played beside it.

        Where nothing is known of the arms, whoever named them is taken at their word.
        """
        role, other = self.arms.get(first), self.arms.get(second)
        if role is None or other is None:
            return True
        return not role.is_control and (other.is_control or bool(self.controls(first)))

    def control(self, first: str, feedback: str) -> str | None:
        """Return the control of `first` with this kind of feedback, None if there is none."""
        found = (arm for arm in self.controls(first) if self.arms[arm].feedback == feedback)
        return next(found, None)

    def stateless_twin(self, arm: str) -> str | None:
        """Return the arm that is asked the same without context, None if there is none."""
        role = self.arms.get(arm)
        if role is None or role.stateless:
            return None
        twins = (
            name
            for name, other in self.arms.items()
            if other.stateless and other.setup == role.setup
        )
        return next(twins, None)

    def renamed(self) -> tuple[str, ...]:
        """Return the arms that can learn label names of which nothing is known beforehand."""
        return tuple(
            arm
            for arm, role in self.arms.items()
            if role.labels in RENAMED and not role.stateless and not role.is_control
        )


def _refuse_mixed(columns: pl.DataFrame) -> None:
    """Raise TranscriptError if sessions of one arm were set to different things."""
    for arm, *counts in columns.group_by("arm", maintain_order=True).n_unique().iter_rows():
        names = [name for name, count in zip(columns.columns[1:], counts, strict=True) if count > 1]
        if names:
            raise TranscriptError(
                f"sessions of arm {arm!r} differ in their settings ({', '.join(names)}); they are no"
                " one arm: analyse them apart"
            )


def _mismatches(sessions: pl.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield the arms whose donors do not fit, and why."""
    told = sessions.filter(pl.col("donor_stream").is_not_null())
    saved = sessions.select(donor="arm", donor_stream="stream", saved_id="id")
    for row in told.join(saved, on=["donor", "donor_stream"], how="left").iter_rows(named=True):
        if row["donor_stream"] == row["stream"]:
            yield row["arm"], f"in stream {row['stream']} it is of the same stream"
        elif row["saved_id"] not in (None, row["donor_id"]):
            yield row["arm"], f"in stream {row['stream']} it is another session than the one saved"
