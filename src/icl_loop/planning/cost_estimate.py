"""Estimates of requests, tokens, cost and duration."""

import heapq
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from icl_loop.core.messages import Usage
from icl_loop.experiment import Experiment, LimitSettings, Settings
from icl_loop.experiment.sessions import Place
from icl_loop.models.prices import cost_of
from icl_loop.planning.trial_sessions import Trial


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Usage and cost of some requests.

    Attributes:
        requests: Number of requests.
        prompt: Prompt tokens.
        cached: Prompt tokens that a prompt cache would serve: the longest common prefix with one of
            the last 32 requests of the session, in steps of 128 tokens. Some providers do not cache
            short prompts (OpenAI below 1,024 tokens).
        completion: Completion tokens.
        usd: Cost in US dollars without a prompt cache; None if the price is unknown.
        usd_cached: Cost with a prompt cache.
    """

    requests: int
    prompt: int
    cached: int
    completion: int
    usd: float | None
    usd_cached: float | None


def estimate(experiment: Experiment, settings: Settings, trials: Sequence[Trial]) -> CostEstimate:
    """Return usage and cost of all sessions of an arm, scaled up from its trials."""
    usages = [usage for trial in trials for usage in trial.usages]
    scale = experiment.streams * experiment.repeats / len(trials)
    cost = cost_of(settings.model.name, settings.model.base_url, experiment.price)
    return CostEstimate(
        requests=round(scale * len(usages)),
        prompt=round(scale * sum(usage.prompt for usage in usages)),
        cached=round(scale * sum(usage.cached for usage in usages)),
        completion=round(scale * sum(usage.completion for usage in usages)),
        usd=cost and scale * sum(cost(replace(usage, cached=0)) for usage in usages),
        usd_cached=cost and scale * sum(map(cost, usages)),
    )


def total(estimates: Sequence[CostEstimate]) -> CostEstimate:
    """Return the sum; its cost is unknown if any of them is."""
    return CostEstimate(
        requests=sum(each.requests for each in estimates),
        prompt=sum(each.prompt for each in estimates),
        cached=sum(each.cached for each in estimates),
        completion=sum(each.completion for each in estimates),
        usd=_sum([each.usd for each in estimates]),
        usd_cached=_sum([each.usd_cached for each in estimates]),
    )


def _sum(amounts: Sequence[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def duration_s(
    experiment: Experiment,
    played: Mapping[str, Sequence[Trial]],
    latency_s: float,
    concurrency: int,
) -> float:
    """Return the duration of these arms in seconds if each request takes `latency_s`.

    Built-in models take no time. Rate limits of the experiment file are respected.
    """
    models = {arm: settings.model for arm, settings in experiment.arms.items()}
    asked = {arm: trials for arm, trials in played.items() if not models[arm].is_built_in}
    jobs = {
        session.place: Job(
            latency_s * len(trials[session.stream % len(trials)].usages),
            experiment.donor_of(session),
        )
        for session in experiment.sessions()
        if (trials := asked.get(session.arm))
    }
    usages = [usage for trials in asked.values() for trial in trials for usage in trial.usages]
    scale = experiment.streams * experiment.repeats / max(map(len, played.values()))
    return max(makespan(jobs, concurrency), scale * _rate_limited_s(experiment.limits, usages))


@dataclass(frozen=True, slots=True)
class Job:
    """A session: its duration in seconds and the donor session that must finish first, if any."""

    length: float
    after: Place | None = None


def makespan(jobs: Mapping[Place, Job], slots: int) -> float:
    """Return the time at which the last job ends, with `slots` jobs at once, started in order."""
    waiting: defaultdict[Place, list[Place]] = defaultdict(list)
    ready: deque[Place] = deque()
    for name, job in jobs.items():
        if job.after is not None and job.after in jobs:
            waiting[job.after].append(name)
        else:
            ready.append(name)
    running: list[tuple[float, Place]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            name = ready.popleft()
            heapq.heappush(running, (now + jobs[name].length, name))
        now, ended = heapq.heappop(running)
        ready.extend(waiting[ended])
    return now


def _rate_limited_s(limits: LimitSettings, usages: Sequence[Usage]) -> float:
    """Return the minimum duration of these requests in seconds under the rate limits."""
    minutes = [0.0]
    if limits.requests_per_minute is not None:
        minutes.append(len(usages) / limits.requests_per_minute)
    if limits.tokens_per_minute is not None:
        minutes.append(sum(usage.prompt for usage in usages) / limits.tokens_per_minute)
    return 60 * max(minutes)
