"""The command that compares the arms of saved sessions."""

import asyncio
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.progress import track

from icl_loop.analysis import (
    as_json,
    checkpoint_fields,
    checkpoints,
    conclude_each,
    frame,
    joined,
    metrics_fields,
    probes,
    sessions,
    summarise,
    warnings,
)
from icl_loop.analysis.baseline import baseline_frame, compare_with_baseline
from icl_loop.analysis.spending import spending
from icl_loop.cli.options import SavedPaths, pair_of_arms
from icl_loop.core.errors import InputError
from icl_loop.experiment import PriceSettings
from icl_loop.terminal.console import err, print_json
from icl_loop.terminal.run_summary import measured_arms, print_summary
from icl_loop.transcripts.loading import SavedSessions


def analyze(
    paths: SavedPaths,
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST,SECOND",
            help="Arms of the primary contrast, if not those that were recorded.",
        ),
    ] = None,
    learner: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="LEARNER",
            help="Also answer in each model's place with a reference learner, such as"
            " reference/nearest, shown exactly what the model was shown.",
        ),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(
            metavar="IN,OUT[,CACHED]",
            help="Dollars for a million tokens, if not the list price of the model.",
        ),
    ] = None,
    as_json_text: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Print accuracy of each arm, the contrasts between them, the ladder of nulls, the verdict."""
    pair = pair_of_arms(primary)
    turns = frame(paths)
    baseline_turns = None if learner is None else _baselines_of(turns, paths, learner)
    shaded = (
        []
        if baseline_turns is None
        else compare_with_baseline(turns, baseline_turns, sessions(paths), str(learner))
    )
    metrics = measured_arms(turns, paths)
    spent = spending(turns, _price(price), paths)
    if not as_json_text:
        print_summary(turns, pair, metrics, shaded, spent, paths)
        return
    summaries = summarise(turns)
    asked = checkpoints(probes(paths))
    concluded = joined(conclude_each(turns, pair, sessions(paths)))
    report = {
        "arms": [
            {
                **as_json(summary),
                "metrics": metrics_fields(measured),
                "spending": took.fields(),
                "baseline": arm_baseline.fields() if arm_baseline else None,
                "probes": [
                    checkpoint_fields(each)
                    for each in asked
                    if (each.experiment, each.arm) == (summary.experiment, summary.arm)
                ],
            }
            for summary, measured, took, arm_baseline in zip(
                summaries, metrics, spent, shaded or repeat(None, len(summaries)), strict=True
            )
        ],
        **concluded,
        "warnings": [*warnings(summaries), *concluded["warnings"]],
    }
    print_json(report)


def _baselines_of(turns: pl.DataFrame, paths: Iterable[Path], learner: str) -> pl.DataFrame:
    """Return the baseline of every turn, saying how far it is on a terminal."""
    archive, played = SavedSessions.at(paths), turns["path"].unique(maintain_order=True).to_list()
    watched = track(
        played, "the baseline", console=err, transient=True, disable=not err.is_terminal
    )
    frames = [asyncio.run(baseline_frame(archive.read(path), learner)) for path in watched]
    return pl.concat(frames)


def _price(text: str | None) -> PriceSettings | None:
    if text is None:
        return None
    try:
        prompt, reply, *cached = map(float, text.split(","))
        return PriceSettings(input=prompt, output=reply, cached=cached[0] if cached else None)
    except ValueError:
        raise InputError(
            f"--price takes dollars for a million tokens such as 2.5,10 or 2.5,10,0.25, got {text!r}"
        ) from None
