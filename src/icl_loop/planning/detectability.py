"""What a design can show: the reference learners' difference against the detectable one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from statistics import fmean, stdev

import numpy as np

from icl_loop.analysis.arm_roles import Control, Roles
from icl_loop.analysis.power import detectable, deviation_of_difference, joint_power, power
from icl_loop.analysis.significance import MOST_FOR_SIGN_FLIP, Floats
from icl_loop.experiment import Experiment
from icl_loop.models import BUILT_IN
from icl_loop.planning.trial_sessions import Trial, Trials, session_of

REFERENCES = tuple(
    name for name in ("reference/nearest", "reference/propagation") if name in BUILT_IN
)
"""Learners that estimate what can be learned from the context."""
SOUGHT = 0.1
"""The difference of interest if the experiment file names none."""


@dataclass(frozen=True, slots=True)
class _ReferenceDifference:
    """The late accuracy of a reference learner in both arms.

    Attributes:
        reference: Name of the learner.
        first: Its mean accuracy in the first arm.
        second: Its mean accuracy in the second arm.
        differences: Its differences by stream.
        binomial: Standard deviation of the difference from a finite number of turns alone.
    """

    reference: str
    first: float
    second: float
    differences: tuple[float, ...]
    binomial: float

    @property
    def spread(self) -> float:
        """Standard deviation of the differences over streams; 0 with a single stream."""
        return stdev(self.differences) if len(self.differences) > 1 else 0.0

    @property
    def deviation(self) -> float:
        """Assumed standard deviation of the difference over streams: at least its binomial part."""
        return max(self.binomial, self.spread)

    @property
    def difference(self) -> float:
        """Accuracy in the first arm minus accuracy in the second."""
        return self.first - self.second


@dataclass(frozen=True, slots=True)
class Detectability:
    """What a contrast can show with a number of streams.

    Attributes:
        first: Name of the arm of interest.
        second: Name of the arm it is compared with.
        named: Whether the experiment file names this contrast; otherwise it is the first two arms.
        same_task: Whether the arms differ only in the model, which reference learners cannot assess.
        streams: Number of streams.
        turns: Number of turns in a session.
        test: The deciding test, `sign-flip` or `t`.
        deviation: Standard deviation of the difference over streams, from the trials.
        detectable: Smallest difference detected with 80 % power, or None.
        reference: The reference learner with the largest difference.
        reference_first: Its late accuracy in the first arm.
        reference_second: Its late accuracy in the second arm.
        reference_power: Power to detect its difference.
        effect: The difference named in the experiment file, or None.
        effect_power: Power to detect that difference.
    """

    first: str
    second: str
    named: bool
    same_task: bool
    streams: int
    turns: int
    test: str
    deviation: float
    detectable: float | None
    reference: str
    reference_first: float
    reference_second: float
    reference_power: float
    effect: float | None
    effect_power: float | None

    @property
    def difference(self) -> float:
        """Accuracy in the first arm minus accuracy in the second."""
        return self.reference_first - self.reference_second

    @property
    def can_show(self) -> bool | None:
        """Whether the best reference learner shows the difference of interest; None if unknown."""
        if self.detectable is None:
            return False
        if self.same_task:
            return None
        return self.difference >= max(self.detectable, self.sought)

    @property
    def sought(self) -> float:
        """The difference of interest."""
        return SOUGHT if self.effect is None else self.effect


@dataclass(frozen=True, slots=True)
class JointPower:
    """The power of all contrasts that the verdict "learned" needs, at once.

    Attributes:
        contrasts: The arms of each contrast.
        reference: The reference learner whose differences, and their covariance over trial streams,
            are assumed.
        trials: Number of trial streams.
        power: Probability that all contrasts are significant and positive.
        effect: The difference named in the experiment file, or None.
        effect_power: The same probability if that is the true difference of every contrast.
    """

    contrasts: tuple[tuple[str, str], ...]
    reference: str
    trials: int
    power: float
    effect: float | None
    effect_power: float | None


def contrasts(experiment: Experiment) -> list[tuple[str, str]]:
    """Return the primary contrast (by default the first two arms) and the other ones "learned" needs.

    These compare the first arm with its controls, which differ from it only in feedback: none, or that
    of one of its donor sessions. With a single arm there are none.
    """
    match experiment.analysis.primary or list(experiment.arms):
        case [first, second, *_]:
            controls = _roles(experiment).controls(first)
            return [(first, arm) for arm in dict.fromkeys([second, *controls])]
    return []


def control_kinds(experiment: Experiment, first: str, second: str) -> frozenset[Control] | None:
    """Return the kinds of controls of the first arm, or None if the contrast is not about learning."""
    roles = _roles(experiment)
    if not roles.tests_learning(first, second):
        return None
    session = session_of(experiment, first, 0, experiment.arms[first])
    asked = any(session.settings.probes.at)  # before the first turn there are no verdicts
    return roles.control_kinds(first, flipped=asked and "flipped" in session.verdicts)


def _roles(experiment: Experiment) -> Roles:
    return Roles.of_settings({arm: each.recorded() for arm, each in experiment.arms.items()})


async def detectability(
    experiment: Experiment,
    arms: tuple[str, str],
    streams: int,
    trials: Trials,
    learners: Sequence[str] = REFERENCES,
) -> Detectability | None:
    """Return what a contrast can show, judged by the learner with the largest difference.

    None if no learner reaches the second half in both arms.

    Args:
        experiment: The design.
        arms: The contrast.
        streams: Number of trial streams.
        trials: Plays the trial sessions.
        learners: Names of the reference learners.
    """
    shown = [each for (each,) in await _of_learners(experiment, [arms], streams, trials, learners)]
    best = max(shown, key=lambda each: each.difference, default=None)
    if best is None:
        return None
    planned, effect, deviation = experiment.streams, experiment.analysis.effect, best.deviation
    return Detectability(
        first=arms[0],
        second=arms[1],
        named=experiment.analysis.primary is not None,
        same_task=_differ_only_in_model(experiment, arms),
        streams=planned,
        turns=experiment.turns,
        test="sign-flip" if planned <= MOST_FOR_SIGN_FLIP else "t",
        deviation=deviation,
        detectable=detectable(deviation, planned),
        reference=best.reference,
        reference_first=best.first,
        reference_second=best.second,
        reference_power=power(max(best.difference, 0.0), deviation, planned),
        effect=effect,
        effect_power=effect and power(effect, deviation, planned),
    )


async def joint_detectability(
    experiment: Experiment, pairs: Sequence[tuple[str, str]], streams: int, trials: Trials
) -> JointPower | None:
    """Return the joint power of contrasts, judged by the learner with the largest.

    Differences are assumed to be normal, with the covariance of the learner's trial sessions. Their
    variances are at least binomial. None if no learner reaches the second half in every arm, or none
    can assess a contrast because its arms differ only in the model.

    Args:
        experiment: The design.
        pairs: The contrasts.
        streams: Number of trial streams.
        trials: Plays the trial sessions.
    """
    if any(_differ_only_in_model(experiment, pair) for pair in pairs):
        return None
    effect, found = experiment.analysis.effect, []
    for each in await _of_learners(experiment, pairs, streams, trials, REFERENCES):
        effects, covariance = np.array([one.difference for one in each]), _covariance(each)
        found.append(
            JointPower(
                contrasts=tuple(pairs),
                reference=each[0].reference,
                trials=streams,
                power=joint_power(effects, covariance, experiment.streams),
                effect=effect,
                effect_power=effect
                and joint_power(np.full(len(pairs), effect), covariance, experiment.streams),
            )
        )
    return max(found, key=lambda one: one.power, default=None)


def _covariance(found: Sequence[_ReferenceDifference]) -> Floats:
    """Return the covariance of a learner's differences over streams, with at least binomial variances."""
    covariance: Floats = np.diag([each.deviation**2 - each.spread**2 for each in found])
    if len(found[0].differences) > 1:
        covariance = covariance + np.atleast_2d(np.cov([each.differences for each in found]))
    return covariance


async def _of_learners(
    experiment: Experiment,
    pairs: Sequence[tuple[str, str]],
    streams: int,
    trials: Trials,
    learners: Sequence[str],
) -> list[list[_ReferenceDifference]]:
    """Return the differences in every contrast, for each learner that reaches the second half in all."""
    found = []
    for name in learners:
        played = {
            arm: await trials.of(experiment, arm, streams, name) for pair in pairs for arm in pair
        }
        if not any(isnan(trial.late) for side in played.values() for trial in side):
            found.append(
                [_reference_difference(name, played[one], played[other]) for one, other in pairs]
            )
    return found


def _reference_difference(
    name: str, first: Sequence[Trial], second: Sequence[Trial]
) -> _ReferenceDifference:
    one, other = (fmean(trial.late for trial in side) for side in (first, second))
    turns = first[0].planned - first[0].planned // 2
    binomial = deviation_of_difference(_clipped(one, turns), _clipped(other, turns), turns)
    differences = tuple(a.late - b.late for a, b in zip(first, second, strict=True))
    return _ReferenceDifference(name, one, other, differences, binomial)


def _clipped(accuracy: float, turns: int) -> float:
    """Return an accuracy clipped away from 0 and 1 by half a turn."""
    return min(max(accuracy, 0.5 / turns), 1 - 0.5 / turns)


def _differ_only_in_model(experiment: Experiment, arms: tuple[str, str]) -> bool:
    """Return whether two arms differ only in their model, which no reference learner can assess."""
    first, second = (experiment.arms[arm] for arm in arms)
    return first.model_copy(update={"model": second.model}) == second and (
        first.model.context_window == second.model.context_window
    )
