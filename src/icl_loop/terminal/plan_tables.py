"""The tables and sentences of a plan."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from icl_loop.planning import ArmPlan, CostEstimate, Detectability, Plan
from icl_loop.terminal.formatting import (
    UNKNOWN,
    dollars,
    duration,
    new_table,
    printable,
    whole_percent,
)


def cost_table(plan: Plan) -> Table:
    """Return the table of estimated usage, cost and time, per arm and in total."""
    table = new_table(
        "Estimated usage, cost and time",
        ["arm"],
        ("requests", "tokens in", "cached", "%", "out", "$", "$ cached", "time"),
    )
    for arm in plan.arms:
        table.add_row(Text(printable(arm.arm)), *_cost_cells(arm.cost), duration(arm.seconds))
    if len(plan.arms) > 1:
        table.add_section()
        table.add_row("total", *_cost_cells(plan.cost), duration(plan.seconds))
    return table


def _cost_cells(cost: CostEstimate) -> Iterator[str]:
    yield f"{cost.requests:,}"
    yield f"{cost.prompt:,}"
    yield f"{cost.cached:,}"
    yield whole_percent(cost.cached / cost.prompt if cost.prompt else None)
    yield f"{cost.completion:,}"
    yield dollars(cost.usd)
    yield dollars(cost.usd_cached)


def context_table(plan: Plan) -> Table:
    """Return the table of context use, and of the accuracy of reference learners on it."""
    learners = [curve.reference.removeprefix("reference/") for curve in plan.arms[0].curves]
    table = new_table(
        "Context and accuracy of reference learners (early → late, in %)",
        ["arm"],
        ("tokens per sample", "samples that fit", "shown", "turns", *learners),
    )
    for arm in plan.arms:
        table.add_row(Text(printable(arm.arm)), *_context_cells(arm))
    return table


def _context_cells(arm: ArmPlan) -> Iterator[str]:
    used = arm.context_use
    yield f"{used.sample_tokens:.0f}"
    yield f"{used.fits:,}"
    yield f"{used.most_shown:,}"
    yield f"{used.turns:,}"
    for curve in arm.curves:
        yield f"{whole_percent(curve.early)} → {whole_percent(curve.late)}"


def plan_sentences(plan: Plan) -> Iterator[str]:
    """Yield the assumptions, the detectable difference, the verdict and the advice."""
    yield from _assumptions(plan)
    if plan.detectability is not None:
        yield from _detectability(plan.detectability)
    for control in plan.controls:
        yield (
            f"{control.first!r} must also beat {control.second!r} to count as learning: the best"
            f" reference learner's difference is {_points(control.difference)}, detected with"
            f" {whole_percent(control.reference_power)}% power."
        )
    yield plan.verdict
    if plan.can_show is False:
        yield from _advice(plan)
        yield "Reference learners know only the context; a model may know more."


def _assumptions(plan: Plan) -> Iterator[str]:
    if plan.tried < plan.streams:
        yield f"Usage is scaled up from {plan.tried} of {plan.streams} streams."
    if not plan.reply_tokens and any(arm.seconds for arm in plan.arms):
        yield (
            "Replies are assumed to be just the answer line. A model that thinks aloud uses more"
            " tokens and fills the window sooner (--reply-tokens)."
        )
    for model in dict.fromkeys(arm.model for arm in plan.arms if arm.cost.usd is None):
        yield f"The price of model {model!r} is unknown; set it in a [price] table."


def _detectability(found: Detectability) -> Iterator[str]:
    arms = f"{found.first!r} and {found.second!r}"
    if not found.named:
        yield f"The file names no primary contrast; this plan uses {arms}."
    test = "exact sign-flip test" if found.test == "sign-flip" else "t test"
    if found.detectable is not None:
        alone = "" if found.test == "t" else f" (t test alone: {_points(found.detectable_t)})"
        yield (
            f"{found.streams} streams of {found.turns} turns detect a late difference of"
            f" {_points(found.detectable)} between {arms} with 80% power ({test}){alone}."
        )
    if found.effect is not None:
        yield (
            f"The expected effect of {_points(found.effect)} is detected with"
            f" {whole_percent(found.effect_power)}% power ({test})."
        )


def _points(difference: float | None) -> str:
    return UNKNOWN if difference is None else f"{100 * difference:z.1f} points"


def _advice(plan: Plan) -> Iterator[str]:
    advice = plan.advice
    if advice is not None:
        more = advice.streams > plan.streams and not advice.change.startswith("streams")
        also = f", with {advice.streams} streams" if more else ""
        yield (
            f"The change that helps most: {advice.change}{also}. The best reference learner's"
            f" difference is then {_points(advice.difference)}, detected with"
            f" {whole_percent(advice.power)}% power."
        )
    elif plan.advised:
        yield "No single change that was tried would help."
