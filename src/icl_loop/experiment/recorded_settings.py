"""Recorded settings with changes laid over them: those of a branch, and of replies read again."""

from collections.abc import Mapping, Sequence
from typing import Any

from icl_loop.core.errors import InputError
from icl_loop.experiment.overrides import changed
from icl_loop.experiment.settings import AnswerSettings, Settings, check_turns, resolved
from icl_loop.experiment.validation_errors import validated
from icl_loop.tasks.feedback import YOKED

_OF_THE_STREAM = ("turns", "streams", "seed", "stream", "task.dataset")
"""What makes a stream of samples, or how long it is."""
_BRANCHING = ("model", "context", "feedback", "probes", "answers", "task.prompts", "task.labels")
"""What may be set otherwise in the middle of a session."""


def branched(recorded: Mapping[str, Any], changes: Sequence[str], turns: int) -> Settings:
    """Return the settings of a session of so many turns that goes on under `changes`.

    Args:
        recorded: The settings it was begun with.
        changes: `KEY=VALUE` laid over them.
        turns: Length of the session.

    Raises:
        InputError: A change is wrong, or is none that a session can go on under.
    """
    given = dict(recorded)
    for change in changes:
        _refuse_other_streams(change)
        given = changed(given, change)
    feedback = given.get("feedback", {})
    if feedback.get("kind") != YOKED and not any("feedback.donor" in each for each in changes):
        given["feedback"] = {key: value for key, value in feedback.items() if key != "donor"}
    settings = resolved(validated(Settings, given, "--set"))
    check_turns("--set", settings, turns)
    donor = settings.feedback.donor
    if donor is not None and donor != recorded.get("feedback", {}).get("donor"):
        raise InputError(
            f"--set feedback.donor={donor}: a branch has the donor of its parent or none"
        )
    return settings


def _refuse_other_streams(change: str) -> None:
    key = change.partition("=")[0].strip()
    if any(key == each or key.startswith(f"{each}.") for each in _BRANCHING):
        return
    if key in _OF_THE_STREAM:
        raise InputError(
            f"--set {change}: a branch goes on in the stream of its parent, and {key} makes the"
            " stream; run an experiment of its own"
        )
    raise InputError(
        f"--set {change}: a branch goes on under other {', '.join(_BRANCHING[:-1])} or"
        f" {_BRANCHING[-1]}; {key} stays as it is"
    )


def answering(recorded: Mapping[str, Any], changes: Sequence[str]) -> AnswerSettings:
    """Return how replies are read under recorded settings with `changes` laid over them.

    Raises:
        InputError: A change is wrong, or is not of the table [answers].
    """
    given = dict(recorded)
    for change in changes:
        if not change.strip().startswith("answers."):
            raise InputError(
                f"--set {change}: saved replies are read again under other answers.KEY alone;"
                " nothing else can change in what was sent"
            )
        given = changed(given, change)
    return validated(Settings, given, "--set").answers
