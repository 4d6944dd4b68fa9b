"""The plan of an experiment: its cost and what it can show."""

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
from icl_loop.planning.cost_estimate import CostEstimate, duration_s, estimate, total
from icl_loop.planning.detectability import (
    REFERENCES,
    Detectability,
    contrasts,
    detectability,
    reference_differences,
)
from icl_loop.planning.feasibility import SINGLE_ARM, context_full, feasibility
from icl_loop.planning.trial_sessions import Trial, Trials, session_of, trial_model

TRIED_STREAMS = (4, 8)
"""Minimum and maximum number of trial streams."""
TRIED_TURNS = 7_200
"""Number of trial turns above which fewer streams are played."""
CURVE_STREAMS = 2
"""Trial streams of reference learners in arms outside the primary contrast and its controls."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy of a reference learner in an arm, averaged over streams.

    Attributes:
        reference: Name of the learner.
        streams: Number of streams it played.
        early: Accuracy over the first min(20, T / 10) turns.
        late: Accuracy over the second half; None if the context fills up before.
        windows: First turn, last turn (counted from 1) and accuracy of each window.
    """

    reference: str
    streams: int
    early: float | None
    late: float | None
    windows: tuple[tuple[int, int, float | None], ...]


@dataclass(frozen=True, slots=True)
class ContextUse:
    """How a session uses its context window.

    Attributes:
        sample_tokens: Mean number of tokens in a question.
        fits: Number of past turns that fit the window.
        most_shown: Maximum number of past turns in a request.
        turns: Number of turns until the session ends; fewer than planned if its context fills up.
    """

    sample_tokens: float
    fits: int
    most_shown: int
    turns: int


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """The plan of one arm.

    Attributes:
        arm: Name of the arm.
        model: Name of its model.
        sessions: Number of sessions.
        cost: Usage and cost of all sessions.
        seconds: Duration if only this arm is played.
        context_use: How a session uses its context window.
        chance: Accuracy of guessing.
        curves: Accuracy of the reference learners.
    """

    arm: str
    model: str
    sessions: int
    cost: CostEstimate
    seconds: float
    context_use: ContextUse
    chance: float
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of an experiment and what it can show.

    Attributes:
        experiment: Name of the experiment.
        turns: Number of turns in a session.
        streams: Number of sessions per arm.
        tried: Number of trial streams, from which counts are scaled up.
        latency_s: Assumed duration of a request in seconds.
        concurrency: Number of concurrent sessions.
        reply_tokens: Assumed minimum number of tokens in a reply.
        cost: Usage and cost of all arms.
        seconds: Duration of the run.
        arms: The plan of each arm.
        detectability: What the primary contrast can show; None if unknown.
        controls: The same for the other controls that the verdict "learned" needs.
        can_show: Whether the design can show learning; None if unknown.
        verdict: The same in a sentence.
        advised: Whether changes to the design were tried.
        advice: The change that would help most, if the design cannot show learning.
    """

    experiment: str
    turns: int
    streams: int
    tried: int
    latency_s: float
    concurrency: int
    reply_tokens: int
    cost: CostEstimate
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
    """Return the plan of `experiment`, without any request.

    Args:
        experiment: The experiment to plan.
        latency_s: Duration of a request in seconds.
        concurrency: Number of concurrent sessions.
        reply_tokens: Minimum number of tokens in a reply; with 0 a reply is only its answer line.
        advised: Whether to try changes if the design cannot show learning, which takes longer.
        checked: Whether `experiment.check()` has already succeeded.
        on_turn: Called after every trial turn.

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
        cost=total([each.cost for each in arms]),
        seconds=duration_s(experiment, own, latency_s, concurrency),
        arms=arms,
        detectability=conclusion.found,
        controls=conclusion.controls,
        can_show=conclusion.can_show,
        verdict=conclusion.verdict,
        advised=advised,
        advice=conclusion.advice,
    )


def _tried(experiment: Experiment) -> int:
    """Return the number of trial streams: fewer if there are many turns and arms.

    Streams beyond those of the experiment are only played if the data set has enough samples.
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
    """The trial sessions of an arm, played by its stand-in model and by each reference learner."""

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
        own=await by(
            trial_model(experiment.arms[arm]), min(tried, experiment.streams), counted=True
        ),
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
        cost=estimate(experiment, settings, own),
        seconds=duration_s(experiment, {arm: own}, latency_s, concurrency),
        context_use=ContextUse(
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
    """Return the mean of the values that are not NaN, or None."""
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
    """Judge the first contrast that cannot show learning, or else the primary one."""
    pairs = contrasts(experiment)
    if not pairs:
        return _Conclusion(None, (), None, SINGLE_ARM)
    found = {
        pair: detectability(
            experiment, pair, await reference_differences(experiment, pair, tried, trials)
        )
        for pair in pairs
    }
    weak = (pair for pair, each in found.items() if each is None or each.can_show is False)
    pair = next(weak, pairs[0])
    one = found[pair]
    exposed = [next(each for each in arms if each.arm == arm) for arm in pair]
    if one is None:
        short = min(exposed, key=lambda each: each.context_use.turns)
        said = context_full(short.arm, short.context_use.turns)
    else:
        said = feasibility(one, fits=exposed[0].context_use.fits, chance=exposed[0].chance)
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
        limited=any(each.context_use.fits < experiment.turns - 1 for each in exposed),
        streams=tried,
        trials=trials,
        learner=REFERENCES[-1] if one is None else one.reference,
    )
    return replace(concluded, advice=advice)


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON for `plan --json`; unknown values are null."""
    return asdict(plan)
