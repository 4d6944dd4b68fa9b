"""`icl-loop analyze`: compare the arms of saved sessions."""

from typing import Annotated

from typer import Option

from icl_loop.analysis import frame, sessions
from icl_loop.analysis.baseline import LEARNER, ArmBaseline, compare_with_baseline
from icl_loop.cli import options
from icl_loop.core.errors import StoppedShort
from icl_loop.terminal.chart_baseline import chart_baseline
from icl_loop.terminal.console import print_json
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
    if not json:
        print_results(turns, paths, pair, baselines, rates)
        return
    print_json(results_fields(turns, paths, pair, baselines, rates))
