"""Experiments: read from a TOML file and validated completely before the first request."""

from icl_loop.experiment.donors import DonorNotFound, DonorUnfinished, find_donor, read_donor
from icl_loop.experiment.experiment import Experiment
from icl_loop.experiment.experiment_file import check_arm_name, load, override_table, parse
from icl_loop.experiment.overrides import answer_settings, branch_settings
from icl_loop.experiment.sessions import Branch, Donor, Session
from icl_loop.experiment.settings import (
    AnalysisSettings,
    AnswerSettings,
    FeedbackSettings,
    LimitSettings,
    ModelSettings,
    PriceSettings,
    Settings,
)

__all__ = [
    "AnalysisSettings",
    "AnswerSettings",
    "Branch",
    "Donor",
    "DonorNotFound",
    "DonorUnfinished",
    "Experiment",
    "FeedbackSettings",
    "LimitSettings",
    "ModelSettings",
    "PriceSettings",
    "Session",
    "Settings",
    "answer_settings",
    "branch_settings",
    "check_arm_name",
    "find_donor",
    "load",
    "override_table",
    "parse",
    "read_donor",
]
