"""Turn the arguments of `icl_loop.run` into a run: an experiment, a model and context policies."""

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from icl_loop.context.policy import ContextPolicy, Function, Policy, parts
from icl_loop.core.errors import InputError
from icl_loop.experiment import Experiment
from icl_loop.experiment.experiment_file import parse_with, read_table
from icl_loop.experiment.settings import WINDOW
from icl_loop.models import CallableModel, ChatModel, ModelFunction
from icl_loop.models.callable_model import function_digest, function_name

Model = str | ModelFunction | ChatModel
"""The name of a model, a function, or an object with a method `complete`."""


def experiment_of(
    given: str | Path | Mapping[str, Any], model: Model | None, settings: Mapping[str, Any]
) -> tuple[Experiment, CallableModel | None]:
    """Return an experiment with changed settings, and its model if that is a function.

    Raises:
        InputError: The experiment, the model or a setting is wrong.
    """
    functions: dict[str, ContextPolicy] = {}
    if isinstance(given, str | Path):
        table, where = read_table(given)
    elif isinstance(given, Mapping):
        table, where = _Plain("experiment", functions).table(given), "experiment"
    else:
        raise InputError(
            f"experiment must be the name of a shipped experiment, a path or a dict, not {_kind(given)}"
        )
    changes = _Plain("settings", functions).table(settings)
    opened = None
    if isinstance(model, str):
        changes["model.name"] = model
    elif model is not None:
        opened = _callable_model(model)
        table = _with_name(table, opened)
    made = parse_with([*_assignments(changes)], table, where, _warn)
    if opened is not None:
        made = _with_digest(made, opened, where)
    return replace(made, functions=functions), opened


def _warn(note: str) -> None:
    warnings.warn(note.replace("--set ", ""), stacklevel=5)  # the place that called `run`


def _callable_model(model: ModelFunction | ChatModel) -> CallableModel:
    if isinstance(model, CallableModel):
        return model
    complete = getattr(model, "complete", None)
    if callable(complete) and not isinstance(model, type):
        return CallableModel(complete)
    if not callable(model):
        raise InputError(f"model must be the name of a model or a function, not {_kind(model)}")
    return CallableModel(model)


def _with_name(table: Mapping[str, Any], model: CallableModel) -> dict[str, Any]:
    """Return the table of an experiment that `model` plays in place of the model in the table."""
    before = table.get("model", {})
    window = before.get("context_window") if isinstance(before, Mapping) else None
    return {**table, "model": {"name": model.name, "context_window": window or WINDOW}}


def _with_digest(experiment: Experiment, model: CallableModel, where: str) -> Experiment:
    """Return the experiment with the digest of the code of `model` among the model's parameters.

    Raises:
        InputError: An arm or the sweep sets a model, which `model` would replace.
    """
    arms = {}
    for arm, settings in experiment.arms.items():
        own = settings.model
        if own.name != model.name or own.params:
            raise InputError(
                f"{where}, arm {arm!r}: it has a model of its own, which model={model.name} would"
                " replace; leave it out"
            )
        known = own.model_copy(update={"params": {"code": function_digest(model.function)}})
        arms[arm] = settings.model_copy(update={"model": known})
    return replace(experiment, arms=arms)


@dataclass(frozen=True)
class _Plain:
    """Turns Python values into those that an experiment file can hold.

    Attributes:
        where: The place of the values, for errors.
        functions: Gets the functions among context policies, by the texts that stand for them.
    """

    where: str
    functions: dict[str, ContextPolicy] = field(default_factory=dict)

    def table(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return a table: lists for tuples and arrays, Python's numbers for numpy's, texts for policies.

        Keys whose value is None are left out.

        Raises:
            InputError: A key or a value can be in no experiment file; names it.
        """
        table = {}
        for key, value in given.items():
            if not isinstance(key, str):
                raise InputError(f"{self.where}: the key {key!r} must be a string")
            if value is not None:
                table[key] = self._below(key).value(value)
        return table

    def value(self, given: object) -> Any:  # noqa: ANN401  any value of an experiment file
        """Return a value, as `table` does."""
        if isinstance(given, Mapping):
            return self.table(given)
        if isinstance(given, list | tuple | range):
            return [self.value(each) for each in given]
        if isinstance(given, Path):
            return str(given)
        if isinstance(given, str | int | float):
            return given
        if callable(as_list := getattr(given, "tolist", None)):  # of numpy
            return self.value(as_list())
        if callable(given) and self.where.replace(", ", ".").endswith("context.policy"):
            return self._policy(given)
        hint = ""
        if callable(given):
            hint = "; pass a function as model= or as a context policy"
        raise InputError(f"{self.where}: {_kind(given)} is not allowed{hint}")

    def _below(self, key: str) -> "_Plain":
        return replace(self, where=f"{self.where}, {key}")

    def _policy(self, given: ContextPolicy) -> str:
        """Return the text of a policy, and note its functions."""
        if isinstance(given, type):
            raise InputError(f"{self.where}: {given.__qualname__} is a class; pass an instance")
        own: list[Policy] = []
        for part in parts(given):
            if not isinstance(part, Policy):
                part = Function(function_name(part), function_digest(part), part)  # noqa: PLW2901
            if isinstance(part, Function) and part.function:
                self.functions[str(part)] = part.function
            own.append(part)
        return str(reduce(or_, own))


def _assignments(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the settings in a table as `override` takes them."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _assignments(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}"


def _kind(value: object) -> str:
    return f"a value of type {type(value).__qualname__}"
