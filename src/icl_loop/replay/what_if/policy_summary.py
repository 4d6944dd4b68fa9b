"""What the sessions of an arm come to under a policy, each session counting once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl_loop.analysis import Estimate
from icl_loop.replay.what_if.request_contents import Numbers, RequestContents


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """An arm under one policy, as means over its sessions.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        policy: The policy.
        played: Whether the arm was really played under it.
        sessions: How many sessions there are.
        turns: Turns of a session until its window is full.
        tokens: Tokens of a request, as counted here.
        largest: Tokens of the largest request of all.
        prefix_share: Share of all tokens that a prefix cache could serve.
        exposure: Past turns shown in a request.
        classes: Distinct classes among them.
        told_classes: Distinct classes among those whose label was told.
        shown_by_class: Past turns of each class shown in a request.
        told_by_class: Past turns shown in a request of which each class was told.
        baseline_late: Accuracy of the learner over the second half of the turns planned.
    """

    experiment: str
    arm: str
    policy: str
    played: bool
    sessions: int
    turns: float
    tokens: float
    largest: int
    prefix_share: float
    exposure: float
    classes: float
    told_classes: float
    shown_by_class: dict[str, float]
    told_by_class: dict[str, float]
    baseline_late: Estimate

    def fields(self) -> dict[str, Any]:
        """Return it as JSON; what is undefined is null."""
        late = self.baseline_late
        interval = late.interval and list(late.interval)
        return {**asdict(self), "baseline_late": late.mean, "baseline_late_ci": interval}


def policy_summaries(all_requests: Sequence[RequestContents]) -> list[PolicySummary]:
    """Return each arm under each policy, in the order in which they come first.

    Sessions without a turn are left out.
    """
    order = list(dict.fromkeys(_group(each) for each in all_requests))
    sorted_by_group = sorted(all_requests, key=lambda each: order.index(_group(each)))
    return [_outlook(list(group)) for _, group in groupby(sorted_by_group, _group)]


def as_json(rows: Sequence[PolicySummary], learner: str) -> dict[str, Any]:
    """Return the outlooks, and whose baseline it is, as JSON."""
    return {"learner": learner, "policy_summaries": [row.fields() for row in rows]}


def _group(requests: RequestContents) -> tuple[str, str, bool, str]:
    header = requests.header
    return header.experiment, header.arm, not requests.played, requests.policy


def _outlook(sessions: Sequence[RequestContents]) -> PolicySummary:
    first = sessions[0]

    def mean(of: Callable[[RequestContents], float]) -> float:
        return float(np.mean([of(each) for each in sessions]))

    return PolicySummary(
        experiment=first.header.experiment,
        arm=first.header.arm,
        policy=first.policy,
        played=first.played,
        sessions=len(sessions),
        turns=mean(lambda each: len(each.tokens)),
        tokens=mean(lambda each: each.tokens.mean()),
        largest=max(int(each.tokens.max()) for each in sessions),
        prefix_share=mean(lambda each: each.prefix.sum() / each.tokens.sum()),
        exposure=mean(lambda each: each.exposure.mean()),
        classes=mean(lambda each: _distinct(each.shown)),
        told_classes=mean(lambda each: _distinct(each.told)),
        shown_by_class=_by_class(sessions, lambda each: each.shown),
        told_by_class=_by_class(sessions, lambda each: each.told),
        baseline_late=Estimate.of(_late(sessions)),
    )


def _distinct(by_class: Numbers) -> float:
    """Return the mean number of classes that are there at all."""
    return float((by_class > 0).sum(axis=1).mean())


def _by_class(
    sessions: Sequence[RequestContents], of: Callable[[RequestContents], Numbers]
) -> dict[str, float]:
    """Return for each label the mean over the sessions that have it."""
    found: dict[str, list[float]] = {}
    for each in sessions:
        for label, mean in zip(each.header.labels, of(each).mean(axis=0).tolist(), strict=True):
            found.setdefault(label, []).append(mean)
    return {label: float(np.mean(means)) for label, means in sorted(found.items())}


def _late(sessions: Sequence[RequestContents]) -> NDArray[np.float64]:
    """Return the learner's accuracy in the second half of each session that comes so far."""
    halves = (each.right[each.header.turns // 2 :] for each in sessions)
    return np.array([half.mean() for half in halves if half.size], np.float64)
