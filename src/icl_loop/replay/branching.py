"""Branches: sessions that share the first turns of saved ones and continue under other settings."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from icl_loop.core.errors import DatasetError, InputError
from icl_loop.core.names import check_file_name, folded
from icl_loop.core.validation_messages import shown_value
from icl_loop.experiment import Experiment, LimitSettings, PriceSettings, Session, Settings
from icl_loop.experiment.donors import find_donor
from icl_loop.experiment.experiment_file import override
from icl_loop.experiment.sessions import Branch
from icl_loop.experiment.settings import AnalysisSettings, ArmName
from icl_loop.experiment.sweep import flat, setting_name
from icl_loop.experiment.validation import validated
from icl_loop.models import is_built_in
from icl_loop.replay.confirmation import confirmed
from icl_loop.tasks.feedback import YOKED
from icl_loop.transcripts import Transcript, read
from icl_loop.transcripts.checksum import without_checksum
from icl_loop.transcripts.comparison import PLACE_KEYS
from icl_loop.transcripts.header import AnalysisIdentity, BranchIdentity, Header
from icl_loop.transcripts.reader import shared_lines, whole_lines
from icl_loop.transcripts.schema import turns_before

_STREAM_KEYS = ("turns", "streams", "seed", "stream", "task.dataset")
"""Keys that determine the stream of samples; a branch shares the stream of its parent."""
_BRANCH_KEYS = ("model", "context", "feedback", "probes", "answers", "task.prompts", "task.labels")
"""Keys and tables that a branch may override."""

_LONGEST = 60
"""Most characters of the changes in the name of an arm."""


def branches(
    paths: Iterable[Path],
    at: int,
    changes: Sequence[str] = (),
    *,
    model: str | None = None,
    arm: str | None = None,
    turns: int | None = None,
) -> Experiment:
    """Return an experiment that branches off the transcripts at `paths`.

    The experiment is named like the parents' with `-branches`. Each arm is named like its parent's
    with the turn and what was changed: `none-at50_kind=label`. A contrast that was recorded between
    arms of the parents is recorded between the arms of their branches.

    Args:
        paths: The parents, sessions of one experiment.
        at: Number of turns that a branch shares with its parent.
        changes: `KEY=VALUE` overrides of the parents' settings, of [limits] and of [price].
        model: Name of another model.
        arm: Name of the arm, if the parents are of one arm.
        turns: Length of the branches; that of the parents if None.

    Raises:
        InputError: A parent has fewer turns or cannot be branched, or a change is invalid.
    """
    run_changes = [each for each in changes if re.match(r"\s*(limits|price)\s*[.=]", each)]
    run_tables = override({}, run_changes)
    limits, price = run_tables.get("limits", {}), run_tables.get("price")
    overrides = [each for each in changes if each not in run_changes]
    if turns is not None and turns <= at:
        raise InputError(f"--turns {turns} leaves no turn to play after --at {at}; make it more")
    parents = [_parent(path, at) for path in paths]
    sessions = [_branch(each, at, overrides, model, arm, turns) for each in parents]
    sessions = _contrasts(sessions, parents)
    names = {session.experiment for session in sessions}
    if len(names) > 1:
        raise InputError(
            f"the sessions belong to several experiments ({', '.join(sorted(names))}, by the names"
            " of their branches); branch one experiment at a time"
        )
    return Experiment(
        name=sessions[0].experiment,
        turns=max(session.turns for session in sessions),
        streams=len({session.stream for session in sessions}),
        seed=sessions[0].seed,
        arms=_arms(sessions, parents, arm),
        analysis=AnalysisSettings(),
        limits=validated(LimitSettings, limits, "--set, limits"),
        price=None if price is None else validated(PriceSettings, price, "--set, price"),
        branches=tuple(sorted(sessions, key=lambda session: session.stream)),
    )


def _parent(path: Path, at: int) -> Transcript:
    """Return the transcript at `path`, which must have at least `at` turns."""
    parent = read(path)
    parent.header.check_replayable(path)
    if parent.header.source is not None:
        raise InputError(
            f"{path} is rescored; branch off its source instead, in"
            f" {parent.header.source.experiment}"
        )
    played = len(parent.turns)
    if not 1 <= at <= played:
        unfinished = "" if parent.end else " (unfinished)"
        raise InputError(
            f"--at {at}: {path} has {played} whole turns{unfinished}; choose from 1 to {played}"
        )
    return parent


def _branch(
    parent: Transcript,
    at: int,
    changes: Sequence[str],
    model: str | None,
    arm: str | None,
    turns: int | None,
) -> Session:
    """Return the session that continues after the first `at` turns of its parent."""
    header = parent.header
    length = header.turns if turns is None else turns
    if length <= at:
        raise InputError(
            f"--at {at}: {parent.path} is a session of {length} turns, so no turn is left to play;"
            " make the branch longer with --turns"
        )
    given = ["--set"] * bool(changes) + ["--model"] * (model is not None)
    recorded = _valid_settings(header)
    is_given = recorded is not None and given
    place = " and ".join(given) if is_given else f"{parent.path}: recorded settings"
    settings = _settings(_with_model(header.settings, model), changes, place)
    chosen = override({}, changes).get("model", {})
    model_settings = confirmed(settings.model, chosen, parent.path)
    settings = settings.model_copy(update={"model": model_settings})
    settings.check_turns(length, place if turns is None else f"--turns {turns}")
    if length != header.turns and (settings.task.order != "random" or settings.task.choice):
        key = "task.choice" if settings.task.choice else f"task.order = {settings.task.order!r}"
        raise InputError(
            f"--turns {turns}: the samples of {parent.path} depend on the number of turns, because of"
            f" {key}; leave --turns out"
        )
    name = f"{header.arm}-at{at}"
    before = header.settings if recorded is None else recorded.recorded()
    if settings.recorded() != before or length != header.turns:
        name += _named(changes, model, None if length == header.turns else length)
    lines = whole_lines(parent.path)
    shared = shared_lines(lines, at)
    identity = BranchIdentity(
        at=at,
        sha256=sha256(b"".join(map(without_checksum, shared))).hexdigest(),
        parent=json.loads(without_checksum(lines[0])),
    )
    events = tuple(event for event in parent.events if turns_before(event) < at)
    experiment, place = header.root.experiment, f"{parent.path}, line 1, experiment"
    check_file_name(f"{experiment}-branches", f"{place} = {shown_value(experiment)}: ")
    session = Session(
        experiment=f"{experiment}-branches",
        arm=validated(ArmName, arm or name, "--arm"),
        stream=header.stream,
        turns=length,
        seed=header.seed or 0,
        settings=settings,
        donor=find_donor(header, parent.path) if settings.feedback.donor else None,
        branch=Branch(identity, shared, events),
        repeat=header.repeat,
    )
    try:
        session.check_dataset(header.dataset)  # nothing but what was played before is sent
    except DatasetError as error:
        raise DatasetError(f"{parent.path}: {error}") from None
    return session


def _named(changes: Sequence[str], model: str | None, turns: int | None) -> str:
    """Return what a branch changes, for the name of its arm; a digest if that is long."""
    given = flat(override({}, changes))
    changed = {key: each for key, each in given if not f"settings.{key}".startswith(PLACE_KEYS)}
    changed |= {} if model is None else {"model.name": model}
    changed |= {} if turns is None else {"turns": turns}
    name = "".join(f"_{setting_name(key, value)}" for key, value in changed.items())
    return name if len(name) <= _LONGEST else f"-{sha256(name.encode()).hexdigest()[:6]}"


def _contrasts(sessions: Sequence[Session], parents: Sequence[Transcript]) -> list[Session]:
    """Return the sessions with the contrasts of their parents between the arms of the branches."""
    arms: dict[str, set[str]] = {}
    for session, parent in zip(sessions, parents, strict=True):
        arms.setdefault(parent.header.arm, set()).add(session.arm)
    branch = {arm: names.pop() for arm, names in arms.items() if len(names) == 1}

    def renamed(pair: tuple[str, str] | None) -> tuple[str, str] | None:
        return (branch[pair[0]], branch[pair[1]]) if pair and branch.keys() >= {*pair} else None

    analysis = parents[0].header.analysis
    kept = AnalysisIdentity(
        primary=renamed(analysis.primary),
        secondary=tuple(filter(None, map(renamed, analysis.secondary))),
        margin=analysis.margin,
    )
    return [replace(session, analysis=kept) for session in sessions]


def _valid_settings(header: Header) -> Settings | None:
    """Return the settings of a parent; None if they are not valid here, as with a lost prompt set."""
    try:
        return Settings.model_validate(header.settings)
    except ValidationError:
        return None


def _settings(recorded: Mapping[str, Any], overrides: Sequence[str], place: str) -> Settings:
    """Return the settings of a branch, given those of its parent; `place` names them in errors."""
    given = override(recorded, overrides)
    for each in overrides:
        key = each.partition("=")[0].strip()
        if key in _STREAM_KEYS:
            raise InputError(
                f"--set {key}: {key} would change the stream, which a branch shares with its"
                " parent; run a separate experiment instead"
            )
        if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in _BRANCH_KEYS):
            raise InputError(
                f"--set {key}: a branch cannot change {key}; it can change"
                f" {', '.join(_BRANCH_KEYS[:-1])} and {_BRANCH_KEYS[-1]}"
            )
    feedback = given.get("feedback", {})
    if (
        isinstance(feedback, Mapping)
        and feedback.get("kind") != YOKED
        and not any("feedback.donor" in each for each in overrides)
    ):
        own = {key: value for key, value in feedback.items() if not key.startswith("donor")}
        given["feedback"] = own
    settings = validated(Settings, given, place).without_auto()
    donor = settings.feedback.donor
    if donor is not None and donor != recorded.get("feedback", {}).get("donor"):
        raise InputError(
            f"--set feedback.donor={donor}: a branch keeps the donor of its parent or has none"
        )
    return settings


def _with_model(recorded: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Return the settings with another model and the token counter chosen for it.

    An endpoint's address and parameters are kept for another model of the endpoint only.
    """
    before = recorded.get("model", {})
    if name is None or name == before.get("name"):
        return dict(recorded)
    table = {**before, "name": name}
    try:
        built_in = is_built_in(name)
    except InputError as error:
        raise InputError(f"--model: {error}") from None
    if built_in or is_built_in(str(before.get("name")), before.get("base_url")):
        kept = ("context_window", "merge_roles", "system_role")
        table = {"name": name, **{key: before[key] for key in kept if key in before}}
    context = {**recorded.get("context", {}), "counter": "auto"}
    return {**recorded, "model": table, "context": context}


def _arms(
    sessions: Sequence[Session], parents: Sequence[Transcript], arm: str | None
) -> dict[str, Settings]:
    """Return the settings of each arm; raise InputError if two sessions have the same file name."""
    arms: dict[str, Settings] = {}
    seen: dict[str, Path] = {}
    for session, parent in zip(sessions, parents, strict=True):
        other = seen.setdefault(folded(session.file_name), parent.path)
        if other != parent.path:
            advice = "leave out --arm" if arm else "branch them separately"
            raise InputError(
                f"{other} and {parent.path} would both become {session.file_name}; {advice}"
            )
        if arms.setdefault(session.arm, session.settings) != session.settings:
            raise InputError(f"the parents of arm {session.arm!r} have different settings")
    return arms
