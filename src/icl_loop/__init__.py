"""Does a language model learn, inside one conversation, from being told "right" or "wrong"?

`icl_loop` launches, replays and plots the learning curves that answer this. The weights of the
model never change: whatever it learns, it learns from its context window.
"""

from icl_loop.analysis import frame, tabulate
from icl_loop.context.policy import ContextPolicy
from icl_loop.context.policy_parser import context_policy
from icl_loop.context.window import Window
from icl_loop.core.errors import IclLoopError, InputError, StoppedShort
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
    "Reply",
    "Run",
    "Session",
    "StoppedShort",
    "Turn",
    "Window",
    "context_policy",
    "frame",
    "load",
    "open_dataset",
    "open_model",
    "parse",
    "play",
    "read",
    "tabulate",
    "verify",
]
