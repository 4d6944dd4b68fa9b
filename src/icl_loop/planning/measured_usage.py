"""What a run would cost, extrapolated from the usage that a trial measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from icl_loop.core.messages import Usage
from icl_loop.core.tokens import count_message
from icl_loop.experiment import Experiment
from icl_loop.planning.cost_estimate import CostEstimate, duration_s, estimate, total
from icl_loop.planning.trial_sessions import Trial, Trials, trial_model
from icl_loop.runner.trial import TriedArm


@dataclass(frozen=True, slots=True)
class MeasuredArm:
    """What was measured in an arm, and its usage in a run.

    Attributes:
        arm: Name of the arm.
        requests: Requests that were measured.
        ratio: Reported prompt tokens per token counted locally; 1 if none were reported.
        completion: Mean completion tokens of a request, reasoning included.
        latency_s: Median seconds per request.
        cost: Usage and cost of all its sessions.
    """

    arm: str
    requests: int
    ratio: float
    completion: float
    latency_s: float
    cost: CostEstimate


@dataclass(frozen=True, slots=True)
class MeasuredPlan:
    """Usage, cost and time of a run, extrapolated from a trial.

    Attributes:
        arms: The arms of which turns were played.
        cost: Their sum.
        concurrency: Number of sessions at a time.
        seconds: Duration if requests are as quick at that concurrency as they were one at a time.
        seconds_alone: Duration with one request at a time.
    """

    arms: tuple[MeasuredArm, ...]
    cost: CostEstimate
    concurrency: int
    seconds: float
    seconds_alone: float


async def measured_plan(
    experiment: Experiment,
    tried: Mapping[str, TriedArm],
    concurrency: int,
    on_turn: Callable[[], None] = lambda: None,
) -> MeasuredPlan | None:
    """Return the plan of the arms that were tried; None if no turn was played.

    A built-in model plays each arm once with replies as long as the measured ones, to show how
    prompts grow.
    """
    played = [each for each in tried.values() if each.turns]
    if not played:
        return None
    trials = {each.session.arm: await _trial(experiment, each, on_turn) for each in played}
    arms = [_measured(experiment, each, trials[each.session.arm]) for each in played]
    latencies = [turn.reply.latency_s or 0.0 for each in played for turn in each.turns]
    lengths = {arm: [trial] for arm, trial in trials.items()}

    def seconds(at_once: int) -> float:
        return duration_s(experiment, lengths, fmean(latencies), at_once)

    return MeasuredPlan(
        arms=tuple(arms),
        cost=total([each.cost for each in arms]),
        concurrency=concurrency,
        seconds=seconds(concurrency),
        seconds_alone=seconds(1),
    )


def _ratio(usages: Sequence[tuple[int, int]]) -> float:
    """Return reported per counted tokens of requests that report any."""
    known = [(reported, counted) for reported, counted in usages if reported and counted]
    return sum(each[0] for each in known) / sum(each[1] for each in known) if known else 1.0


async def _trial(experiment: Experiment, tried: TriedArm, on_turn: Callable[[], None]) -> Trial:
    """Return a session of an arm with the measured usage of its requests."""
    counter = tried.session.window.counter
    shown = fmean(count_message(counter, turn.messages[1]) for turn in tried.turns)
    name = trial_model(experiment.arms[tried.session.arm])
    trials = Trials(round(shown), on_turn)
    (trial,) = await trials.of(experiment, tried.session.arm, 1, name, counted=True)
    if tried.model.is_built_in:
        return trial
    ratio, completion, serves = _of_requests(tried)
    usages = [
        Usage(round(each.prompt * ratio), round(each.cached * ratio) if serves else 0, completion)
        for each in trial.usages
    ]
    return replace(trial, usages=tuple(usages))


def _of_requests(tried: TriedArm) -> tuple[float, int, bool]:
    """Return ratio and completion tokens of an arm's requests, and whether any tokens were cached."""
    replies = [event.reply for event in tried.events]
    ratio = _ratio([(event.reply.usage.prompt, event.counted or 0) for event in tried.events])
    counter = tried.session.window.counter
    completion = fmean(reply.usage.completion or counter.count(reply.text) for reply in replies)
    return ratio, round(completion), any(reply.usage.cached for reply in replies)


def _measured(experiment: Experiment, tried: TriedArm, trial: Trial) -> MeasuredArm:
    ratio, completion, _ = _of_requests(tried)
    return MeasuredArm(
        arm=tried.session.arm,
        requests=len(tried.events),
        ratio=ratio,
        completion=completion,
        latency_s=median(event.reply.latency_s or 0.0 for event in tried.events),
        cost=estimate(experiment, experiment.arms[tried.session.arm], [trial]),
    )
