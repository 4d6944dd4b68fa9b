"""The command that says beforehand what an experiment takes and can show."""

import asyncio
from typing import Annotated

import typer

from icl_loop import planning
from icl_loop.cli.options import Changes, Concurrency, ExperimentFile, Streams, Turns, laid_over
from icl_loop.experiment import load
from icl_loop.runner.run import DEFAULT_CONCURRENCY
from icl_loop.terminal import plan_tables
from icl_loop.terminal.console import err, out, print_json
from icl_loop.terminal.formatting import printable
from icl_loop.terminal.work_progress import Waiting, checking


def plan(
    experiment: ExperimentFile,
    changes: Changes = None,
    streams: Streams = None,
    turns: Turns = None,
    latency: Annotated[float, typer.Option(min=0, help="Seconds that a request lasts.")] = 1.0,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    reply_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens of a reply, where it says more than its final line.")
    ] = 0,
    advice: Annotated[
        bool,
        typer.Option(help="Try changes if the design cannot show learning; takes longer."),
    ] = True,
    as_json_text: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say what an experiment takes and what it can show, before anything is asked or spent."""
    made = load(experiment, laid_over(changes, streams, turns))
    with checking(made) as waiting:
        made.check(waiting.step)
    with Waiting(err, "planning: {:,} turns played on trial") as waiting:
        planned = asyncio.run(
            planning.plan(
                made,
                latency_s=latency,
                concurrency=concurrency,
                reply_tokens=reply_tokens,
                advised=advice,
                checked=True,
                on_turn=waiting.step,
            )
        )
    if as_json_text:
        print_json(planning.as_json(planned))
        return
    out.print(plan_tables.expense_table(planned))
    out.print(plan_tables.exposure_table(planned))
    for sentence in plan_tables.sentences(planned):
        out.print(printable(sentence), highlight=False, markup=False)
