"""Simulated models: models with known behaviour, for testing the apparatus."""

from icl_loop.models.simulated.faulty import BadFormat, Refuser
from icl_loop.models.simulated.guessing import Chance, Constant
from icl_loop.models.simulated.heuristics import LabelCounter, WinStayLoseShift
from icl_loop.models.simulated.informed import Oracle, ScheduledAccuracy
from icl_loop.models.simulated.simulated_model import SimulatedModel

__all__ = [
    "BadFormat",
    "Chance",
    "Constant",
    "LabelCounter",
    "Oracle",
    "Refuser",
    "ScheduledAccuracy",
    "SimulatedModel",
    "WinStayLoseShift",
]
