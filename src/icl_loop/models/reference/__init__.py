"""Reference learners: ordinary algorithms that read exactly the messages a model reads."""

from icl_loop.models.reference.learner import Evidence, Learner, ScoringLearner
from icl_loop.models.reference.nearest import NearestNeighbour
from icl_loop.models.reference.propagation import LabelPropagation
from icl_loop.models.reference.prototype import NearestMean
from icl_loop.models.reference.ridge import KernelRidge

__all__ = [
    "Evidence",
    "KernelRidge",
    "LabelPropagation",
    "Learner",
    "NearestMean",
    "NearestNeighbour",
    "ScoringLearner",
]
