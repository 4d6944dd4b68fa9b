"""Published results beside those of the arms that mirror their conditions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from icl_loop.analysis.curves import ArmSummary
from icl_loop.transcripts.header import PublishedIdentity


@dataclass(frozen=True, slots=True)
class Comparison:
    """A published result, and that of the arm that mirrors its condition.

    Attributes:
        summary: The accuracy of the arm.
        published: The published condition and its accuracy.
        setup: Model, data set, number of turns and measure of the arm.
    """

    summary: ArmSummary
    published: PublishedIdentity
    setup: str

    @property
    def experiment(self) -> str:
        """The experiment of the arm."""
        return self.summary.experiment

    @property
    def arm(self) -> str:
        """The name of the arm."""
        return self.summary.arm

    def fields(self) -> dict[str, Any]:
        """Return the published result and both setups, as JSON has them; that of the arm is in its summary."""
        return {**self.published.model_dump(), "measured": self.setup}


def published_results(
    summaries: Sequence[ArmSummary], sessions: pl.DataFrame, turns: pl.DataFrame
) -> list[Comparison]:
    """Return the arms that state a published result, beside it, in order.

    Args:
        summaries: The accuracy of the arms.
        sessions: The settings of the sessions, as `analysis.sessions` returns them.
        turns: The turns, as `analysis.frame` returns them.
    """
    found = []
    for summary in summaries:
        is_arm = (pl.col("experiment") == summary.experiment) & (pl.col("arm") == summary.arm)
        mine = sessions.filter(is_arm)
        stated = mine["published"].drop_nulls()
        if stated.is_empty():
            continue
        planned = turns.filter(is_arm).select(pl.col("turns").max()).item()
        data = ", ".join(sorted(mine["dataset"].drop_nulls().unique()))
        setup = (
            f"{summary.model or 'an unknown model'} on {data or 'unknown data'}, {planned} turns (late: their"
            f" second half), {summary.sessions} session{'s' * (summary.sessions != 1)}"
        )
        result = PublishedIdentity.model_validate_json(stated[0])
        found.append(Comparison(summary, result, setup))
    return found
