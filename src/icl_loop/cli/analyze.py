"""`icl-loop analyze`: compare the arms of saved sessions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import polars as pl
from rich.text import Text
from typer import Option

from icl_loop.analysis import frame, sessions, summarise
from icl_loop.analysis.baseline import LEARNER, ArmBaseline, compare_with_baseline
from icl_loop.analysis.published import published_results
from icl_loop.cli import options
from icl_loop.core.errors import InputError, StoppedShort
from icl_loop.terminal.chart_baseline import chart_baseline
from icl_loop.terminal.console import out, print_json
from icl_loop.terminal.published_table import published_parts
from icl_loop.terminal.results_json import results_fields
from icl_loop.terminal.results_tables import print_results


def analyze(
    paths: options.TranscriptsOrExports,
    primary: options.Primary = None,
    learner: Annotated[
        str | None,
        Option(
            "--baseline",
            metavar="LEARNER",
            help=f"Compare with a learner that sees exactly what the model saw, such as {LEARNER}.",
        ),
    ] = None,
    published: Annotated[
        bool,
        Option(
            "--published", help="Print only the published results that arms mirror, beside theirs."
        ),
    ] = False,
    price: options.Price = None,
    json: options.AsJson = False,
) -> None:
    """Print accuracy, contrasts between arms, simpler explanations, usage, and the verdict."""
    pair, rates = options.pair_of_arms(primary), options.parse_price(price)
    turns = frame(paths)
    baselines: list[ArmBaseline] = []
    if learner is not None:
        found = chart_baseline(turns, learner, paths=paths, required=True)
        if found.turns is None or found.note:
            raise StoppedShort(found.note)
        baselines = compare_with_baseline(turns, found.turns, sessions(paths), learner)
    if published and not json:
        _print_published(turns, paths)
        return
    if not json:
        print_results(turns, paths, pair, baselines, rates)
        return
    print_json(results_fields(turns, paths, pair, baselines, rates))


def _print_published(turns: pl.DataFrame, paths: Sequence[Path]) -> None:
    """Print the published results that arms mirror, beside those of the arms.

    Raises:
        InputError: No arm states any.
    """
    compared = published_results(summarise(turns), sessions(paths), turns)
    if not compared:
        raise InputError(
            "--published: no arm of these sessions states a published result; an experiment file does"
            ' so with arms.published = { condition = "...", setup = "...", source = "...", accuracy = 0.5 }'
        )
    for part in published_parts(compared):
        out.print(part, soft_wrap=isinstance(part, Text))
