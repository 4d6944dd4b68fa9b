"""Simulated models: models with known behaviour, for testing the apparatus."""

from icl_loop.models.simulated.faulty import BadFormat, Refuser
from icl_loop.models.simulated.heuristics import (
    Chance,
    Constant,
    LabelCounter,
    WinStayLoseShift,
)
from icl_loop.models.simulated.informed import Oracle, ScheduledAccuracy

__all__ = [
    "BadFormat",
    "Chance",
    "Constant",
    "LabelCounter",
    "Oracle",
    "Refuser",
    "ScheduledAccuracy",
    "WinStayLoseShift",
]
