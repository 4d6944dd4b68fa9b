"""A plan on a sheet: its tables and sentences for a terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from icl_loop.planning import ArmPlan, CostEstimate, Detectability, Plan
from icl_loop.terminal.formatting import UNKNOWN, duration, printable


def expense_table(plan: Plan) -> Table:
    """Return the table of what each arm takes, and all of them together."""
    table = _table("what it takes")
    for heading in ("requests", "tokens in", "cached", "%", "out", "$", "$ cached", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in plan.arms:
        table.add_row(Text(printable(arm.arm)), *_expense(arm.expense), duration(arm.seconds))
    if len(plan.arms) > 1:
        table.add_section()
        table.add_row("together", *_expense(plan.expense), duration(plan.seconds))
    return table


def _expense(expense: CostEstimate) -> Iterator[str]:
    for count in (expense.requests, expense.prompt, expense.cached):
        yield f"{count:,}"
    yield f"{100 * expense.cached / expense.prompt:.0f}" if expense.prompt else UNKNOWN
    yield f"{expense.completion:,}"
    for usd in (expense.usd, expense.usd_cached):
        yield UNKNOWN if usd is None else f"{usd:,.2f}"


def exposure_table(plan: Plan) -> Table:
    """Return the table of what each arm shows, and of what reference learners make of it."""
    table = _table("what it shows; accuracy of reference learners in %, early and late")
    names = [curve.reference.removeprefix("reference/") for curve in plan.arms[0].curves]
    for heading in ("tokens a sample", "samples that fit", "shown", "turns", *names):
        table.add_column(heading, justify="right")
    for arm in plan.arms:
        table.add_row(Text(printable(arm.arm)), *_exposure(arm))
    return table


def _exposure(arm: ArmPlan) -> Iterator[str]:
    shown = arm.exposure
    yield f"{shown.sample_tokens:.0f}"
    for count in (shown.fits, shown.most_shown, shown.turns):
        yield f"{count:,}"
    for curve in arm.curves:
        yield f"{_percent(curve.early)} → {_percent(curve.late)}"


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    return table


def _percent(accuracy: float | None) -> str:
    return UNKNOWN if accuracy is None else f"{100 * accuracy:.0f}"


def sentences(plan: Plan) -> Iterator[str]:
    """Yield what the tables do not say: how counts were made, what can be detected, the verdict."""
    yield from _provisos(plan)
    if plan.detectability is not None:
        yield from _detection(plan.detectability)
    for each in plan.controls:
        yield (
            f"To say that {each.first!r} learned needs a difference from {each.second!r} as well:"
            f" the best reference learner's is {_points(each.difference)}, seen with"
            f" {_percent(each.reference_power)} % power."
        )
    yield plan.verdict
    if plan.can_show is False:
        yield from _advice(plan)
        yield "Reference learners know nothing but what is shown; a model may know more."


def _provisos(plan: Plan) -> Iterator[str]:
    if plan.tried < plan.streams:
        yield f"Counted on {plan.tried} of {plan.streams} streams and scaled up."
    if not plan.reply_tokens and any(arm.seconds for arm in plan.arms):
        yield (
            "Replies are taken to be their final line alone, the least that they can be: a model that"
            " thinks aloud takes more tokens and fills the window sooner (--reply-tokens)."
        )
    unpriced = dict.fromkeys(arm.model for arm in plan.arms if arm.expense.usd is None)
    for model in unpriced:
        yield f"No price is known for the model {model!r}: state one in a [price] table."


def _detection(found: Detectability) -> Iterator[str]:
    arms = f"{found.first!r} and {found.second!r}"
    if not found.named:
        yield f"No primary contrast is named in the file; {arms} are taken for it."
    test = "exact sign-flip test" if found.test == "sign-flip" else "t test"
    if found.detectable is not None:
        yield (
            f"{found.streams} streams of {found.turns} turns detect a late-half difference between"
            f" {arms} of {_points(found.detectable)} with 80 % power ({test})"
            + ("." if found.test == "t" else f"; the t test alone {_points(found.detectable_t)}.")
        )
    if found.effect is not None:
        yield (
            f"The power for the named effect of {_points(found.effect)} is"
            f" {_percent(found.effect_power)} % ({test})."
        )


def _points(difference: float | None) -> str:
    return UNKNOWN if difference is None else f"{100 * difference:z.1f} points"


def _advice(plan: Plan) -> Iterator[str]:
    advice = plan.advice
    if advice is None:
        if plan.advised:
            yield "No single change that was tried would help."
        return
    more = advice.streams > plan.streams and not advice.change.startswith("streams")
    besides = f", with {advice.streams} streams" if more else ""
    yield (
        f"What would help most is {advice.change}{besides}: the best reference learner's difference"
        f" is then {_points(advice.difference)}, seen with {_percent(advice.power)} % power."
    )
