"""Which arm controls for which: derived from recorded settings, never from names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from icl_loop.core.errors import TranscriptError

Pair = tuple[str, str]
NO_CONTEXT = frozenset({"stateless", "last(n=0)", "last(0)"})
"""Context policies that show no past turns."""
RENAMED = frozenset({"abstract", "deranged"})
"""Label maps that a model cannot know in advance."""


@dataclass(frozen=True, slots=True)
class Role:
    """The settings of an arm that matter in comparisons; None if unknown."""

    feedback: str | None
    donor: str | None
    labels: str | None
    policy: str | None
    context: str | None
    setup: str | None

    @property
    def stateless(self) -> bool:
        """Whether every question is asked without history."""
        return self.policy in NO_CONTEXT

    @property
    def is_control(self) -> bool:
        """Whether the arm gives no feedback, or none about its own answers."""
        return self.feedback in ("none", "yoked")


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of an experiment's arms and its recorded primary contrast.

    Attributes:
        arms: The role of each arm.
        primary: The recorded primary contrast, or None.
        margin: The recorded equivalence margin.
        stopped_early: Whether the run stopped early because the evidence sufficed.
        contradictory: Whether sessions recorded different primary contrasts or margins.
        planned: Planned numbers of streams, ascending; more than one if streams were added later.
        mismatches: Why a donor does not match, by arm.
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
        """Return the roles of an experiment's arms from the result of `analysis.sessions`."""
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
        """Return whether an arm is known to show no past turns."""
        return arm in self.arms and self.arms[arm].stateless

    def controls(self, first: str) -> tuple[str, ...]:
        """Return the arms that `first` must beat to show that it learned from feedback.

        They differ from it only in feedback: none, or that of a donor session of `first` (or of an
        unrecorded donor).
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
        """Return whether `first` gets feedback on its own answers and a control without it was played.

        True if the roles of the arms are unknown.
        """
        role, other = self.arms.get(first), self.arms.get(second)
        if role is None or other is None:
            return True
        return not role.is_control and (other.is_control or bool(self.controls(first)))

    def control(self, first: str, feedback: str) -> str | None:
        """Return the control of `first` with this kind of feedback, or None."""
        found = (arm for arm in self.controls(first) if self.arms[arm].feedback == feedback)
        return next(found, None)

    def stateless_twin(self, arm: str) -> str | None:
        """Return the arm that asks the same questions without history, or None."""
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
        """Return the arms that can learn label names unknown in advance."""
        return tuple(
            arm
            for arm, role in self.arms.items()
            if role.labels in RENAMED and not role.stateless and not role.is_control
        )


def _refuse_mixed(columns: pl.DataFrame) -> None:
    """Raise TranscriptError if the sessions of an arm differ in their settings."""
    for arm, *counts in columns.group_by("arm", maintain_order=True).n_unique().iter_rows():
        names = [name for name, count in zip(columns.columns[1:], counts, strict=True) if count > 1]
        if names:
            raise TranscriptError(
                f"sessions of arm {arm!r} differ in their settings ({', '.join(names)}); analyse them"
                " separately"
            )


def _mismatches(sessions: pl.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield arms whose donor does not match, with the reason."""
    told = sessions.filter(pl.col("donor_stream").is_not_null())
    saved = sessions.select(donor="arm", donor_stream="stream", saved_id="id")
    for row in told.join(saved, on=["donor", "donor_stream"], how="left").iter_rows(named=True):
        if row["donor_stream"] == row["stream"]:
            yield row["arm"], f"in stream {row['stream']} the donor played the same stream"
        elif row["saved_id"] not in (None, row["donor_id"]):
            yield row["arm"], f"in stream {row['stream']} the donor is not the saved session"
