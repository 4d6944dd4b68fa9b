"""Experiments: one TOML file of arms and streams, checked whole before the first request."""

from icl_loop.experiment.donors import (
    DonorNotFound,
    DonorUnfinished,
    donor_key,
    find_donor,
    read_donor,
)
from icl_loop.experiment.experiment import Experiment
from icl_loop.experiment.experiment_file import check_arm_name, load, parse, run_table
from icl_loop.experiment.recorded_settings import answering, branched
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
    "answering",
    "branched",
    "check_arm_name",
    "donor_key",
    "find_donor",
    "load",
    "parse",
    "read_donor",
    "run_table",
]
