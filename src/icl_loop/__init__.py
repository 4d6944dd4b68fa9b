"""Does a language model learn inside one long conversation from being told right or wrong?

`icl_loop` launches, replays and plots the learning curves that answer this. The model's weights
never change; whatever is learned is learned from what the context window shows.
"""

from icl_loop.analysis import arm_curves, frame, session_curves, summarise, tabulate
from icl_loop.context import (
    All,
    Block,
    ContextPolicy,
    First,
    Last,
    Nearest,
    Notes,
    OnlyCorrect,
    OnlyIncorrect,
    Past,
    PerClass,
    Policy,
    Reservoir,
    Reset,
    Stateless,
    Stochastic,
    Window,
    Within,
    build_request,
    context_policy,
)
from icl_loop.core.errors import IclLoopError, InputError, StoppedShort
from icl_loop.core.messages import Message, Reply, Usage
from icl_loop.core.records import Feedback, Note, Sample, Turn
from icl_loop.experiment import Experiment, Session, Settings, load, parse
from icl_loop.loop import play, play_events
from icl_loop.models import CallableModel, ChatModel, ReplayModel, ScriptedModel, open_model
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run
from icl_loop.tasks.datasets import Dataset, open_dataset
from icl_loop.tasks.encodings import ENCODINGS, get_encoding
from icl_loop.tasks.prompts import PromptSet, open_prompt_set
from icl_loop.tasks.task import Task
from icl_loop.transcripts import Transcript, TranscriptWriter, read

__all__ = [
    "ENCODINGS",
    "All",
    "Block",
    "CallableModel",
    "ChatModel",
    "ContextPolicy",
    "Dataset",
    "Experiment",
    "Feedback",
    "First",
    "IclLoopError",
    "InputError",
    "Last",
    "Message",
    "Nearest",
    "Note",
    "Notes",
    "OnlyCorrect",
    "OnlyIncorrect",
    "Past",
    "PerClass",
    "Policy",
    "PromptSet",
    "ReplayModel",
    "Reply",
    "Reservoir",
    "Reset",
    "Run",
    "Sample",
    "ScriptedModel",
    "Session",
    "Settings",
    "Stateless",
    "Stochastic",
    "StoppedShort",
    "Task",
    "Transcript",
    "TranscriptWriter",
    "Turn",
    "Usage",
    "Window",
    "Within",
    "arm_curves",
    "build_request",
    "context_policy",
    "frame",
    "get_encoding",
    "load",
    "open_dataset",
    "open_model",
    "open_prompt_set",
    "parse",
    "play",
    "play_events",
    "read",
    "session_curves",
    "summarise",
    "tabulate",
    "verify",
]
