"""The plan of an experiment: what it takes and what it can show, before the first request."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from icl_loop.analysis.curves import EDGES
from icl_loop.core.errors import DatasetError
from icl_loop.experiment import Experiment
from icl_loop.planning.advice import Advice, advise
from icl_loop.planning.cost_estimate import CostEstimate, expense, seconds, together
from icl_loop.planning.detectability import (
    REFERENCES,
    Detectability,
    contrasts,
    detectability,
    seen,
)
from icl_loop.planning.feasibility import ALONE, cut_short, verdict
from icl_loop.planning.trial_sessions import Trial, Trials, plays_as, session_of

TRIED_STREAMS = (4, 8)
"""Fewest and most streams that are played on trial."""
TRIED_TURNS = 7_200
"""Turns on trial beyond which fewer streams are played."""
CURVE_STREAMS = 2
"""Streams that references play of arms that are not compared first."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy of a reference learner under the settings of an arm, means over streams.

    Attributes:
        reference: Name of the learner.
        streams: Streams that it played.
        early: Over the first min(20, T / 10) turns.
        late: Over the second half, None if the context is full before.
        windows: First and last turn of each window, counted from 1, and the accuracy in it.
    """

    reference: str
    streams: int
    early: float | None
    late: float | None
    windows: tuple[tuple[int, int, float | None], ...]


@dataclass(frozen=True, slots=True)
class ContextUse:
    """What a session of an arm shows.

    Attributes:
        sample_tokens: Mean tokens of a question.
        fits: Past turns that fit the window together.
        most_shown: Most past turns that a request shows.
        turns: Turns until the session ends: fewer than planned if its context gets full.
    """

    sample_tokens: float
    fits: int
    most_shown: int
    turns: int


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """The plan of one arm.

    Attributes:
        arm: Its name.
        model: Name of its model.
        sessions: How many there are.
        expense: What they take together.
        seconds: How long they take alone.
        exposure: What a session shows.
        chance: Accuracy of guessing.
        curves: What reference learners come to.
    """

    arm: str
    model: str
    sessions: int
    expense: CostEstimate
    seconds: float
    exposure: ContextUse
    chance: float
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What an experiment takes, and what it can show.

    Attributes:
        experiment: Its name.
        turns: Length of a session.
        streams: Sessions per arm.
        tried: Streams that were played on trial; if these are fewer, counts are scaled up.
        latency_s: Seconds that a request is taken to last.
        concurrency: Sessions at once.
        reply_tokens: Tokens that a reply has at least.
        expense: What all arms take together.
        seconds: How long the whole run takes.
        arms: The plan of each arm.
        detectability: What its primary contrast can show, None if it cannot be said.
        controls: The same of the first arm and its other controls, which "learned" needs besides.
        can_show: Whether the design can show learning, None if it cannot be said.
        verdict: The same in a sentence.
        advised: Whether changes may be tried.
        advice: The change that would help most if it cannot.
    """

    experiment: str
    turns: int
    streams: int
    tried: int
    latency_s: float
    concurrency: int
    reply_tokens: int
    expense: CostEstimate
    seconds: float
    arms: tuple[ArmPlan, ...]
    detectability: Detectability | None
    controls: tuple[Detectability, ...]
    can_show: bool | None
    verdict: str
    advised: bool
    advice: Advice | None


async def plan(
    experiment: Experiment,
    *,
    latency_s: float = 1.0,
    concurrency: int = 32,
    reply_tokens: int = 0,
    advised: bool = True,
    checked: bool = False,
    on_turn: Callable[[], None] = lambda: None,
) -> Plan:
    """Return the plan of `experiment`; nothing is asked of any endpoint.

    Args:
        experiment: What is planned.
        latency_s: Seconds that a request lasts.
        concurrency: Sessions at once.
        reply_tokens: Tokens that a reply has at least; 0 leaves its final line alone.
        advised: Whether changes are tried if the design cannot show learning, which takes longer.
        checked: Whether it is known that it can be played.
        on_turn: Called after every turn on trial.

    Raises:
        InputError: The experiment cannot be played.
    """
    if not checked:
        experiment.check()
    trials, tried = Trials(reply_tokens, on_turn), _tried(experiment)
    played = {arm: await _played(experiment, arm, tried, trials) for arm in experiment.arms}
    arms = tuple(
        [_arm_plan(experiment, arm, each, latency_s, concurrency) for arm, each in played.items()]
    )
    own = {arm: each.own for arm, each in played.items()}
    conclusion = await _conclude(experiment, arms, tried, trials, advised=advised)
    return Plan(
        experiment=experiment.name,
        turns=experiment.turns,
        streams=experiment.streams,
        tried=tried,
        latency_s=latency_s,
        concurrency=concurrency,
        reply_tokens=reply_tokens,
        expense=together([each.expense for each in arms]),
        seconds=seconds(experiment, own, latency_s, concurrency),
        arms=arms,
        detectability=conclusion.found,
        controls=conclusion.controls,
        can_show=conclusion.can_show,
        verdict=conclusion.verdict,
        advised=advised,
        advice=conclusion.advice,
    )


def _tried(experiment: Experiment) -> int:
    """Return how many streams are played on trial: fewer where there are many turns and arms.

    Where the data do not last for streams beyond those of the experiment, none of these is played.
    """
    fewest, most = TRIED_STREAMS
    wanted = TRIED_TURNS // (experiment.turns * len(experiment.arms))
    tried = min(max(wanted, fewest), most)
    with suppress(DatasetError):
        for arm, settings in experiment.arms.items():
            for stream in range(experiment.streams, tried):
                _ = session_of(experiment, arm, stream, settings).task
        return tried
    return min(experiment.streams, tried)


@dataclass(frozen=True, slots=True)
class _Played:
    """The sessions of an arm on trial: by the stand-in for its model, and by each reference."""

    own: tuple[Trial, ...]
    references: Mapping[str, tuple[Trial, ...]]


async def _played(experiment: Experiment, arm: str, tried: int, trials: Trials) -> _Played:
    async def by(name: str, streams: int, *, counted: bool = False) -> tuple[Trial, ...]:
        return tuple(
            [
                await trials.of(experiment, arm, stream, name, counted=counted)
                for stream in range(streams)
            ]
        )

    compared = {each for pair in contrasts(experiment) for each in pair}
    streams = tried if arm in compared else min(CURVE_STREAMS, tried)
    return _Played(
        own=await by(plays_as(experiment.arms[arm]), min(tried, experiment.streams), counted=True),
        references={name: await by(name, streams) for name in REFERENCES},
    )


def _arm_plan(
    experiment: Experiment, arm: str, played: _Played, latency_s: float, concurrency: int
) -> ArmPlan:
    settings, own = experiment.arms[arm], played.own
    return ArmPlan(
        arm=arm,
        model=settings.model.name,
        sessions=experiment.streams,
        expense=expense(experiment, settings, own),
        seconds=seconds(experiment, {arm: own}, latency_s, concurrency),
        exposure=ContextUse(
            sample_tokens=round(fmean(each.sample_tokens for each in own), 1),
            fits=math.floor(fmean(each.fits for each in own)),
            most_shown=max(each.most_shown for each in own),
            turns=min(len(each.correct) for each in own),
        ),
        chance=own[0].chance,
        curves=tuple(_curve(name, each) for name, each in played.references.items()),
    )


def _curve(reference: str, trials: Sequence[Trial]) -> Curve:
    planned = trials[0].planned
    edges = [*(edge for edge in EDGES if edge < planned), planned]
    return Curve(
        reference=reference,
        streams=len(trials),
        early=_mean(trial.early for trial in trials),
        late=_mean(trial.late for trial in trials),
        windows=tuple(
            (start + 1, stop, _mean(trial.accuracy(start, stop) for trial in trials))
            for start, stop in pairwise(edges)
        ),
    )


def _mean(accuracies: Iterable[float]) -> float | None:
    """Return the mean over the sessions that have such turns, None if there are none."""
    known = [accuracy for accuracy in accuracies if not math.isnan(accuracy)]
    return fmean(known) if known else None


@dataclass(frozen=True, slots=True)
class _Conclusion:
    """What the contrasts of an experiment can show."""

    found: Detectability | None
    controls: tuple[Detectability, ...]
    can_show: bool | None
    verdict: str
    advice: Advice | None = None


async def _conclude(
    experiment: Experiment,
    arms: Sequence[ArmPlan],
    tried: int,
    trials: Trials,
    *,
    advised: bool,
) -> _Conclusion:
    """Conclude from the first contrast that cannot show learning, else from the primary one."""
    pairs = contrasts(experiment)
    if not pairs:
        return _Conclusion(None, (), None, ALONE)
    found = {
        pair: detectability(experiment, pair, await seen(experiment, pair, tried, trials))
        for pair in pairs
    }
    weak = (pair for pair, each in found.items() if each is None or each.can_show is False)
    pair = next(weak, pairs[0])
    one = found[pair]
    exposed = [next(each for each in arms if each.arm == arm) for arm in pair]
    if one is None:
        short = min(exposed, key=lambda each: each.exposure.turns)
        said = cut_short(short.arm, short.exposure.turns)
    else:
        said = verdict(one, fits=exposed[0].exposure.fits, chance=exposed[0].chance)
    concluded = _Conclusion(
        found=found[pairs[0]],
        controls=tuple(each for other in pairs[1:] if (each := found[other]) is not None),
        can_show=one is not None and one.can_show,
        verdict=said,
    )
    if concluded.can_show is not False or not advised:
        return concluded
    advice = await advise(
        experiment,
        pair,
        limited=any(each.exposure.fits < experiment.turns - 1 for each in exposed),
        streams=tried,
        trials=trials,
        learner=REFERENCES[-1] if one is None else one.reference,
    )
    return replace(concluded, advice=advice)


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as the stable JSON of `plan --json`; what is unknown is null."""
    return asdict(plan)
