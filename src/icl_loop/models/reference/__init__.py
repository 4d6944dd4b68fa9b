"""Reference learners: ordinary algorithms that see exactly the messages that a model sees."""

from icl_loop.models.conversation_parser import known_label
from icl_loop.models.reference.learner import Evidence, Learner, Scorer, weighed
from icl_loop.models.reference.nearest import NearestNeighbour
from icl_loop.models.reference.propagation import Propagation
from icl_loop.models.reference.prototype import Prototype
from icl_loop.models.reference.ridge import KernelRidge

__all__ = [
    "Evidence",
    "KernelRidge",
    "Learner",
    "NearestNeighbour",
    "Propagation",
    "Prototype",
    "Scorer",
    "known_label",
    "weighed",
]
