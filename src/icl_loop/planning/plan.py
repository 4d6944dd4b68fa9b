"""The plan of an experiment: its cost and what it can show."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from icl_loop.analysis.curves import EDGES
from icl_loop.analysis.power import POWER
from icl_loop.analysis.significance import MOST_FOR_SIGN_FLIP, least_p
from icl_loop.core.errors import DatasetError
from icl_loop.experiment import Experiment
from icl_loop.planning.advice import Advice, advise
from icl_loop.planning.cost_estimate import CostEstimate, duration_s, estimate, total
from icl_loop.planning.detectability import (
    REFERENCES,
    Detectability,
    JointPower,
    contrasts,
    detectability,
    joint_detectability,
)
from icl_loop.planning.feasibility import (
    SINGLE_ARM,
    context_full,
    feasibility,
    joint_feasibility,
    lacking_controls,
)
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
        streams: Number of streams.
        repeats: Number of times that each arm plays each stream.
        tried: Number of trial streams, from which counts are scaled up.
        latency_s: Assumed duration of a request in seconds.
        concurrency: Number of concurrent sessions.
        reply_tokens: Assumed minimum number of tokens in a reply.
        cost: Usage and cost of all arms.
        seconds: Duration of the run.
        arms: The plan of each arm.
        detectability: What the primary contrast can show; None if unknown.
        controls: The same for the other controls that the verdict "learned" needs.
        joint: The power of these contrasts all at once; None if there is one, or if it is unknown.
        lacking: What the controls leave open, in a sentence; empty if nothing.
        least_p: Smallest attainable p of any contrast, adjusted or not; None if the t test decides.
        can_show: Whether the design can show learning; None if unknown.
        verdict: The same in a sentence.
        advised: Whether changes to the design were tried.
        advice: The change that would help most, if the design cannot show learning.
    """

    experiment: str
    turns: int
    streams: int
    repeats: int
    tried: int
    latency_s: float
    concurrency: int
    reply_tokens: int
    cost: CostEstimate
    seconds: float
    arms: tuple[ArmPlan, ...]
    detectability: Detectability | None
    controls: tuple[Detectability, ...]
    joint: JointPower | None
    lacking: str
    least_p: float | None
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
    trials, tried = Trials(reply_tokens, on_turn), _trial_streams(experiment)
    pairs, few = contrasts(experiment), min(tried, experiment.streams)
    own = {
        arm: await trials.of(experiment, arm, few, trial_model(settings), counted=True)
        for arm, settings in experiment.arms.items()
    }
    plans = {
        arm: await _arm_plan(
            experiment,
            arm,
            mine,
            seconds=duration_s(experiment, {arm: mine}, latency_s, concurrency),
            streams=tried if any(arm in pair for pair in pairs) else min(CURVE_STREAMS, tried),
            trials=trials,
        )
        for arm, mine in own.items()
    }
    judged = [
        _Judgement(
            (plans[pair[0]], plans[pair[1]]), await detectability(experiment, pair, tried, trials)
        )
        for pair in pairs
    ]
    joint = await joint_detectability(experiment, pairs, tried, trials) if pairs[1:] else None
    weak = [each for each in judged if each.can_show is False]
    deciding = next(iter([*weak, *judged]), None)
    can_show, verdict = (deciding.can_show, deciding.verdict) if deciding else (None, SINGLE_ARM)
    if can_show and joint and joint.power < POWER:
        can_show, verdict = False, joint_feasibility(joint)
        weak = [min(judged, key=lambda each: each.power)]
    return Plan(
        experiment=experiment.name,
        turns=experiment.turns,
        streams=experiment.streams,
        repeats=experiment.repeats,
        tried=tried,
        latency_s=latency_s,
        concurrency=concurrency,
        reply_tokens=reply_tokens,
        cost=total([each.cost for each in plans.values()]),
        seconds=duration_s(experiment, own, latency_s, concurrency),
        arms=tuple(plans.values()),
        detectability=judged[0].found if judged else None,
        controls=tuple(each.found for each in judged[1:] if each.found is not None),
        joint=joint,
        lacking=lacking_controls(experiment, *pairs[0]) if pairs else "",
        least_p=least_p(experiment.streams) if experiment.streams <= MOST_FOR_SIGN_FLIP else None,
        can_show=can_show,
        verdict=verdict,
        advised=advised,
        advice=await _advice(experiment, weak[0], tried, trials) if weak and advised else None,
    )


def _trial_streams(experiment: Experiment) -> int:
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


async def _arm_plan(
    experiment: Experiment,
    arm: str,
    own: Sequence[Trial],
    *,
    seconds: float,
    streams: int,
    trials: Trials,
) -> ArmPlan:
    """Return the plan of an arm from its `own` trials and those of reference learners."""
    settings = experiment.arms[arm]
    return ArmPlan(
        arm=arm,
        model=settings.model.name,
        sessions=experiment.streams * experiment.repeats,
        cost=estimate(experiment, settings, own),
        seconds=seconds,
        context_use=ContextUse(
            sample_tokens=round(fmean(each.sample_tokens for each in own), 1),
            fits=math.floor(fmean(each.fits for each in own)),
            most_shown=max(each.most_shown for each in own),
            turns=min(len(each.correct) for each in own),
        ),
        chance=own[0].chance,
        curves=tuple(
            [_curve(name, await trials.of(experiment, arm, streams, name)) for name in REFERENCES]
        ),
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
class _Judgement:
    """What a contrast can show.

    Attributes:
        arms: The plans of its arms.
        found: Its detectability; None if a context fills up before the second half.
    """

    arms: tuple[ArmPlan, ArmPlan]
    found: Detectability | None

    @property
    def can_show(self) -> bool | None:
        """Whether it can show learning; None if unknown."""
        return self.found.can_show if self.found else False

    @property
    def power(self) -> float:
        """Power to detect the difference of the best reference learner."""
        return self.found.reference_power if self.found else 0.0

    @property
    def verdict(self) -> str:
        """The same in a sentence."""
        if self.found is None:
            shortest = min(self.arms, key=lambda each: each.context_use.turns)
            return context_full(shortest.arm, shortest.context_use.turns)
        first = self.arms[0]
        return feasibility(self.found, fits=first.context_use.fits, chance=first.chance)


async def _advice(
    experiment: Experiment, weak: _Judgement, streams: int, trials: Trials
) -> Advice | None:
    first, second = weak.arms
    return await advise(
        experiment,
        (first.arm, second.arm),
        limited=min(each.context_use.fits for each in weak.arms) < experiment.turns - 1,
        streams=streams,
        trials=trials,
        learner=weak.found.reference if weak.found else REFERENCES[-1],
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON for `plan --json`; unknown values are null."""
    return asdict(plan)
