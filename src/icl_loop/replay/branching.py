"""Branches: sessions that share the first turns of saved ones and go on under other settings."""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from icl_loop.core.errors import InputError
from icl_loop.experiment import (
    AnalysisSettings,
    Branch,
    Donor,
    Experiment,
    LimitSettings,
    PriceSettings,
    Session,
    Settings,
    branched,
    check_arm_name,
    find_donor,
    run_table,
)
from icl_loop.models import is_built_in
from icl_loop.transcripts import (
    AnalysisIdentity,
    BranchIdentity,
    Transcript,
    read,
    shared_lines,
    turns_before,
    whole_lines,
)
from icl_loop.transcripts.checksum import without_checksum

_OF_THE_RUN = ("limits", "price")
"""Tables of an experiment file that say how an endpoint is asked, not what."""


def branches(
    paths: Iterable[Path],
    at: int,
    changes: Sequence[str] = (),
    *,
    model: str | None = None,
    arm: str | None = None,
    turns: int | None = None,
) -> Experiment:
    """Return the experiment of the branches of the transcripts at `paths`.

    It is called like the experiment of the parents with `-branches`, and each arm like its parents'
    with the turn and, where anything changed, a digest of that: `none-at50-1a2b3c`.

    Args:
        paths: The parents, sessions of one experiment.
        at: How many of their turns are shared.
        changes: `KEY=VALUE` laid over their settings, and over [limits] and [price].
        model: Name of another model.
        arm: Name of the arm, if the parents are of one.
        turns: Length of the branches; that of the parents if None.

    Raises:
        InputError: A parent has not so many turns or cannot be branched off, or a change is wrong.
    """
    run = {table: [each for each in changes if _table(each) == table] for table in _OF_THE_RUN}
    ours = [each for each in changes if _table(each) not in _OF_THE_RUN]
    parents = [_parent(path, at) for path in paths]
    sessions = [_branch(each, at, ours, model, arm, turns) for each in parents]
    names = {session.experiment for session in sessions}
    if len(names) > 1:
        raise InputError(
            f"the parents are of several experiments ({', '.join(sorted(names))}, by the names of"
            " their branches); branch off those of one at a time"
        )
    arms = _arms(sessions, parents, arm)
    return Experiment(
        name=sessions[0].experiment,
        turns=max(session.turns for session in sessions),
        streams=len({session.stream for session in sessions}),
        seed=sessions[0].seed,
        arms=arms,
        analysis=AnalysisSettings(),
        limits=run_table(LimitSettings, "limits", run["limits"]) or LimitSettings(),
        price=run_table(PriceSettings, "price", run["price"]),
        branches=tuple(sorted(sessions, key=lambda session: session.stream)),
    )


def _table(change: str) -> str:
    return change.partition("=")[0].partition(".")[0].strip()


def _parent(path: Path, at: int) -> Transcript:
    """Return a transcript that has so many turns to share."""
    parent = read(path)
    if parent.header.source is not None:
        raise InputError(
            f"{path} holds replies that were read again; branch off its source, in"
            f" {parent.header.source.experiment}"
        )
    played = len(parent.turns)
    if not 1 <= at <= played:
        unfinished = "" if parent.end else ", and is unfinished"
        raise InputError(
            f"--at {at}: {path} has {played} whole turns{unfinished}; a branch shares from 1 to all"
            " of them"
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
    """Return the session that goes on where `at` turns of its parent were over."""
    said = parent.header
    length = said.turns if turns is None else turns
    if length <= at:
        raise InputError(
            f"--at {at}: {parent.path} is a session of {length} turns, so nothing is left to play;"
            " --turns makes a branch longer"
        )
    settings = branched(_with_model(said.settings, model), changes, length)
    digest = _digest(said.settings, settings, None if length == said.turns else length)
    lines = whole_lines(parent.path)
    shared = shared_lines(lines, at)
    identity = BranchIdentity(
        at=at,
        sha256=sha256(b"".join(map(without_checksum, shared))).hexdigest(),
        parent=json.loads(without_checksum(lines[0])),
    )
    begun = tuple(event for event in parent.events if turns_before(event) < at)
    return Session(
        experiment=f"{said.root.experiment}-branches",
        arm=check_arm_name(arm or f"{said.arm}-at{at}{digest}", "--arm"),
        stream=said.stream,
        turns=length,
        seed=said.seed,
        settings=settings,
        analysis=AnalysisIdentity(margin=said.analysis.margin),
        donor=_donor(parent, settings),
        branch=Branch(identity, shared, begun),
    )


def _with_model(recorded: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Return settings under another model; its tokens are counted its own way unless told otherwise.

    Parameters and address go with a model of ours, or come with one.
    """
    before = recorded.get("model", {})
    if name is None or name == before.get("name"):
        return dict(recorded)
    given = {**before, "name": name}
    if is_built_in(name) or is_built_in(str(before.get("name")), before.get("base_url")):
        kept = ("context_window", "merge_roles")
        given = {"name": name, **{key: before[key] for key in kept if key in before}}
    context = {**recorded.get("context", {}), "counter": "auto"}
    return {**recorded, "model": given, "context": context}


def _digest(recorded: Mapping[str, Any], settings: Settings, turns: int | None) -> str:
    """Return six hexadecimal digits of what changed with a hyphen before them, nothing if nothing did."""
    before = Settings.model_validate(recorded)
    if settings == before and turns is None:
        return ""
    said = json.dumps([settings.recorded(), before.recorded(), turns], sort_keys=True)
    return f"-{sha256(said.encode()).hexdigest()[:6]}"


def _donor(parent: Transcript, settings: Settings) -> Donor | None:
    """Return what the donor of a yoked parent was told, if the branch is yoked as well."""
    return find_donor(parent.header, parent.path) if settings.feedback.donor else None


def _arms(
    sessions: Sequence[Session], parents: Sequence[Transcript], arm: str | None
) -> dict[str, Settings]:
    """Return the settings of each arm, of which no stream may be there twice."""
    arms: dict[str, Settings] = {}
    seen: dict[str, Path] = {}
    for session, parent in zip(sessions, parents, strict=True):
        other = seen.setdefault(session.file_name, parent.path)
        if other != parent.path:
            instead = "--arm names one arm; leave it out" if arm else "branch them off apart"
            raise InputError(
                f"{other} and {parent.path} would both become {session.file_name}; {instead}"
            )
        if arms.setdefault(session.arm, session.settings) != session.settings:
            raise InputError(f"the parents of arm {session.arm!r} differ in their settings")
    return arms
