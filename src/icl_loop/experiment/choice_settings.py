"""The settings of samples that are chosen among several before they are asked about."""

from typing import Annotated, get_args

from pydantic import BaseModel, Field

from icl_loop.experiment.validation import STRICT, one_of
from icl_loop.tasks.task import Chooser


class ChoiceSettings(BaseModel):
    """Which turns ask about a chosen sample, among how many, and who chooses it."""

    model_config = STRICT

    every: int = Field(default=2, ge=2)
    """Every how many turns the sample is chosen; the others are fixed, and only they are counted."""
    among: int = Field(default=4, ge=2, le=20)
    """Number of samples among which one is chosen; the others are not used."""
    by: Annotated[Chooser, one_of(get_args(Chooser))] = "model"
    """Who chooses: the model, in a request before the turn, or random as its control."""

    def turns(self, total: int) -> range:
        """Return the turns of a session of `total` turns whose samples are chosen."""
        return range(self.every - 1, total, self.every)
