"""Read an experiment from a TOML file or a dictionary, and override settings."""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_loop.core.errors import InputError, nearest, reason_of
from icl_loop.core.names import folded
from icl_loop.core.regular_files import read_regular
from icl_loop.core.toml_files import MAX_BYTES, parse_toml
from icl_loop.experiment.experiment import Experiment
from icl_loop.experiment.published_settings import PublishedSettings
from icl_loop.experiment.settings import ArmName, ExperimentFile, Settings
from icl_loop.experiment.shipped import experiment_path
from icl_loop.experiment.sweep import Sweep, merged
from icl_loop.experiment.validation import validated
from icl_loop.tasks.feedback import DONOR_KINDS


def load(
    path: Path | str,
    overrides: Sequence[str] = (),
    on_note: Callable[[str], object] = lambda _: None,
) -> Experiment:
    """Return the experiment in the TOML file at `path`, with overrides applied as by `override`.

    Args:
        path: The file, or the name of a shipped experiment, such as `quickstart`.
        overrides: `KEY=VALUE` each.
        on_note: Gets a sentence for every override that some arms do not take.

    Raises:
        InputError: The file or an override is invalid, or no arm takes an override; the message names
            file, key and value.
    """
    table, where = read_table(path)
    return parse_with(overrides, table, where, on_note)


def read_table(path: Path | str) -> tuple[dict[str, Any], str]:
    """Return the table in the TOML file at `path`, or of a shipped experiment, and the file's name.

    Raises:
        InputError: There is no such file or name, or the file is not TOML.
    """
    path = experiment_path(path)
    try:
        return parse_toml(read_regular(path, MAX_BYTES), str(path)), str(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason_of(error)}") from None


def parse_with(
    overrides: Sequence[str],
    table: Mapping[str, Any],
    where: str = "experiment",
    on_note: Callable[[str], object] = lambda _: None,
) -> Experiment:
    """Return the experiment described by a table, with overrides; see `load`."""
    for note in _untaken(table, overrides):
        on_note(note)
    return parse(override(table, overrides), where)


def _untaken(table: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for every override of a key that some arms set themselves.

    Raises:
        InputError: All arms set it.
    """
    arms = [arm for arm in table.get("arms", ()) if isinstance(arm, Mapping) and "name" in arm]
    for each in overrides:
        parts, value = _parsed(each)
        own = {arm["name"]: _value_at(arm, parts) for arm in arms if parts[0] != "name"}
        kept = [name for name, found in own.items() if found is not None and found != value]
        if not kept:
            continue
        key, names = ".".join(parts), ", ".join(map(repr, kept))
        hint = f"--set arms.{kept[0]}.{key}=..."
        if len(kept) == len(arms):
            raise InputError(
                f"--set {each}: every arm sets {key} itself; set it for an arm with {hint}"
            )
        which = f"sets {key} itself" if len(kept) == 1 else f"set {key} themselves"
        yield f"--set {each} does not change {names}, which {which}; {hint} does"


def _value_at(table: object, path: Sequence[str]) -> object:
    """Return the value at a path of keys, or None if there is none."""
    for key in path:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def parse(table: Mapping[str, Any], where: str = "experiment") -> Experiment:
    """Return the experiment described by a table; `where` names the table in errors.

    Raises:
        InputError: A key or value is invalid.
    """
    file = validated(ExperimentFile, table, where, tables=Settings)
    shared = {key: table.get(key, {}) for key in Settings.model_fields}
    _check_names(file, where)
    sweep = Sweep.of(file, where)
    arms: dict[str, Settings] = {}
    published: dict[str, PublishedSettings] = {}
    names: dict[str, str] = {}
    for arm_table in sweep.arms:
        name = validated(ArmName, arm_table["name"], f"{where}, sweep: arm")
        own = {key: value for key, value in arm_table.items() if key not in ("name", "published")}
        if "published" in arm_table:
            place = f"{where}, arm {name!r}, published"
            published[name] = validated(PublishedSettings, arm_table["published"], place)
        settings = validated(Settings, _inherited(shared, own), f"{where}, arm {name!r}")
        settings.check_turns(file.turns, f"{where}, arm {name!r}")
        _check_new(name, names, f"{where}, sweep: arm")
        arms[name] = settings.without_auto()
    if not arms:
        raise InputError(f"{where}, arms: an experiment needs at least one arm")
    arms = {name: _with_donor(file, arms, name, where) for name in arms}
    if file.analysis.primary is not None:
        _check_contrast(sweep.contrast(file.analysis.primary), arms, f"{where}, analysis.primary")
    for number, pair in enumerate(file.analysis.secondary):
        _check_contrast(sweep.contrast(pair), arms, f"{where}, analysis.secondary[{number}]")
    return Experiment(
        name=file.name,
        turns=file.turns,
        streams=file.streams,
        seed=file.seed,
        arms=arms,
        analysis=sweep.contrasts(file.analysis),
        limits=file.limits,
        price=file.price,
        repeats=file.repeats,
        published=published,
        source=where,
    )


def _inherited(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of an arm; its temperature, constant or not, replaces that of all arms."""
    tables = merged(shared, own)
    model, params = tables.get("model"), _value_at(tables, ("model", "params"))
    constant, annealed = ("model", "params", "temperature"), ("model", "annealing")
    if isinstance(model, dict) and isinstance(params, Mapping):
        if _value_at(own, annealed) is not None and _value_at(own, constant) is None:
            kept = {key: value for key, value in params.items() if key != "temperature"}
            tables["model"] = {**model, "params": kept}
        elif _value_at(own, constant) is not None and _value_at(own, annealed) is None:
            tables["model"] = {**model, "annealing": None}
    return tables


def override(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `table` with `KEY=VALUE` overrides applied, in order.

    Keys are dotted, values are TOML; a value that is not valid TOML is taken as a string.
    `arms.NAME.KEY` is a key of one arm.

    Raises:
        InputError: An override is not of this form, or there is no such arm.
    """
    result = dict(table)
    for each in overrides:
        parts, value = _parsed(each)
        if parts[0] == "arms" and isinstance(result.get("arms"), list) and len(parts) > 1:
            result["arms"] = _with_arm(result["arms"], parts[1:], value, each)
        else:
            result = merged(result, _nested(parts, value))
    return result


def _parsed(text: str) -> tuple[list[str], object]:
    """Return the parts of the key and the value of an override."""
    key, separator, given = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not separator or not all(parts):
        raise InputError(f"--set takes KEY=VALUE such as feedback.kind=label, got {text!r}")
    try:
        return parts, tomllib.loads(f"value = {given}")["value"]
    except (ValueError, RecursionError):
        return parts, given.strip()


def _nested(parts: Sequence[str], value: object) -> dict[str, Any]:
    """Return tables in which a value is at this path of keys."""
    for part in reversed(parts[1:]):
        value = {part: value}
    return {parts[0]: value}


def _with_arm(arms: Sequence[Any], parts: Sequence[str], value: object, override: str) -> list[Any]:
    """Return the tables of arms with a value set in one, whose name may contain dots."""
    names = [arm["name"] for arm in arms if isinstance(arm, Mapping) and "name" in arm]
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        if name in names:
            tail = _nested(parts[end:], value)
            return [merged(arm, tail) if arm.get("name") == name else arm for arm in arms]
    if ".".join(parts) in names:
        raise InputError(
            f"--set {override}: name a key of the arm, as in arms.NAME.feedback.kind=label"
        )
    raise InputError(f"--set {override}: there is no arm {parts[0]!r}; {nearest(parts[0], names)}")


def _check_names(file: ExperimentFile, where: str) -> None:
    """Raise InputError if an arm has no name of its own or contains keys of the whole experiment."""
    names: dict[str, str] = {}
    for number, table in enumerate(file.arms):
        place = f"{where}, arms[{number}]"
        if "name" not in table:
            raise InputError(f"{place}.name: this key is missing")
        for key in table:
            if key in ExperimentFile.model_fields and key not in {"name", *Settings.model_fields}:
                raise InputError(f"{place}.{key}: all arms share this key; set it at the top level")
        name = validated(ArmName, table["name"], f"{place}.name")
        _check_new(name, names, f"{place}.name")


def _check_new(name: str, names: dict[str, str], place: str) -> None:
    """Add the name of an arm to `names`; raise InputError if that of another differs at most in case."""
    other = names.get(folded(name))
    if other == name:
        raise InputError(f"{place}: there is another arm named {name!r}")
    if other is not None:
        raise InputError(
            f"{place} = {name!r}: on Windows and macOS its files would be those of the arm {other!r}, whose"
            " name differs in case alone; rename one of them"
        )
    names[folded(name)] = name


def _check_contrast(pair: Sequence[str], arms: Mapping[str, Settings], place: str) -> None:
    """Raise InputError unless a contrast is between two arms of the experiment."""
    if len(set(pair)) < len(pair):
        raise InputError(f"{place}: a contrast needs two different arms")
    for arm in pair:
        if arm not in arms:
            raise InputError(f"{place}: there is no arm {arm!r}: {nearest(arm, arms)}")


def _with_donor(
    file: ExperimentFile, arms: Mapping[str, Settings], arm: str, where: str
) -> Settings:
    """Return the settings of an arm; a yoked one gets the form of its donor's feedback.

    Raises:
        InputError: It cannot have the donor it names.
    """
    settings, donor = arms[arm], arms[arm].feedback.donor
    place = f"{where}, arm {arm!r}, feedback.donor = {donor!r}"
    if donor is None:
        return settings
    donors = [name for name, each in arms.items() if each.feedback.kind in DONOR_KINDS]
    hint = f"; {nearest(donor, donors)}" if donors else ""
    if donor not in arms:
        raise InputError(f"{place}: there is no arm {donor!r}{hint}")
    if donor not in donors:
        raise InputError(
            f"{place}: an arm with feedback.kind = {arms[donor].feedback.kind!r} is not told about its"
            f" own answers{hint}"
        )
    prompts = arms[donor].task.prompts
    if prompts != settings.task.prompts:
        raise InputError(f"{place}: the arm {donor!r} has another prompt set, {prompts!r}")
    if file.streams < 2:
        raise InputError(
            f"{place}: a donor is a session of another stream; set streams to 2 or more"
        )
    try:
        feedback = settings.feedback.like_donor(arms[donor].feedback)
    except InputError as error:
        raise InputError(f"{where}, arm {arm!r}, {error}") from None
    return settings.model_copy(update={"feedback": feedback})
