"""The order in which a session asks about the samples of its stream."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.records import Sample, keyed_order
from icl_loop.experiment.settings import TaskSettings
from icl_loop.models.features import sample_features, standardised
from icl_loop.models.reference.algorithms import NearestMean
from icl_loop.tasks.datasets import Dataset
from icl_loop.tasks.encodings import Encoding, get_encoding, prepare_sample

MAX_COMPARED = 1_000
"""The margin of a sample is measured with at most this many other samples of the stream."""


def ordered(
    stream: Sequence[int], dataset: Dataset, task: TaskSettings, key: tuple[int, int]
) -> list[int]:
    """Return the samples of a stream in the order that `task.order` names.

    Args:
        stream: Indices of the samples in random order.
        dataset: The data set.
        task: Names the order, and the encoding and size in which samples are compared.
        key: Seed and stream, which determine the order of the classes.
    """
    if task.order == "random":
        return list(stream)
    if task.order in ("easy_first", "hard_first"):
        samples = [dataset[index] for index in stream]
        sign = -1 if task.order == "easy_first" else 1
        places = np.argsort(
            sign * margins(samples, get_encoding(task.encoding), task.size), kind="stable"
        )
        return [stream[place] for place in places]
    ranks = keyed_order(len(dataset.labels), key[0], "class order", key[1]).argsort()
    seen = dict.fromkeys(range(len(dataset.labels)), 0)
    places_in_class = []
    for index in stream:
        number = int(dataset.classes[index])
        places_in_class.append((seen[number], int(ranks[number])))
        seen[number] += 1
    by_class = task.order == "blocked"
    order = sorted(
        range(len(stream)),
        key=lambda at: places_in_class[at][::-1] if by_class else places_in_class[at],
    )
    return [stream[place] for place in order]


def margins(samples: Sequence[Sample], encoding: Encoding, size: int) -> NDArray[np.float64]:
    """Return how clearly the nearest mean of the other samples classifies each sample.

    It is the score of the right label minus the highest score of another one, so it is negative if
    the answer is wrong. The samples are compared as a reference learner compares them.
    """
    features = [
        sample_features("", prepare_sample(sample, encoding, size)).features for sample in samples
    ]
    if encoding.modality == "table":
        features = standardised(features)
    vectors, learner = np.stack(features).astype(np.float64), NearestMean()
    labels, classes = np.unique([sample.label for sample in samples], return_inverse=True)
    known = np.eye(len(labels), dtype=np.bool_)[classes]
    compared = np.arange(min(len(samples), MAX_COMPARED))
    found = np.zeros(len(samples))
    for index, label in enumerate(classes.tolist() if len(labels) > 1 else ()):
        others = compared[compared != index]
        scores = learner.scores(vectors[others], known[others], vectors[index])
        found[index] = scores[label] - np.delete(scores, label).max()
    return found.round(6)
