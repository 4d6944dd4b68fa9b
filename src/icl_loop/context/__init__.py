"""Context policies: which past turns the next request shows, within the tokens of a window."""

from icl_loop.context.history import History, Past, build_request
from icl_loop.context.message_parser import MessageParser
from icl_loop.context.notes import Notes, notes_policy, truncate
from icl_loop.context.policies import (
    All,
    Block,
    First,
    Last,
    Nearest,
    OnlyCorrect,
    OnlyIncorrect,
    PerClass,
    Reservoir,
    Reset,
    Stateless,
    Stochastic,
    Within,
    compares_images,
)
from icl_loop.context.policy import Chain, ContextPolicy, Policy, choose_turns
from icl_loop.context.policy_parser import POLICIES, context_policy
from icl_loop.context.token_budget import Calibration, TokenBudget
from icl_loop.context.window import Shown, Window, from_spans, to_spans

__all__ = [
    "POLICIES",
    "All",
    "Block",
    "Calibration",
    "Chain",
    "ContextPolicy",
    "First",
    "History",
    "Last",
    "MessageParser",
    "Nearest",
    "Notes",
    "OnlyCorrect",
    "OnlyIncorrect",
    "Past",
    "PerClass",
    "Policy",
    "Reservoir",
    "Reset",
    "Shown",
    "Stateless",
    "Stochastic",
    "TokenBudget",
    "Window",
    "Within",
    "build_request",
    "choose_turns",
    "compares_images",
    "context_policy",
    "from_spans",
    "notes_policy",
    "to_spans",
    "truncate",
]
