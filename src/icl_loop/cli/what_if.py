"""`icl-loop what-if`: show what other context policies would have sent."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Option

from icl_loop.analysis.baseline import LEARNER
from icl_loop.cli import options
from icl_loop.context.policy import Policy
from icl_loop.context.policy_parser import context_policy
from icl_loop.core.errors import InputError
from icl_loop.replay.policy_summary import (
    PolicySummary,
    RequestContents,
    policy_summaries,
    request_contents,
    turns_of,
)
from icl_loop.replay.what_if import as_played, shown_under
from icl_loop.terminal.console import err, out, print_json, print_text
from icl_loop.terminal.formatting import arm_name, dollars, percent, table_of
from icl_loop.terminal.progress import WorkProgress
from icl_loop.transcripts.loading import SavedSession, saved_sessions


def what_if(
    paths: options.TranscriptsOrExports,
    policy: Annotated[
        list[str], Option(metavar="POLICY", help="Context policy, such as 'last(50)'; repeatable.")
    ],
    file: Annotated[
        Path | None, Option("-o", "--output", help="Also draw a chart: .png, .svg or .html.")
    ] = None,
    learner: Annotated[
        str, Option("--baseline", metavar="LEARNER", help="Reference learner for the accuracy.")
    ] = LEARNER,
    window: options.Window = 20,
    price: options.Price = None,
    json: options.AsJson = False,
) -> None:
    """Show what other context policies would have sent, without calling a model.

    Questions, replies and feedback stay as saved.
    Policies that ask the model for notes are not supported.
    """
    from icl_loop import plots  # noqa: PLC0415  the chart library loads slowly

    if file is not None:
        plots.check_format(file)
        options.check_writable(file)
    rates = options.parse_price(price)
    policies = [context_policy(text) for text in policy]
    requests = asyncio.run(_all_requests(saved_sessions(paths).values(), policies, learner))
    if not requests:
        raise InputError("these sessions have no turns yet")
    rows = policy_summaries(requests, rates)
    if json:
        print_json({"learner": learner, "policy_summaries": [row.fields() for row in rows]})
    else:
        out.print(what_if_table(rows, learner))
    if file is not None:
        plots.save(plots.what_if_chart(turns_of(requests), learner, window), file)
        print_text(f"plot: {file}", err)


async def _all_requests(
    saved: Collection[SavedSession], policies: Sequence[Policy], learner: str
) -> list[RequestContents]:
    """Return the requests of every session that has turns: as played, then under each policy."""
    found = []
    with WorkProgress(err, "computing requests", "sessions", len(saved)) as progress:
        for transcript in (each.read() for each in saved):
            found.append(await request_contents(as_played(transcript), learner, played=True))
            others = [shown_under(transcript, policy) for policy in policies]
            found += [await request_contents(other, learner) for other in others]
            progress.add()
    return [each for each in found if len(each.tokens)]


def what_if_table(rows: Sequence[PolicySummary], learner: str) -> Table:
    """Return the table of requests and baseline accuracy under each context policy."""
    money: dict[str, Callable[[PolicySummary], str]] = {
        "$": lambda row: dollars(row.usd),
        "$ prefix": lambda row: dollars(row.usd_prefix),
    }
    is_priced = any(row.usd is not None for row in rows)
    return table_of(
        "Context policies (same replies and feedback)",
        rows,
        {
            "arm": arm_name(rows),
            "policy": lambda row: f"* {row.policy}" if row.played else row.policy,
        },
        {
            "turns": lambda row: f"{row.turns:.0f}",
            "tokens": lambda row: f"{row.tokens:,.0f}",
            "largest": lambda row: f"{row.largest:,}",
            "prefix": lambda row: f"{row.prefix_share:.0%}",
            **(money if is_priced else {}),
            "shown": lambda row: f"{row.exposure:.1f}",
            "classes": lambda row: f"{row.classes:.1f}",
            "told": lambda row: f"{row.told_classes:.1f}",
            "baseline": lambda row: percent(row.baseline_late),
        },
        gap=0,
        caption="*: as played. turns: until the window is full. tokens: per request. prefix: share that"
        " a prompt cache could serve."
        + " $: cost of a session, without a cache and with all of the prefix cached."
        * is_priced
        + " shown: past turns per request. classes, told: classes among"
        f" them, and classes whose label was told. baseline: late accuracy of {learner} in %, with"
        " its 95% interval.\n",
    )
