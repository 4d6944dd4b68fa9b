"""From a TOML file, or a table like one, to the experiment that it describes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from icl_loop.core import toml_files
from icl_loop.core.errors import InputError, nearest
from icl_loop.experiment.experiment import Experiment
from icl_loop.experiment.overrides import changed, overlaid
from icl_loop.experiment.settings import (
    ExperimentFile,
    FileName,
    Settings,
    check_turns,
    resolved,
)
from icl_loop.experiment.validation_errors import validated


def load(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Return the experiment in the TOML file at `path`.

    Args:
        path: The file.
        changes: `KEY=VALUE` settings laid over the file, keys dotted, values as in TOML; a value
            that is no TOML is taken as a string.

    Raises:
        InputError: The file or a change is wrong; the message names file, key and value.
    """
    try:
        given = toml_files.parsed(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    for change in changes:
        given = changed(given, change)
    return parse(given, str(path))


def parse(given: Mapping[str, Any], where: str = "experiment") -> Experiment:
    """Return the experiment that a table describes; `where` names it in errors."""
    file = validated(ExperimentFile, given, where, tables=Settings)
    shared = {key: given.get(key, {}) for key in Settings.model_fields}
    arms: dict[str, Settings] = {}
    for number, table in enumerate(file.arms):
        rest = dict(table)
        if "name" not in rest:
            raise InputError(f"{where}, arms[{number}].name: this key is missing")
        _refuse_shared(rest, f"{where}, arms[{number}]")
        name = validated(TypeAdapter(FileName), rest.pop("name"), f"{where}, arms[{number}].name")
        if name in arms:
            raise InputError(f"{where}, arms[{number}].name: two arms are called {name!r}")
        settings = validated(Settings, overlaid(shared, rest), where, arm=name)
        arms[name] = resolved(settings)
    if not arms:
        raise InputError(f"{where}, arms: an experiment has at least one arm")
    for arm, settings in arms.items():
        _check_arm(file, arms, arm, settings, where)
    if file.analysis.primary and len(set(file.analysis.primary)) < 2:
        raise InputError(f"{where}, analysis.primary: a contrast takes two different arms")
    for arm in file.analysis.primary or ():
        if arm not in arms:
            raise InputError(f"{where}, analysis.primary: no arm {arm!r}: {nearest(arm, arms)}")
    return Experiment(
        name=file.name,
        turns=file.turns,
        streams=file.streams,
        seed=file.seed,
        arms=arms,
        analysis=file.analysis,
        limits=file.limits,
        price=file.price,
    )


def _refuse_shared(table: Mapping[str, Any], where: str) -> None:
    """Raise InputError if an arm sets for itself what all arms have in common."""
    arms = {"name", *Settings.model_fields}
    for key in table:
        if key in ExperimentFile.model_fields and key not in arms:
            raise InputError(f"{where}.{key}: all arms share it, so it stands above them")


def _check_arm(
    file: ExperimentFile, arms: Mapping[str, Settings], arm: str, settings: Settings, where: str
) -> None:
    """Raise InputError if an arm does not go with the others or with the number of turns."""
    place, donor = f"{where}, arm {arm!r}", settings.feedback.donor
    check_turns(place, settings, file.turns)
    if donor is None:
        return
    if donor not in arms:
        raise InputError(f"{place}, feedback.donor: no arm {donor!r}: {nearest(donor, arms)}")
    told, words = arms[donor].feedback, arms[donor].task.prompts
    if told.kind != "correctness" or told.delay or told.only != "both":
        raise InputError(f"{place}, feedback.donor: {donor!r} is not told correct or incorrect")
    if words != settings.task.prompts:
        raise InputError(f"{place}, feedback.donor: {donor!r} is told so in other words, {words!r}")
    if file.streams < 2:
        raise InputError(f"{place}: a yoked arm takes its donor from another stream; there is one")


T = TypeVar("T", bound=BaseModel)


def run_table(kind: type[T], name: str, changes: Sequence[str]) -> T | None:
    """Return the table of an experiment file that changes make up, None if there are none."""
    given: dict[str, Any] = {}
    for change in changes:
        given = changed(given, change)
    return validated(kind, given[name], f"--set, {name}") if given else None


def check_arm_name(name: str, where: str) -> str:
    """Return a name under which an arm can be saved."""
    return validated(TypeAdapter(FileName), name, where)
