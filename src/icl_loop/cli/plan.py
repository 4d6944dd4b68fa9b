"""`icl-loop plan`: estimate what a run costs and what it can show."""

import asyncio
from typing import Annotated

from typer import Option

from icl_loop import planning
from icl_loop.cli import options
from icl_loop.core.names import printable
from icl_loop.runner import discovery
from icl_loop.runner.run import DEFAULT_CONCURRENCY
from icl_loop.terminal.console import err, out, print_json, print_text
from icl_loop.terminal.plan_tables import context_table, cost_table, plan_sentences
from icl_loop.terminal.progress import WorkProgress


def plan(
    experiment: options.ExperimentFile,
    overrides: options.Overrides = None,
    streams: options.Streams = None,
    turns: options.Turns = None,
    repeats: options.Repeats = None,
    latency: Annotated[float, Option(min=0, help="Assumed seconds per request.")] = 1.0,
    concurrency: options.Concurrency = DEFAULT_CONCURRENCY,
    reply_tokens: Annotated[
        int, Option(min=0, help="Assumed tokens per reply, if more than its answer line.")
    ] = 0,
    advice: Annotated[
        bool, Option(help="If the design cannot show learning, look for a change that helps.")
    ] = True,
    json: options.AsJson = False,
) -> None:
    """Estimate tokens, cost, time and statistical power, without calling a model."""
    loaded, remarks = asyncio.run(
        discovery.planned(options.load_experiment(experiment, overrides, streams, turns, repeats))
    )
    for remark in remarks:
        print_text(f"note: {remark}", err)
    with WorkProgress(err, "checking", "sessions", loaded.count()) as progress:
        loaded.check(progress.add)
    with WorkProgress(err, "planning", "trial turns") as progress:
        planned = asyncio.run(
            planning.plan(
                loaded,
                latency_s=latency,
                concurrency=concurrency,
                reply_tokens=reply_tokens,
                advised=advice,
                checked=True,
                on_turn=progress.add,
            )
        )
    if json:
        print_json(planning.as_json(planned))
        return
    out.print(cost_table(planned))
    out.print(context_table(planned))
    for sentence in plan_sentences(planned):
        out.print(printable(sentence), highlight=False, markup=False)
