"""`[sweep]`: cross the arms of an experiment file with values of settings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import PurePosixPath
from typing import Any

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.names import folded
from icl_loop.core.validation_messages import shown_value
from icl_loop.experiment.settings import AnalysisSettings, ExperimentFile, Settings
from icl_loop.experiment.validation import keys

MAX_ARMS = 1_000
"""Most arms of a sweep; more of them are a typing error."""
_LONGEST = 32
"""Most characters of a value in the name of an arm."""

Table = Mapping[str, Any]
Cell = Mapping[str, int]
"""For each factor, by its key, the index of a value."""


@dataclass(frozen=True, slots=True)
class Factor:
    """A setting and the values with which the arms are crossed.

    Attributes:
        key: Its dotted key.
        values: Its values.
        names: How names of arms give them, such as `temperature=0.7`.
    """

    key: str
    values: Sequence[Any]
    names: Sequence[str]

    def table(self, index: int) -> Table:
        """Return a table of settings that holds one value."""
        *tables, last = self.key.split(".")
        table = {last: self.values[index]}
        for part in reversed(tables):
            table = {part: table}
        return table


@dataclass(frozen=True, slots=True)
class Sweep:
    """The arms of an experiment file, crossed with the values in its `[sweep]`.

    Attributes:
        arms: The tables of the crossed arms. An arm that sets a key itself is not crossed with it.
        factors: The settings.
        own: The keys of the factors that each arm of the file is crossed with.
    """

    arms: Sequence[Table]
    factors: Sequence[Factor]
    own: Mapping[str, Sequence[Factor]]

    @classmethod
    def of(cls, file: ExperimentFile, where: str) -> "Sweep":
        """Return the crossed arms of a file; `where` names it in errors.

        Raises:
            InputError: A key or its values cannot be swept, or there are too many arms.
        """
        if not file.sweep:
            return cls(file.arms, (), {})
        factors = _factors(file.sweep, f"{where}, sweep")
        tables = {arm["name"]: arm for arm in file.arms}
        own = {
            name: [each for each in factors if not _is_set(each, arm)]
            for name, arm in tables.items()
        }
        count = sum(prod(len(each.values) for each in mine) for mine in own.values())
        if count > MAX_ARMS:
            raise InputError(
                f"{where}, sweep: makes {count:,} arms; at most {MAX_ARMS:,} are allowed"
            )
        crossed = cls((), factors, own)
        shared = file.feedback.get("donor")
        arms = [
            crossed.arm(arm, cell, shared, f"{where}, arm {name!r}")
            for name, arm in tables.items()
            for cell in _cells(own[name])
        ]
        return cls(arms, factors, own)

    def contrasts(self, analysis: AnalysisSettings) -> AnalysisSettings:
        """Return contrasts between arms of the file as contrasts between the crossed arms.

        The primary contrast is that of the first cell. Those of the other cells with the same model are
        secondary ones; models are compared in any case.
        """
        if not self.factors:
            return analysis
        pairs = [pair for pair in (analysis.primary, *analysis.secondary) if pair]
        crossed = [self.contrast(pair, cell) for cell in self._cells_of_model() for pair in pairs]
        found = [pair for at, pair in enumerate(crossed) if pair not in crossed[:at]]
        named = 0 if analysis.primary is None else 1
        primary = found[0] if named else None
        return analysis.model_copy(update={"primary": primary, "secondary": found[named:]})

    def contrast(self, pair: Sequence[str], cell: Cell | None = None) -> list[str]:
        """Return a contrast between arms of the file in a cell, by default in the first one."""
        first = dict.fromkeys((each.key for each in self.factors), 0)
        return [self.name(arm, first if cell is None else cell) for arm in pair]

    def _cells_of_model(self) -> list[Cell]:
        """Return the cells that have the model of the first one."""
        keys = [each.key for each in self.factors if each.key.partition(".")[0] == "model"]
        return [cell for cell in _cells(self.factors) if not any(cell[key] for key in keys)]

    def name(self, arm: str, cell: Cell) -> str:
        """Return the name of an arm of the file in a cell; other names stay."""
        return "_".join([arm, *(each.names[cell[each.key]] for each in self.own.get(arm, ()))])

    def arm(self, arm: Table, cell: Cell, shared_donor: object, place: str) -> Table:
        """Return the table of an arm of the file in a cell, with its donor in the same cell.

        Raises:
            InputError: The donor has several arms in the cell; the message begins with `place`.
        """
        name = arm["name"]
        crossed = {**arm, "name": self.name(name, cell)}
        for each in self.own[name]:
            crossed = merged(crossed, each.table(cell[each.key]))
        feedback = crossed.get("feedback", {})
        donor = feedback.get("donor", shared_donor) if isinstance(feedback, Mapping) else None
        if not isinstance(donor, str) or donor not in self.own:
            return crossed
        for factor in self.own[donor]:
            if factor.key not in cell:
                raise InputError(
                    f"{place}, feedback.donor = {donor!r}: this arm sets {factor.key} itself, so it is"
                    f" unclear which of the {len(factor.values)} arms of its donor is meant; leave"
                    f" {factor.key} to the sweep, or set it in the donor, too"
                )
        return merged(crossed, {"feedback": {"donor": self.name(donor, cell)}})


def merged(base: Table, top: Table) -> dict[str, Any]:
    """Return `base` with the values in `top`; nested tables are merged."""
    result = dict(base)
    for key, new in top.items():
        old = result.get(key)
        is_table = isinstance(old, Mapping) and isinstance(new, Mapping)
        result[key] = merged(old or {}, new) if is_table else new
    return result


def _cells(factors: Sequence[Factor]) -> Iterator[Cell]:
    """Yield the combinations of values, the last factor varying fastest."""
    keys = [each.key for each in factors]
    for indices in product(*(range(len(each.values)) for each in factors)):
        yield dict(zip(keys, indices, strict=True))


def _is_set(factor: Factor, arm: Table) -> bool:
    """Return whether an arm sets a factor itself."""
    return any(_overlap(arm, factor.table(index)) for index in range(len(factor.values)))


def _overlap(one: Table, other: Table) -> bool:
    """Return whether two tables set the same key."""
    for key in one.keys() & other.keys():
        tables = isinstance(one[key], Mapping) and isinstance(other[key], Mapping)
        if not tables or _overlap(one[key], other[key]):
            return True
    return False


def _factors(sweep: Table, place: str) -> list[Factor]:
    values = dict(flat(sweep))
    for key, each in values.items():
        _check(key, each, place)
    last = [_last_part(key) for key in values]
    return [
        Factor(key, each, _names(part if last.count(part) == 1 else key, each))
        for part, (key, each) in zip(last, values.items(), strict=True)
    ]


def flat(table: Table, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of nested tables and their values."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check(key: str, values: object, place: str) -> None:
    """Raise InputError unless arms can be crossed with these values of a key."""
    if not isinstance(values, list) or not values:
        raise InputError(
            f"{place}.{key} = {shown_value(values)}: must be a list of one or more values to cross"
            " the arms with"
        )
    if any(each in values[:at] for at, each in enumerate(values)):
        raise InputError(f"{place}.{key} = {shown_value(values)}: lists a value twice")
    table, _, rest = key.partition(".")
    known = {name: keys(Settings, [name]) for name in Settings.model_fields}
    if table in known and rest.split(".")[0] in ("", *known[table]):
        return
    if table in ExperimentFile.model_fields and table not in known:
        raise InputError(f"{place}.{key}: all arms share {table}; it cannot be swept")
    owners = [f"{owner}.{key}" for owner, keys in known.items() if table in keys]
    dotted = [f"{owner}.{each}" for owner, keys in known.items() for each in keys]
    hint = f"did you mean {owners[0]!r}?" if owners else nearest(key, [*dotted, *known])
    raise InputError(f"{place}.{key}: there is no such key; {hint}")


def _last_part(key: str) -> str:
    *tables, last = key.split(".")
    return tables[-1] if last == "name" and tables else last


def setting_name(key: str, value: object) -> str:
    """Return a setting in characters that names of arms may have, such as `policy=last-3`."""
    return f"{_last_part(key)}={_short(value)}"


def _names(setting: str, values: Sequence[Any]) -> list[str]:
    """Return a different name for each value of a setting."""
    found: dict[str, str] = {}  # those of texts may differ in case alone
    for value in values:
        name = base = f"{setting}={_short(value)}"
        number = 1
        while folded(name) in found:
            number += 1
            name = f"{base}-{number}"
        found[folded(name)] = name
    return list(found.values())


def _short(value: object) -> str:
    """Return a value in characters that file names may have."""
    if isinstance(value, Mapping):
        named = value.get("name")
        value = named or ",".join(f"{key}={_short(each)}" for key, each in value.items())
    elif isinstance(value, list):
        value = "-".join(map(_short, value)) or "none"
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, str):
        value = PurePosixPath(value).name.removesuffix(".toml")
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", str(value))
    return plain[:_LONGEST].rstrip("-.") or "value"
