"""Reference learners: ordinary algorithms that read exactly the messages a model reads."""

from icl_loop.models.reference.algorithms import (
    KernelRidge,
    LabelPropagation,
    NearestMean,
    NearestNeighbour,
)

__all__ = ["KernelRidge", "LabelPropagation", "NearestMean", "NearestNeighbour"]
