"""Participants: simulated models of known behaviour, for testing the apparatus."""

from icl_loop.models.participants.faulty import FormatBreaker, Refuser
from icl_loop.models.participants.guessing import Chance, Constant
from icl_loop.models.participants.habits import LabelCounter, WinStayLoseShift
from icl_loop.models.participants.knowing import Decreed, Perfect
from icl_loop.models.participants.participant import Participant

__all__ = [
    "Chance",
    "Constant",
    "Decreed",
    "FormatBreaker",
    "LabelCounter",
    "Participant",
    "Perfect",
    "Refuser",
    "WinStayLoseShift",
]
