"""The single change to a design that would help most."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from icl_loop.analysis.power import POWER
from icl_loop.analysis.significance import FEWEST_FOR_SIGNIFICANCE
from icl_loop.core.errors import InputError
from icl_loop.experiment import Experiment, FeedbackSettings
from icl_loop.planning.detectability import detectability
from icl_loop.planning.trial_sessions import Trials
from icl_loop.tasks.feedback import YOKED

ENCODINGS_TRIED = ("grid", "sparse")
"""Compact encodings: one that keeps grey levels, and the shortest."""
WINDOW_TIMES = 4
MORE_TURNS = 200
MORE_STREAMS = 8
TRIED_STREAMS = 4
"""Maximum number of trial streams per change."""
MOST_TURNS = 400


@dataclass(frozen=True, slots=True)
class Advice:
    """A change to the design and what the reference learner would show with it.

    Attributes:
        change: The change, written as a setting.
        difference: Difference in late accuracy of the reference learner.
        power: Power to detect it with `streams` streams.
        streams: Number of streams: that of the design, or as many as a test needs.
    """

    change: str
    difference: float
    power: float
    streams: int


@dataclass(frozen=True, slots=True)
class _Change:
    """A change in words and the changed experiment."""

    words: str
    experiment: Experiment


async def advise(
    experiment: Experiment,
    arms: tuple[str, str],
    *,
    limited: bool,
    streams: int,
    trials: Trials,
    learner: str,
) -> Advice | None:
    """Return the change that would help most, or None.

    Among changes that reach 80 % power, it is the one with the largest difference; if none does, the
    one with the largest power.

    Args:
        experiment: The design.
        arms: Its contrast.
        limited: Whether the context window limits what the arms show.
        streams: Number of trial streams available.
        trials: Plays the trial sessions.
        learner: Name of the reference learner.
    """
    testable = experiment.streams >= FEWEST_FOR_SIGNIFICANCE
    enough = experiment if testable else replace(experiment, streams=MORE_STREAMS)
    unchanged = _Change("" if testable else f"streams = {MORE_STREAMS}", enough)
    tried = min(streams, TRIED_STREAMS)
    found = [await _outcome(unchanged, arms, tried, trials, learner)]
    for change in _changes(enough, arms, limited=limited):
        with suppress(InputError):  # the data set or prompt set may not allow a change
            found.append(await _outcome(change, arms, tried, trials, learner))
    best = max(found, key=lambda each: (min(round(each.power, 2), POWER), each.difference))
    return best if best.change else None


async def _outcome(
    change: _Change, arms: tuple[str, str], streams: int, trials: Trials, learner: str
) -> Advice:
    found = await detectability(change.experiment, arms, streams, trials, [learner])
    if found is None:
        return Advice(change.words, 0.0, 0.0, change.experiment.streams)
    return Advice(change.words, found.difference, found.reference_power, change.experiment.streams)


def _changes(experiment: Experiment, arms: tuple[str, str], *, limited: bool) -> Iterator[_Change]:
    """Yield the changes to try."""
    first = experiment.arms[arms[0]]
    if limited:
        for name in ENCODINGS_TRIED:
            if first.task.encoding != name:
                yield _with_setting(experiment, arms, "task", "encoding", name)
        window = WINDOW_TIMES * first.model.window
        yield _with_setting(experiment, arms, "model", "context_window", window)
    if first.feedback.kind not in ("label", "demonstrations"):
        yield _revealed(experiment, arms)
    turns = min(max(MORE_TURNS, 2 * experiment.turns), MOST_TURNS)
    if turns > experiment.turns:
        yield _Change(f"turns = {turns}", replace(experiment, turns=turns))
    streams = 2 * experiment.streams
    yield _Change(f"streams = {streams}", replace(experiment, streams=streams))


def _revealed(experiment: Experiment, arms: tuple[str, str]) -> _Change:
    """Return the change of the first arm's feedback, and so of arms yoked to it, to the right label."""
    first, told = arms[0], FeedbackSettings(kind="label")
    yoked = FeedbackSettings(kind=YOKED, donor=first, donor_kind="label")
    settings = {
        arm: each.model_copy(update={"feedback": yoked}) if each.feedback.donor == first else each
        for arm, each in experiment.arms.items()
    }
    settings[first] = settings[first].model_copy(update={"feedback": told})
    return _Change(f"feedback.kind = 'label' in arm {first!r}", replace(experiment, arms=settings))


def _with_setting(
    experiment: Experiment, arms: Sequence[str], table: str, key: str, value: object
) -> _Change:
    """Return the change of one setting in these arms."""
    settings = dict(experiment.arms)
    for arm in arms:
        part = getattr(settings[arm], table).model_copy(update={key: value})
        settings[arm] = settings[arm].model_copy(update={table: part})
    return _Change(f"{table}.{key} = {value!r}", replace(experiment, arms=settings))
