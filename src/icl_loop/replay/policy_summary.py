"""What requests contain under a policy, per session and averaged over the sessions of an arm."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from icl_loop.analysis import Estimate
from icl_loop.analysis.baseline import LEARNER, baseline
from icl_loop.context.window import from_spans
from icl_loop.core.messages import Usage
from icl_loop.experiment import Session
from icl_loop.models import is_built_in
from icl_loop.models.limits import Cost
from icl_loop.models.prices import list_price
from icl_loop.replay.what_if import played_history
from icl_loop.transcripts import Header, Transcript

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RequestContents:
    """What the requests of one session contain under one policy, turn by turn.

    Attributes:
        header: The session.
        policy: The policy.
        played: Whether the session was played under it.
        tokens: Tokens of each request, counted locally, shape (turns,).
        prefix: Tokens of each request that a prefix cache can serve, shape (turns,).
        shown: Past turns shown, by their correct label, shape (turns, labels).
        told: Past turns shown whose label had been told, by that label, shape (turns, labels).
        completion: Tokens of each reply as the endpoint counted them, shape (turns,).
        right: Whether the baseline learner answers correctly, shape (turns,).
    """

    header: Header
    policy: str
    played: bool
    tokens: Counts
    prefix: Counts
    completion: Counts
    shown: Counts
    told: Counts
    right: NDArray[np.bool_]

    @property
    def exposure(self) -> Counts:
        """Number of past turns shown, shape (turns,)."""
        return np.asarray(self.shown.sum(axis=1))


async def request_contents(
    transcript: Transcript, learner: str = LEARNER, *, played: bool = False
) -> RequestContents:
    """Return what the requests of a session contain, and how well `learner` answers them."""
    turns, labels = transcript.turns, transcript.header.labels
    history = played_history(transcript, transcript.events)
    timing = history.parser.timing
    shown, told = list[list[int]](), list[list[int]]()
    for turn in turns:
        past = from_spans(turn.kept)
        known = [index for index in past if timing.told_after(index) < turn.index]
        of_shown = Counter(turns[index].label for index in past)
        of_told = Counter(history.feedback[index].label for index in known)
        shown.append([of_shown[label] for label in labels])
        told.append([of_told[label] for label in labels])
    shape = len(turns), len(labels)
    return RequestContents(
        header=transcript.header,
        policy=Session.of(transcript.header).settings.context.policy,
        played=played,
        tokens=np.array([turn.counted or 0 for turn in turns], np.int64),
        prefix=np.array([turn.prefix or 0 for turn in turns], np.int64),
        completion=np.array([turn.reply.usage.completion for turn in turns], np.int64),
        shown=np.array(shown, np.int64).reshape(shape),
        told=np.array(told, np.int64).reshape(shape),
        right=np.array(await baseline(transcript, learner), np.bool_),
    )


def turns_of(contents: Sequence[RequestContents]) -> pl.DataFrame:
    """Return a frame with a row for each turn of each session under each policy."""
    return pl.concat(
        [
            pl.DataFrame(
                {
                    "turn": np.arange(len(each.tokens)),
                    "tokens": each.tokens,
                    "prefix": each.prefix,
                    "shown": each.exposure,
                    "baseline": each.right,
                }
            ).with_columns(
                requests=pl.lit(number),
                experiment=pl.lit(each.header.experiment),
                arm=pl.lit(each.header.arm),
                policy=pl.lit(each.policy),
                played=pl.lit(each.played),
                turns=pl.lit(each.header.turns),
                chance=pl.lit(1 / max(1, len(each.header.labels))),
            )
            for number, each in enumerate(contents)
        ]
    )


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """An arm under one policy, as means over its sessions.

    Attributes:
        played: Whether the arm was played under the policy.
        sessions: Number of sessions.
        turns: Turns until the context window is full.
        tokens: Tokens of a request, counted locally.
        largest: Tokens of the largest request of all sessions.
        prefix_share: Share of the tokens that a prefix cache can serve.
        usd: Cost of a session in US dollars without a cache; None if the price is unknown.
        usd_prefix: Its cost if a cache serves every repeated prefix.
        exposure: Past turns shown in a request.
        classes: Distinct classes among them.
        told_classes: Distinct classes among those whose label had been told.
        shown_by_class: Past turns shown in a request, by class.
        told_by_class: Past turns shown in a request whose label had been told, by class.
        baseline_late: Late accuracy of the baseline learner.
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
    usd: float | None
    usd_prefix: float | None
    exposure: float
    classes: float
    told_classes: float
    shown_by_class: dict[str, float]
    told_by_class: dict[str, float]
    baseline_late: Estimate

    def fields(self) -> dict[str, Any]:
        """Return the summary as JSON values; undefined ones are null."""
        late = self.baseline_late
        interval = late.interval and list(late.interval)
        return {**asdict(self), "baseline_late": late.mean, "baseline_late_ci": interval}


def policy_summaries(
    contents: Sequence[RequestContents], price: Cost | None = None
) -> list[PolicySummary]:
    """Return each arm under each policy, in the order of their first sessions.

    Without `price`, the list price of the arm's model applies.
    """
    groups: dict[tuple[str, str, bool, str], list[RequestContents]] = {}
    for each in contents:
        key = each.header.experiment, each.header.arm, each.played, each.policy
        groups.setdefault(key, []).append(each)
    return [_summary(sessions, price) for sessions in groups.values()]


def _summary(sessions: Sequence[RequestContents], price: Cost | None) -> PolicySummary:
    first = sessions[0]
    cost = price or _list_price(first.header)

    def mean(of: Callable[[RequestContents], float]) -> float:
        return float(np.mean([of(each) for each in sessions]))

    late = [each.right[each.header.turns // 2 :] for each in sessions]
    accuracies = np.array([right.mean() for right in late if right.size], np.float64)
    judged = sum(right.size for right in late)
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
        usd=cost and mean(partial(_usd, cost, is_cached=False)),
        usd_prefix=cost and mean(partial(_usd, cost, is_cached=True)),
        exposure=mean(lambda each: each.exposure.mean()),
        classes=mean(lambda each: _distinct(each.shown)),
        told_classes=mean(lambda each: _distinct(each.told)),
        shown_by_class=_by_class(sessions, lambda each: each.shown),
        told_by_class=_by_class(sessions, lambda each: each.told),
        baseline_late=Estimate.of_shares(accuracies, judged),
    )


def _list_price(header: Header) -> Cost | None:
    """Return the list price of the model of a session; None if unknown or built in."""
    model = header.settings.get("model", {})
    name, base_url = str(model.get("name")), model.get("base_url")
    return None if is_built_in(name, base_url) else list_price(name, base_url)


def _usd(cost: Cost, contents: RequestContents, *, is_cached: bool) -> float:
    """Return the cost of a session's requests, with or without a cache of every prefix."""
    columns = contents.tokens, contents.prefix * is_cached, contents.completion
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return sum(cost(Usage(prompt, cached, reply)) for prompt, cached, reply in rows)


def _distinct(counts: Counts) -> float:
    return float((counts > 0).sum(axis=1).mean())


def _by_class(
    sessions: Sequence[RequestContents], of: Callable[[RequestContents], Counts]
) -> dict[str, float]:
    """Return for each label the mean count over the sessions that have the label."""
    means: dict[str, list[float]] = {}
    for each in sessions:
        for label, mean in zip(each.header.labels, of(each).mean(axis=0), strict=True):
            means.setdefault(label, []).append(mean)
    return {label: float(np.mean(values)) for label, values in sorted(means.items())}
