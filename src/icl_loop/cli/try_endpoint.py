"""`icl-loop try`: play a few turns of each arm, and report what the endpoint can do."""

import asyncio
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from typer import Exit, Option

from icl_loop.cli import options
from icl_loop.core.errors import StoppedShort
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment
from icl_loop.planning.endpoint_settings import Suggestion, suggestions
from icl_loop.planning.measured_usage import MeasuredPlan, measured_plan
from icl_loop.runner import discovery
from icl_loop.runner.run import DEFAULT_CONCURRENCY
from icl_loop.runner.trial import EndpointTrial, Finding, TriedArm
from icl_loop.terminal.console import STOPPED_SHORT, err, out, print_json, print_text
from icl_loop.terminal.endpoint_tables import (
    findings_table,
    message_text,
    print_arm,
    print_measured,
    print_suggestions,
)
from icl_loop.terminal.progress import WorkProgress

MAX_TOKENS = 100_000
SLOW_S = 2.0
"""Seconds from which a turn is announced, as nothing else is printed before the end of its arm."""


@dataclass(frozen=True, slots=True)
class _Reported:
    """What was found out about an endpoint, and the settings that suit it."""

    arms: list[TriedArm]
    findings: list[Finding]
    suggested: list[Suggestion]

    @property
    def title(self) -> str:
        """The heading of the table of findings."""
        model = self.arms[0].model
        where = model.base_url or "OpenAI" * (not model.is_built_in) or "this process"
        return f"What the endpoint does: {model.name} at {where}"


def try_endpoint(
    experiment: options.ExperimentFile,
    overrides: options.Overrides = None,
    turns: Annotated[int, Option(min=1, help="Turns of each arm to play.")] = 3,
    concurrency: options.DefaultConcurrency = None,
    max_usd: Annotated[
        float | None, Option(min=0, help="Budget of this trial in US dollars.")
    ] = None,
    max_tokens: Annotated[int, Option(min=1, help="Budget of this trial in tokens.")] = MAX_TOKENS,
    json: options.AsJson = False,
) -> None:
    """Play a few turns of each arm, show them whole, and report what the endpoint can do.

    Nothing is saved.
    """
    loaded = options.load_experiment(experiment, overrides, None, None)
    try:
        asyncio.run(_try(loaded, turns, concurrency, max_usd, max_tokens, as_json=json))
    except KeyboardInterrupt:
        print_text("stopped; nothing was saved", err)
        raise Exit(STOPPED_SHORT) from None


async def _try(
    asked: Experiment,
    turns: int,
    concurrency: int | None,
    max_usd: float | None,
    max_tokens: int,
    *,
    as_json: bool,
) -> None:
    endpoints = await discovery.ask_endpoints(asked)
    for endpoint in endpoints.values():
        if not endpoint.reached:
            raise StoppedShort(
                f"{endpoint.address} {endpoint.failure}; start the endpoint, or check model.base_url"
            )
    experiment, remarks = discovery.with_assumed_windows(asked, endpoints, "trial")
    for remark in remarks:
        print_text(f"note: {remark}", err)
    with WorkProgress(err, "checking", "sessions", experiment.count()) as progress:
        experiment.check(progress.add)
    trial = EndpointTrial(
        experiment=experiment,
        endpoints=endpoints,
        turns=min(turns, experiment.turns),
        max_usd=max_usd,
        max_tokens=max_tokens,
        on_turn=_print_slow,
        on_arm=(lambda _: None) if as_json else print_arm,
    )
    await trial.play()
    if endpoints:
        print_text("testing what the endpoint does", err, "dim")
    reported = [await _report(trial, asked, key, arms) for key, arms in trial.by_endpoint().items()]
    at_once = concurrency or discovery.slots(endpoints.values()) or DEFAULT_CONCURRENCY
    with WorkProgress(err, "extrapolating", "turns") as progress:
        measured = await measured_plan(experiment, trial.arms, at_once, progress.add)
    if as_json:
        print_json(_as_json(trial, reported, measured))
    else:
        _print(trial, reported, measured)
    stopped = [each.stopped for each in trial.arms.values() if each.stopped]
    if stopped:
        print_text(f"stopped short: {stopped[0]}", err, "red")
        raise Exit(STOPPED_SHORT)


def _print_slow(arm: str, turn: Turn) -> None:
    if (latency_s := turn.reply.latency_s or 0.0) > SLOW_S:
        print_text(f"arm {arm}, turn {turn.index + 1}: replied in {latency_s:.1f} s", err, "dim")


async def _report(
    trial: EndpointTrial, asked: Experiment, key: str, arms: list[TriedArm]
) -> _Reported:
    findings = await trial.findings(arms)
    endpoint = trial.endpoints.get(key)
    window = endpoint.context_window if endpoint else None
    settings = asked.arms[arms[0].session.arm]
    return _Reported(arms, findings, suggestions(settings, arms, findings, window))


def _print(trial: EndpointTrial, reported: list[_Reported], measured: MeasuredPlan | None) -> None:
    for each in reported:
        out.print()
        out.print(findings_table(each.title, each.findings))
        print_suggestions(each.suggested)
    if measured is not None:
        print_measured(measured, trial.experiment)
    if (spent := trial.budget.spent).total:
        usd = f" (${trial.budget.usd:.4f})" if trial.budget.usd else ""
        print_text(
            f"\nThis trial used {spent.prompt:,} tokens in and {spent.completion:,} out{usd}."
            " Nothing was saved."
        )


def _as_json(
    trial: EndpointTrial, reported: list[_Reported], measured: MeasuredPlan | None
) -> dict[str, Any]:
    """Return all that was found as JSON."""
    return {
        "experiment": trial.experiment.name,
        "arms": [_arm(trial.arms[arm]) for arm in trial.experiment.arms if arm in trial.arms],
        "endpoints": [
            {
                "model": each.arms[0].model.name,
                "base_url": each.arms[0].model.base_url,
                "arms": [arm.session.arm for arm in each.arms],
                "findings": [asdict(finding) for finding in each.findings],
                "suggestions": [asdict(suggestion) for suggestion in each.suggested],
            }
            for each in reported
        ],
        "full_run": None if measured is None else {**asdict(measured), "extrapolated": True},
        "spent": {**asdict(trial.budget.spent), "usd": trial.budget.usd},
    }


def _arm(tried: TriedArm) -> dict[str, Any]:
    return {
        "arm": tried.session.arm,
        "request": [
            {"role": message.role, "text": message_text(message)}
            for message in (tried.sent if tried.turns else ())
        ],
        "turns": [
            {
                "reply": turn.reply.text,
                "reasoning": turn.reply.reasoning_text,
                "answer": turn.answer,
                "outcome": turn.outcome,
                "label": turn.label,
                "correct": turn.feedback.correct,
                "told": turn.feedback.told,
                "label_logprobs": dict(turn.reply.label_logprobs or {}) or None,
                "finish": turn.reply.finish,
                "usage": asdict(turn.reply.usage),
                "counted": turn.counted,
                "latency_s": turn.reply.latency_s,
            }
            for turn in tried.turns
        ],
        "stopped": None if tried.stopped is None else str(tried.stopped),
    }
