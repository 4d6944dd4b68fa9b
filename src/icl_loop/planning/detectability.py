"""What a design can show: the reference learners' own difference, and the least detectable one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from statistics import fmean, stdev

from icl_loop.analysis.contrasts import MOST_FOR_SIGN_FLIP
from icl_loop.analysis.power import (
    detectable,
    detectable_by_formula,
    deviation_of_difference,
    power,
    power_by_formula,
)
from icl_loop.experiment import Experiment
from icl_loop.models import BUILT_IN
from icl_loop.planning.trial_sessions import Trial, Trials
from icl_loop.tasks.feedback import YOKED

REFERENCES = tuple(
    name for name in ("reference/nearest", "reference/propagation") if name in BUILT_IN
)
"""The learners that stand for what can be learned from what is shown."""
SOUGHT = 0.1
"""The difference that is looked for where the file names none; less is near chance."""
CONTROLS = ("none", YOKED)
"""Kinds of feedback that tell nothing of one's own answers."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The late accuracy of one learner under the two arms of a contrast, means over streams.

    Attributes:
        reference: Name of the learner.
        first: Under the first arm.
        second: Under the second arm.
        deviation: Standard deviation over streams of the difference, at least its binomial part.
    """

    reference: str
    first: float
    second: float
    deviation: float

    @property
    def difference(self) -> float:
        """How much better the learner is under the first arm."""
        return self.first - self.second


@dataclass(frozen=True, slots=True)
class Detectability:
    """What a number of streams can show of the difference between two arms.

    Attributes:
        first: Name of the arm that should be better.
        second: Name of the arm that it is compared with.
        named: Whether the file names this contrast; else it is that of the first two arms.
        same_task: Whether the arms differ in the model alone, so that references cannot tell.
        streams: How many there are.
        turns: Length of a session.
        test: The test that decides: `sign-flip` or `t`.
        deviation: Standard deviation over streams of the difference, from the trials.
        detectable: Least difference found with 80 % power, None if none is.
        detectable_t: The same for the t test alone.
        reference: The learner with the largest difference.
        reference_first: Its late accuracy under the first arm.
        reference_second: Its late accuracy under the second arm.
        reference_power: Power to see the difference between them.
        effect: The difference that the file names, None if none.
        effect_power: Power to see that one.
        effect_power_t: The same for the t test alone.
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
    detectable_t: float | None
    reference: str
    reference_first: float
    reference_second: float
    reference_power: float
    effect: float | None
    effect_power: float | None
    effect_power_t: float | None

    @property
    def difference(self) -> float:
        """How much better the learner is under the first arm."""
        return self.reference_first - self.reference_second

    @property
    def can_show(self) -> bool | None:
        """Whether the best reference learner shows what is looked for, None if none can tell."""
        if self.same_task:
            return None
        seen = self.detectable is not None and self.difference >= self.detectable
        return seen and self.difference >= self.sought

    @property
    def sought(self) -> float:
        """The difference that is looked for."""
        return SOUGHT if self.effect is None else self.effect


def contrast(experiment: Experiment) -> tuple[str, str] | None:
    """Return the primary contrast, or else the first two arms; None if there is one arm."""
    match experiment.analysis.primary or list(experiment.arms):
        case [first, second, *_]:
            return first, second
    return None


def contrasts(experiment: Experiment) -> list[tuple[str, str]]:
    """Return the primary contrast and those with the other controls, which "learned" needs besides.

    A control differs from the first arm in feedback alone, which is none, or of a donor: the arm.
    """
    pair = contrast(experiment)
    if pair is None:
        return []
    others = [(pair[0], arm) for arm in experiment.arms if _is_control(experiment, pair[0], arm)]
    return list(dict.fromkeys([pair, *others]))


def _is_control(experiment: Experiment, first: str, arm: str) -> bool:
    mine, other = experiment.arms[first], experiment.arms[arm]
    alike = mine.model_copy(update={"feedback": other.feedback}) == other
    tells = [each.feedback.kind not in CONTROLS for each in (mine, other)]
    return alike and tells == [True, False] and other.feedback.donor in (None, first)


async def seen(
    experiment: Experiment,
    arms: tuple[str, str],
    streams: int,
    trials: Trials,
    learners: Sequence[str] = REFERENCES,
) -> list[Seen]:
    """Return what each of these reference learners shows of a contrast over this many streams.

    A learner that plays no turn of the second half under one of the arms is left out.
    """
    found = []
    for name in learners:
        pairs = [
            [await trials.of(experiment, arm, stream, name) for arm in arms]
            for stream in range(streams)
        ]
        if not any(isnan(trial.late) for pair in pairs for trial in pair):
            found.append(_seen(name, pairs))
    return found


def _seen(name: str, pairs: Sequence[Sequence[Trial]]) -> Seen:
    first, second = (fmean(pair[side].late for pair in pairs) for side in (0, 1))
    turns = pairs[0][0].planned - pairs[0][0].planned // 2
    binomial = deviation_of_difference(_inside(first, turns), _inside(second, turns), turns)
    differences = [pair[0].late - pair[1].late for pair in pairs]
    spread = stdev(differences) if len(pairs) > 1 else 0.0
    return Seen(name, first, second, max(binomial, spread))


def _inside(accuracy: float, turns: int) -> float:
    """Return an accuracy that is neither 0 nor 1, which few turns cannot tell from near it."""
    return min(max(accuracy, 0.5 / turns), 1 - 0.5 / turns)


def detectability(
    experiment: Experiment, arms: tuple[str, str], shown: Sequence[Seen]
) -> Detectability | None:
    """Return what the experiment can show of a contrast; None if no reference gets far enough."""
    best = max(shown, key=lambda each: each.difference, default=None)
    if best is None:
        return None
    streams, effect = experiment.streams, experiment.analysis.effect
    deviation = best.deviation
    return Detectability(
        first=arms[0],
        second=arms[1],
        named=experiment.analysis.primary is not None,
        same_task=_differ_in_the_model_alone(experiment, arms),
        streams=streams,
        turns=experiment.turns,
        test="sign-flip" if streams <= MOST_FOR_SIGN_FLIP else "t",
        deviation=deviation,
        detectable=detectable(deviation, streams),
        detectable_t=detectable_by_formula(deviation, streams),
        reference=best.reference,
        reference_first=best.first,
        reference_second=best.second,
        reference_power=power(max(best.difference, 0.0), deviation, streams),
        effect=effect,
        effect_power=effect and power(effect, deviation, streams),
        effect_power_t=effect and power_by_formula(effect, deviation, streams),
    )


def _differ_in_the_model_alone(experiment: Experiment, arms: tuple[str, str]) -> bool:
    """Return whether references could not tell these arms apart."""
    first, second = (experiment.arms[arm] for arm in arms)
    return first.model_copy(update={"model": second.model}) == second and (
        first.model.context_window == second.model.context_window
    )
