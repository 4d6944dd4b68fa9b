"""The settings of a temperature that changes from turn to turn."""

from typing import Annotated

from pydantic import BaseModel, Field

from icl_loop.experiment.validation import STRICT


class AnnealingSettings(BaseModel):
    """A temperature that falls or rises evenly over a number of turns and then stays."""

    model_config = STRICT

    start: float = Field(ge=0, le=2)
    """Temperature of the first turn."""
    end: float = Field(ge=0, le=2)
    """Temperature from the last of these turns on."""
    turns: Annotated[int, Field(ge=1)]
    """Number of turns from the one to the other."""

    def temperature(self, turn: int) -> float:
        """Return the temperature after this number of turns, to 4 digits."""
        share = min(1.0, turn / self.turns)
        return round(self.start + (self.end - self.start) * share, 4)
