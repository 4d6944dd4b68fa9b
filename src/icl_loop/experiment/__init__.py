"""Experiments: read from a TOML file and validated completely before the first request."""

from icl_loop.experiment.experiment import Experiment
from icl_loop.experiment.experiment_file import load, parse
from icl_loop.experiment.feedback_settings import FeedbackSettings
from icl_loop.experiment.run_settings import LimitSettings, PriceSettings
from icl_loop.experiment.sessions import Donor, Session
from icl_loop.experiment.settings import ModelSettings, Settings

__all__ = [
    "Donor",
    "Experiment",
    "FeedbackSettings",
    "LimitSettings",
    "ModelSettings",
    "PriceSettings",
    "Session",
    "Settings",
    "load",
    "parse",
]
