"""Does a language model learn, inside one conversation, from being told "right" or "wrong"?

`icl_loop` launches, replays and plots the learning curves that answer this. The weights of the
model never change: whatever it learns, it learns from its context window.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icl_loop.analysis import frame, tabulate
    from icl_loop.api import SavedRun, Verdict, load_run, run, run_async
    from icl_loop.context.history import Past
    from icl_loop.context.policy import ContextPolicy
    from icl_loop.context.policy_parser import context_policy
    from icl_loop.context.window import Window
    from icl_loop.core.errors import IclLoopError, InputError, ModelUnavailable, StoppedShort
    from icl_loop.core.messages import Message, Reply
    from icl_loop.core.records import Turn
    from icl_loop.experiment import Experiment, Session, load, parse
    from icl_loop.loop import play
    from icl_loop.models import CallableModel, ChatModel, open_model
    from icl_loop.replay.verification import verify
    from icl_loop.runner.run import Run
    from icl_loop.tasks.datasets import open_dataset
    from icl_loop.transcripts import read
__all__ = [
    "CallableModel",
    "ChatModel",
    "ContextPolicy",
    "Experiment",
    "IclLoopError",
    "InputError",
    "Message",
    "ModelUnavailable",
    "Past",
    "Reply",
    "Run",
    "SavedRun",
    "Session",
    "StoppedShort",
    "Turn",
    "Verdict",
    "Window",
    "context_policy",
    "frame",
    "load",
    "load_run",
    "open_dataset",
    "open_model",
    "parse",
    "play",
    "read",
    "run",
    "run_async",
    "tabulate",
    "verify",
]

_MODULES = {
    "CallableModel": "icl_loop.models",
    "ChatModel": "icl_loop.models",
    "ContextPolicy": "icl_loop.context.policy",
    "Experiment": "icl_loop.experiment",
    "IclLoopError": "icl_loop.core.errors",
    "InputError": "icl_loop.core.errors",
    "Message": "icl_loop.core.messages",
    "ModelUnavailable": "icl_loop.core.errors",
    "Past": "icl_loop.context.history",
    "Reply": "icl_loop.core.messages",
    "Run": "icl_loop.runner.run",
    "SavedRun": "icl_loop.api",
    "Session": "icl_loop.experiment",
    "StoppedShort": "icl_loop.core.errors",
    "Turn": "icl_loop.core.records",
    "Verdict": "icl_loop.api",
    "Window": "icl_loop.context.window",
    "context_policy": "icl_loop.context.policy_parser",
    "frame": "icl_loop.analysis",
    "load": "icl_loop.experiment",
    "load_run": "icl_loop.api",
    "open_dataset": "icl_loop.tasks.datasets",
    "open_model": "icl_loop.models",
    "parse": "icl_loop.experiment",
    "play": "icl_loop.loop",
    "read": "icl_loop.transcripts",
    "run": "icl_loop.api",
    "run_async": "icl_loop.api",
    "tabulate": "icl_loop.analysis",
    "verify": "icl_loop.replay.verification",
}
"""Where each public name is defined; imported at its first use, because polars and scipy load slowly."""


def __getattr__(name: str) -> object:
    """Import a public name."""
    if name == "__version__":
        return import_module("importlib.metadata").version("icl-loop")
    if name not in _MODULES:
        raise AttributeError(f"module 'icl_loop' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*__all__, "__version__"])
