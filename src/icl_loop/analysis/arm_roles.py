"""Which arm controls for which: derived from recorded settings, never from names."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import polars as pl

from icl_loop.analysis.session_settings import arm_columns
from icl_loop.core.errors import TranscriptError
from icl_loop.transcripts.comparison import flat

Pair = tuple[str, str]
Control = Literal["none", "yoked", "probes"]
"""The kinds of controls: two of arms, and probes with flipped verdicts."""
CONTENT: frozenset[Control] = frozenset({"yoked", "probes"})
"""The controls that tell the content of feedback from its presence."""
_ROLE = ("feedback", "donor", "feedback_settings", "labels", "policy", "context", "setup")
"""The columns of `analysis.sessions` that make a role."""
NO_CONTEXT = frozenset({"stateless", "last(n=0)", "last(0)"})
"""Context policies that show no past turns."""
RENAMED = frozenset({"abstract", "deranged"})
"""Label maps that a model cannot know in advance."""


@dataclass(frozen=True, slots=True)
class Role:
    """The settings of an arm that matter in comparisons; None if unknown.

    `setup` holds all settings but those of context, feedback and probes; `told` those of feedback, without
    the donor. Both are JSON, and so is `context`.
    """

    feedback: str | None
    donor: str | None
    told: str | None
    labels: str | None
    policy: str | None
    context: str | None
    setup: str

    @property
    def model(self) -> str:
        """The settings of the model, without address and account, as JSON."""
        return json.dumps(json.loads(self.setup).get("model"), sort_keys=True)

    @property
    def design(self) -> tuple[str | None, ...]:
        """All settings but those of the model and the name of the donor."""
        rest = {key: value for key, value in json.loads(self.setup).items() if key != "model"}
        return json.dumps(rest, sort_keys=True), self.context, self.told

    @property
    def form(self) -> tuple[object, object]:
        """The form of verdicts, and how many are told together."""
        told = json.loads(self.told or "null")
        told = told if isinstance(told, dict) else {}
        return told.get("form", "plain"), told.get("every", 1)

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
        secondary: The recorded secondary contrasts.
        planned: Planned numbers of streams, ascending; more than one if streams were added later.
        mismatches: Why a donor does not match, by arm.
        imported: The files that sessions were imported from.
    """

    arms: Mapping[str, Role] = field(default_factory=dict)
    primary: Pair | None = None
    margin: float | None = None
    stopped_early: bool = False
    contradictory: bool = False
    secondary: tuple[Pair, ...] = ()
    planned: tuple[int, ...] = ()
    mismatches: Mapping[str, str] = field(default_factory=dict)
    imported: tuple[str, ...] = ()

    @classmethod
    def of(cls, experiment: str, arms: Sequence[str], sessions: pl.DataFrame | None) -> "Roles":
        """Return the roles of an experiment's arms from the result of `analysis.sessions`."""
        if sessions is None:
            return cls()
        mine = sessions.filter(experiment=experiment)
        plans = mine.select("primary", "secondary", "margin").unique(maintain_order=True)
        named = plans.row(0, named=True) if plans.height else dict.fromkeys(plans.columns)
        columns = mine.select("arm", *_ROLE)
        _refuse_mixed(columns)
        settings = {arm: Role(*rest) for arm, *rest in columns.unique("arm").iter_rows()}
        planned = sorted(mine["planned_streams"].drop_nulls().unique())
        return cls(
            arms={arm: settings[arm] for arm in arms if arm in settings},
            primary=named["primary"] and (named["primary"][0], named["primary"][1]),
            margin=named["margin"],
            stopped_early=bool(mine["stopped_early"].any()),
            contradictory=plans.height > 1,
            secondary=tuple(map(tuple, json.loads(named["secondary"] or "[]"))),
            planned=tuple(planned),
            mismatches=dict(_mismatches(mine)),
            imported=tuple(mine["imported"].drop_nulls().unique().sort()),
        )

    @classmethod
    def of_settings(cls, arms: Mapping[str, Mapping[str, Any]]) -> "Roles":
        """Return the roles of arms, given the settings of each as transcripts record them."""
        columns = {arm: arm_columns(settings) for arm, settings in arms.items()}
        return cls({arm: Role(*(each[key] for key in _ROLE)) for arm, each in columns.items()})

    def is_stateless(self, arm: str) -> bool:
        """Return whether an arm is known to show no past turns."""
        return arm in self.arms and self.arms[arm].stateless

    def controls(self, first: str) -> tuple[str, ...]:
        """Return the arms that `first` must beat to show that it learned from feedback.

        They differ from it only in feedback, which has the same form: none, or that of a donor session
        of `first` (or of an unrecorded donor).
        """
        role = self.arms.get(first)
        if role is None or role.is_control:
            return ()
        return tuple(
            arm
            for arm, other in self.arms.items()
            if other.is_control
            and (other.setup, other.context, other.form) == (role.setup, role.context, role.form)
            and other.donor in (None, first)
        )

    def control_kinds(self, first: str, *, flipped: bool) -> frozenset[Control]:
        """Return the kinds of controls of an arm, whose probes may have had `flipped` verdicts."""
        probes: set[Control] = {"probes"} if flipped else set()
        return frozenset(probes.union(map(self.kind, self.controls(first))))

    def tests_learning(self, first: str, second: str) -> bool:
        """Return whether a difference between two arms can be about learning from feedback.

        Otherwise it is a difference between two models or designs, neither of which is a control of
        the other, or between arms with unknown settings.
        """
        role, other = self.arms.get(first), self.arms.get(second)
        if role is None or other is None:
            return False
        has_reference = any(each.is_control or each.stateless for each in (role, other))
        return has_reference and role.setup == other.setup

    def models(self) -> dict[str, tuple[str, ...]]:
        """Return the arms of each model by its name, in order of appearance.

        Arms have the same model if all its settings are the same, except for address and account. If
        models have the same name, the settings in which they differ are added to it.
        """
        arms: dict[str, list[str]] = {}
        for arm, role in self.arms.items():
            arms.setdefault(role.model, []).append(arm)
        return dict(zip(_model_names(arms), map(tuple, arms.values()), strict=True))

    def have_one_model(self, first: str, second: str) -> bool:
        """Return whether two arms have the same model, as far as is known."""
        role, other = self.arms.get(first), self.arms.get(second)
        return role is None or other is None or role.model == other.model

    def of_model(self, arms: Sequence[str], home: Sequence[str]) -> "Roles":
        """Return the roles of a model's arms, with the contrasts of another model translated to it.

        Args:
            arms: The model's arms.
            home: The arms of the model whose contrasts are translated. Others remain with the model
                of their first arm.
        """
        moved = (
            self.translated(pair, arms) if set(pair) <= set(home) else pair
            for pair in self.secondary
        )
        return replace(
            self,
            arms={arm: self.arms[arm] for arm in arms},
            primary=self.primary and self.translated(self.primary, arms),
            secondary=tuple(dict.fromkeys(pair for pair in moved if pair and pair[0] in arms)),
            mismatches={arm: why for arm, why in self.mismatches.items() if arm in arms},
        )

    def translated(self, pair: Pair, arms: Sequence[str]) -> Pair | None:
        """Return the two of `arms` that differ from a pair in nothing but the model, or None."""
        first, second = (self._counterpart(arm, arms) for arm in pair)
        return (first, second) if first and second else None

    def _counterpart(self, arm: str, arms: Sequence[str]) -> str | None:
        if arm in arms or arm not in self.arms:
            return arm if arm in arms else None
        wanted = self._design(arm)
        return next((each for each in arms if self._design(each) == wanted), None)

    def _design(self, arm: str) -> tuple[object, ...]:
        """Return all settings but the model; a donor counts as its settings and whose model it has."""
        role = self.arms[arm]
        donor = self.arms.get(role.donor or "")
        told = (donor.design, donor.model == role.model) if donor else role.donor
        return role.design, told

    def control(self, first: str, kind: Control) -> str | None:
        """Return the control of `first` of this kind, or None."""
        found = (arm for arm in self.controls(first) if self.kind(arm) == kind)
        return next(found, None)

    def kind(self, control: str) -> Control:
        """Return the kind of a control arm."""
        return "none" if self.arms[control].feedback == "none" else "yoked"

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

    def renamed(self, first: str | None) -> tuple[str, ...]:
        """Return the arms with the model of `first` that can learn label names unknown in advance."""
        return tuple(
            arm
            for arm, role in self.arms.items()
            if role.labels in RENAMED
            and not (role.stateless or role.is_control)
            and (first is None or self.have_one_model(first, arm))
        )


def by_model(turns: pl.DataFrame, sessions: pl.DataFrame) -> pl.DataFrame:
    """Return the turns with the model added to the name of each experiment that has several.

    If none has, it is `turns` itself.

    Args:
        turns: The result of `frame`.
        sessions: The result of `analysis.sessions`.
    """
    played = turns.select("experiment", "arm").unique(maintain_order=True)
    rows = [
        (experiment, arm, f"{experiment} / {model}")
        for experiment, arms in played.group_by("experiment", maintain_order=True)
        .agg("arm")
        .iter_rows()
        if len(models := Roles.of(experiment, arms, sessions).models()) > 1
        for model, own in models.items()
        for arm in own
    ]
    titles = pl.DataFrame(
        rows, schema=dict.fromkeys(("experiment", "arm", "title"), pl.String), orient="row"
    )
    if titles.is_empty():
        return turns
    return (
        turns.join(titles, on=("experiment", "arm"), how="left", maintain_order="left")
        .with_columns(experiment=pl.coalesce("title", "experiment"))
        .drop("title")
    )


def _model_names(models: Iterable[str]) -> list[str]:
    """Return a name for each model, given its settings as JSON."""
    tables: list[dict[str, Any]] = [flat(json.loads(each) or {}) for each in models]
    names = [str(table.get("name")) for table in tables]
    count = Counter(names)
    return [
        name
        if count[name] == 1
        else f"{name} ({_particulars(table, [each for each in tables if each.get('name') == name])})"
        for name, table in zip(names, tables, strict=True)
    ]


def _particulars(table: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Return the settings of a model that are not the same in all others."""
    keys = sorted({key for other in others for key in other})
    differing = (key for key in keys if any(other.get(key) != table.get(key) for other in others))
    return ", ".join(f"{key} = {json.dumps(table.get(key))}" for key in differing)


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
    place = ["donor", "donor_stream", "donor_repeat"]
    saved = sessions.select(
        donor="arm", donor_stream="stream", donor_repeat="repeat", saved_id="id"
    )
    for row in told.join(saved, on=place, how="left").iter_rows(named=True):
        if row["donor_stream"] == row["stream"]:
            yield row["arm"], f"in stream {row['stream']} the donor played the same stream"
        elif row["saved_id"] not in (None, row["donor_id"]):
            yield row["arm"], f"in stream {row['stream']} the donor is not the saved session"
