"""What a trial of an endpoint prints: turns, properties, suggested settings and the cost of a run."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import indent

from rich.table import Table

from icl_loop.core.messages import Image, Message
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment
from icl_loop.planning.endpoint_settings import Suggestion
from icl_loop.planning.measured_usage import MeasuredPlan
from icl_loop.runner.trial import Finding, TriedArm
from icl_loop.terminal.console import out, print_text
from icl_loop.terminal.formatting import dollars, duration, table_of

_MARGIN = 10


def print_arm(tried: TriedArm) -> None:
    """Print the last request of an arm, whole, and all of its replies."""
    model, turns = tried.model, tried.turns
    place = f" at {model.base_url}" if model.base_url else ""
    print_text(f"\n=== arm {tried.session.arm}: {model.name}{place}", style="bold")
    if donor := tried.session.settings.feedback.donor:
        print_text(f"Told the feedback of the first turns of {donor!r}.")
    if turns:
        print_text(_request_heading(tried))
        for message in tried.sent:
            print_text(f"\n[{message.role}]", style="cyan")
            print_text(message_text(message))
        print_text("\nThe replies, and how they were read:")
        for turn in turns:
            print_text("\n" + "\n".join(_turn_lines(turn)))
    if tried.stopped is not None:
        print_text(f"\nStopped after {len(turns)} turns: {tried.stopped}", style="red")


def _request_heading(tried: TriedArm) -> str:
    last = tried.turns[-1]
    reported = last.reply.usage.prompt
    tokens = f"{reported:,} tokens reported, " if reported else ""
    return (
        f"Request of turn {last.index + 1}, whole, as the model saw it ({len(tried.sent)} messages;"
        f" {tokens}{last.counted or 0:,} counted here):"
    )


def message_text(message: Message) -> str:
    """Return the text of a message, with a word in place of each picture."""
    parts = (
        f"[a picture, {len(part.png):,} bytes of PNG]" if isinstance(part, Image) else part.text
        for part in message.parts
    )
    return _lines("\n".join(parts))


def _turn_lines(turn: Turn) -> Iterator[str]:
    reply, usage = turn.reply, turn.reply.usage
    verdict = "right" if turn.feedback.correct else "wrong"
    answer = f"no answer ({turn.outcome})" if turn.answer is None else f"answer {turn.answer}"
    yield f"turn {turn.index + 1}"
    if reply.reasoning_text:
        yield _labelled("reasoning", reply.reasoning_text)
    yield _labelled("reply", reply.text or "(empty)")
    yield _labelled("read as", f"{answer}; the label is {turn.label}: {verdict}")
    if turn.echo is not None and turn.echo != reply.text:
        yield _labelled("shown as", turn.echo)
    yield _labelled("told", turn.feedback.told)
    if reply.label_logprobs:
        yield _labelled("log-prob", log_probabilities(turn))
    yield _labelled(
        "usage",
        f"{usage.prompt:,} tokens in ({usage.cached:,} cached), {usage.completion:,} out"
        + f" ({usage.reasoning:,} of reasoning)" * bool(usage.reasoning)
        + f"; {reply.latency_s or 0:.2f} s; finish: {reply.finish}"
        + f", {reply.attempts} attempts" * (reply.attempts > 1)
        if usage.prompt
        else f"no tokens reported; {reply.latency_s or 0:.2f} s; finish: {reply.finish}",
    )


def log_probabilities(turn: Turn) -> str:
    """Return the log-probability of each label and what it is in percent."""
    scores = turn.reply.label_logprobs or {}
    ordered = sorted(scores.items(), key=lambda each: -each[1])
    return ", ".join(f"{label} {score:.2f} ({_share(score)})" for label, score in ordered)


def _share(score: float) -> str:
    """Return the probability of a log-probability in percent."""
    share = math.exp(score)
    return "<0.1%" if share < 0.001 else f"{share:.1%}"


def _labelled(label: str, text: str) -> str:
    lines = indent(_lines(text), " " * (2 + _MARGIN), lambda _: True)
    return f"  {label:<{_MARGIN}}{lines[2 + _MARGIN :]}"


def _lines(text: str) -> str:
    return "\n".join(line.expandtabs(4) for line in text.splitlines())


def findings_table(title: str, findings: Sequence[Finding]) -> Table:
    """Return the table of an endpoint's properties."""
    return table_of(
        title,
        findings,
        {
            "property": lambda row: row.name,
            "found": lambda row: row.found,
            "how it is known": lambda row: row.detail,
        },
        {},
    )


def print_suggestions(suggested: Sequence[Suggestion]) -> None:
    """Print suggested settings as TOML that can be pasted into an experiment file."""
    if not suggested:
        print_text("\nSuggested settings: none; the present ones suit the endpoint.")
        return
    print_text("\nSuggested settings:", style="bold")
    for table, group in groupby(suggested, key=lambda each: each.table):
        print_text(f"\n[{table}]" if table else "\n# options of icl-loop run")
        for each in group:
            print_text(f"# {each.reason}")
            print_text(each.line if table else f"# {each.line}")


def print_measured(plan: MeasuredPlan, experiment: Experiment) -> None:
    """Print what a run would cost by measured usage."""
    out.print()
    out.print(_cost_table(plan))
    measured = sum(each.requests for each in plan.arms)
    print_text(
        f"Extrapolated from {measured} requests to {plan.cost.requests:,}"
        f" ({experiment.count() // len(experiment.arms)} sessions of {experiment.turns} turns per"
        " arm): prompts grow as `plan` expects, times the measured tokens per counted"
        " token; replies are as long as the measured ones."
    )
    if plan.seconds_alone:
        print_text(
            f"Time: {duration(plan.seconds)} with {plan.concurrency} sessions at a time if the"
            f" endpoint is as quick then, {duration(plan.seconds_alone)} with one. Longer prompts"
            " take longer than those measured, unless they are cached."
        )


def _cost_table(plan: MeasuredPlan) -> Table:
    table = table_of(
        "What the full run would take, by measured usage",
        plan.arms,
        {"arm": lambda row: row.arm},
        {
            "requests": lambda row: f"{row.cost.requests:,}",
            "tokens in": lambda row: f"{row.cost.prompt:,}",
            "cached at most": lambda row: f"{row.cost.cached:,}",
            "out": lambda row: f"{row.cost.completion:,}",
            "$": lambda row: dollars(row.cost.usd_cached),
            "reported / counted": lambda row: f"{row.ratio:.2f}",
            "out per reply": lambda row: f"{row.completion:,.0f}",
            "s per reply": lambda row: f"{row.latency_s:.2f}",
        },
    )
    if len(plan.arms) > 1:
        cost = plan.cost
        table.rows[-1].end_section = True
        table.add_row(
            "total",
            f"{cost.requests:,}",
            f"{cost.prompt:,}",
            f"{cost.cached:,}",
            f"{cost.completion:,}",
            dollars(cost.usd_cached),
        )
    return table
