"""The tables and sentences of a plan."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from rich.table import Table

from icl_loop.planning import ArmPlan, Detectability, JointPower, Plan
from icl_loop.terminal.formatting import dollars, duration, number, table_of, whole_percent


def cost_table(plan: Plan) -> Table:
    """Return the table of estimated usage, cost and time, per arm and in total."""
    total = replace(plan.arms[0], arm="total", cost=plan.cost, seconds=plan.seconds)
    several = len(plan.arms) > 1
    table = table_of(
        "Estimated usage, cost and time",
        [*plan.arms, total] if several else plan.arms,
        {"arm": lambda row: row.arm},
        {
            "requests": lambda row: f"{row.cost.requests:,}",
            "tokens in": lambda row: f"{row.cost.prompt:,}",
            "cached": lambda row: f"{row.cost.cached:,}",
            "%": lambda row: whole_percent(
                row.cost.cached / row.cost.prompt if row.cost.prompt else None
            ),
            "out": lambda row: f"{row.cost.completion:,}",
            "$": lambda row: dollars(row.cost.usd),
            "$ cached": lambda row: dollars(row.cost.usd_cached),
            "time": lambda row: duration(row.seconds),
        },
    )
    if several:
        table.rows[-2].end_section = True
    return table


def context_table(plan: Plan) -> Table:
    """Return the table of context use, and of the accuracy of reference learners on it."""
    columns: dict[str, Callable[[ArmPlan], str]] = {
        "tokens per sample": lambda row: f"{row.context_use.sample_tokens:.0f}",
        "samples that fit": lambda row: f"{row.context_use.fits:,}",
        "shown": lambda row: f"{row.context_use.most_shown:,}",
        "turns": lambda row: f"{row.context_use.turns:,}",
    }
    for at, curve in enumerate(plan.arms[0].curves):
        columns[curve.reference.removeprefix("reference/")] = _early_and_late(at)
    title = "Context and accuracy of reference learners (early → late, in %)"
    return table_of(title, plan.arms, {"arm": lambda row: row.arm}, columns)


def _early_and_late(at: int) -> Callable[[ArmPlan], str]:
    return lambda row: " → ".join(map(whole_percent, (row.curves[at].early, row.curves[at].late)))


def plan_sentences(plan: Plan) -> Iterator[str]:
    """Yield the assumptions, the detectable difference, the verdict and the advice."""
    if plan.tried < plan.streams:
        yield f"Usage is scaled up from {plan.tried} of {plan.streams} streams."
    if any(arm.seconds for arm in plan.arms):
        yield (
            f"Times assume {plan.latency_s:g} s per request (--latency) and {plan.concurrency} sessions at a"
            " time (--concurrency); `icl-loop try` measures how long requests take."
        )
    if not plan.reply_tokens and any(arm.seconds for arm in plan.arms):
        yield (
            "Replies are assumed to be just the answer line. A model that thinks aloud uses more"
            " tokens and fills the window sooner (--reply-tokens)."
        )
    for model in dict.fromkeys(arm.model for arm in plan.arms if arm.cost.usd is None):
        yield f"The price of model {model!r} is unknown; set it in a [price] table."
    if plan.detectability is not None:
        yield from _detectability(plan.detectability)
    yield from _controls(plan)
    if plan.least_p is not None and len(plan.arms) > 1:
        yield (
            f"The smallest p that {plan.streams} streams can give is {plan.least_p:.3g}, for any number"
            " of contrasts."
        )
    yield plan.verdict
    if plan.can_show is False:
        yield from _advice(plan)
        yield "Reference learners know only the context; a model may know more."


def _detectability(found: Detectability) -> Iterator[str]:
    arms = f"{found.first!r} and {found.second!r}"
    if not found.named:
        yield f"The file names no primary contrast; this plan uses {arms}."
    test = "exact sign-flip test" if found.test == "sign-flip" else "t test"
    if found.detectable is not None:
        yield (
            f"{found.streams} streams of {found.turns} turns detect a late difference of"
            f" {_points(found.detectable)} between {arms} with 80% power ({test})."
        )
    if found.effect is not None:
        yield (
            f"The expected effect of {_points(found.effect)} is detected with"
            f" {number(found.effect_power, '.0%')} power ({test})."
        )


def _controls(plan: Plan) -> Iterator[str]:
    for control in plan.controls:
        yield (
            f"{control.first!r} must also beat {control.second!r} to count as learning: the best"
            f" reference learner's difference is {_points(control.difference)}, detected with"
            f" {number(control.reference_power, '.0%')} power."
        )
    if plan.joint is not None:
        yield _joint_power(plan.joint)
    if plan.lacking:
        yield plan.lacking


def _joint_power(joint: JointPower) -> str:
    said = (
        f"The {len(joint.contrasts)} contrasts that the verdict needs are all significant at once with"
        f" {joint.power:.0%} power"
    )
    if joint.effect is not None:
        said += f", or {number(joint.effect_power, '.0%')} for {_points(joint.effect)} in each"
    return (
        f"{said} (normal differences with the covariance over {joint.trials} trial streams of"
        f" {joint.reference})."
    )


def _advice(plan: Plan) -> Iterator[str]:
    advice = plan.advice
    if advice is not None:
        more = advice.streams > plan.streams and not advice.change.startswith("streams")
        also = f", with {advice.streams} streams" if more else ""
        yield (
            f"The change that helps most: {advice.change}{also}. The best reference learner's"
            f" difference is then {_points(advice.difference)}, detected with"
            f" {number(advice.power, '.0%')} power."
        )
    elif plan.advised:
        yield "No single change that was tried would help."


def _points(difference: float | None) -> str:
    return number(difference and 100 * difference, "z.1f") + " points" * (difference is not None)
