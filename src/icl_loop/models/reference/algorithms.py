"""The reference learners: nearest neighbour, nearest mean, kernel ridge, label propagation."""

import numpy as np

from icl_loop.core.records import keyed_index, keyed_order
from icl_loop.models.conversation_parser import Conversation, Example
from icl_loop.models.features import Features
from icl_loop.models.reference.learner import (
    Labels,
    Learner,
    Samples,
    ScoringLearner,
    Values,
    distances_to,
    lead,
    normalised,
)


class NearestNeighbour(Learner):
    """Answers the label of the nearest sample whose label is known (Cover and Hart 1967).

    Samples are visited from the nearest to the farthest. One with a known label decides; one with a
    refuted answer rules that label out.
    """

    def choose(self, conversation: Conversation, key: str) -> str:
        """Return the label of the nearest sample, or a guess among the labels not ruled out."""
        ruled_out, examples = set[str](), conversation.examples
        samples = np.array([example.sample.features for example in examples])
        distances = distances_to(samples, conversation.asked.features) if examples else samples
        order = keyed_order(len(distances), self.seed, "nearest ties", key)
        for index in order[np.argsort(distances[order], kind="stable")].tolist():
            example: Example = examples[index]
            known = example.known_label
            if known is not None and known not in ruled_out:
                return known
            if example.refuted is not None:
                ruled_out.add(example.refuted)
        labels = conversation.labels
        left = [label for label in labels if label not in ruled_out] or labels
        return left[keyed_index(len(left), self.seed, "nearest guess", key)]

    def margin(self, conversation: Conversation) -> float:
        """Return how much nearer the nearest known sample is than the nearest of another label."""
        known = [each for each in conversation.examples if each.known_label is not None]
        samples = np.array([each.sample.features for each in known])
        nearest: dict[str | None, float] = {}
        for each, distance in zip(
            known, distances_to(samples, conversation.asked.features) if known else (), strict=True
        ):
            label = each.known_label
            nearest[label] = min(float(distance), nearest.get(label, np.inf))
        return lead(-np.array(list(nearest.values())))


class NearestMean(ScoringLearner):
    """Answers the label whose mean sample is nearest.

    The mean of all samples counts as one more member of every class, so a label without known
    samples is answered if the sample resembles no known class. Refuted answers are not used.
    """

    def scores(self, samples: Samples, possible: Labels, asked: Features) -> Values:
        """Return the negative squared distance to the mean of each label."""
        if not samples.size:
            return np.zeros(possible.shape[1])
        is_known = possible.sum(axis=1, keepdims=True) == 1
        members = (possible & is_known).astype(np.float32)
        sums = members.T @ samples + samples.mean(axis=0)
        means = sums / (members.sum(axis=0)[:, None] + 1)
        return -distances_to(means, asked)


_KERNEL_WIDTH = 3.0
_NOISE = 0.1
_NOISE_IF_REFUTED = 1.0


class KernelRidge(ScoringLearner):
    """Regresses each label on the samples with a Gaussian kernel (Saunders et al. 1998).

    The target is the probability of the label given the feedback, less its probability without any.
    An example with only a refuted answer counts against that answer and slightly for the others,
    with a larger ridge because it says less. The kernel width is relative to the median distance.
    """

    def scores(self, samples: Samples, possible: Labels, asked: Features) -> Values:
        """Return the value of each regression at the sample asked about."""
        labels = possible.shape[1]
        informative = np.flatnonzero(~possible.all(axis=1))
        if not informative.size:
            return np.zeros(labels)
        distances = self.distances.pairwise(np.vstack([samples, asked]))
        scale = float(np.median(distances)) or 1.0
        kernel = np.exp(-_KERNEL_WIDTH / scale * distances)
        ridge = np.where(possible[informative].sum(axis=1) == 1, _NOISE, _NOISE_IF_REFUTED)
        targets = normalised(possible[informative]) - 1 / labels
        gram = kernel[np.ix_(informative, informative)] + np.diag(ridge)
        return np.asarray(kernel[-1, informative] @ np.linalg.solve(gram, targets))


_NEIGHBOURS = 8
_DECAY = 5.0
_ROUNDS = 10
_EPSILON = 1e-9


class LabelPropagation(ScoringLearner):
    """Passes label beliefs between neighbouring samples (Zhu and Ghahramani 2002).

    Every sample, including the one asked about, starts with equal belief in its possible labels. In
    each round it takes the weighted mean of its neighbours' beliefs and drops the labels that are
    impossible, so both confirmed and refuted answers reach samples without feedback. Weights decay
    with the distance relative to the local scale (Zelnik-Manor and Perona 2004). Beliefs are divided
    by how common the label is, because labels are about equally frequent (class mass normalisation:
    Zhu, Ghahramani and Lafferty 2003); this favours labels about which little is known.
    """

    def scores(self, samples: Samples, possible: Labels, asked: Features) -> Values:
        """Return the belief in each label of the sample asked about."""
        possible = np.vstack([possible, np.ones((1, possible.shape[1]), dtype=np.bool_)])
        beliefs = normalised(possible)
        if not possible.all():
            distances = self.distances.pairwise(np.vstack([samples, asked]))
            weights = _neighbour_weights(distances)
            for _ in range(_ROUNDS):
                received = weights @ beliefs + _EPSILON
                beliefs = normalised(possible * received / received.mean(axis=0))
        final: Values = beliefs[-1]
        return final

    def shares(self, scores: Values) -> Values:
        """Return the beliefs, which are probabilities already."""
        return scores


def _neighbour_weights(distances: Values) -> Values:
    """Return the weight of each sample's neighbours, shape (samples, samples); rows sum to one."""
    neighbours = min(_NEIGHBOURS, len(distances) - 1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, neighbours - 1, axis=1)[:, :neighbours]
    near = np.take_along_axis(distances, nearest, axis=1)
    scale = np.sqrt(near.max(axis=1))
    unit = np.maximum(scale[:, None] * scale[nearest], _EPSILON)
    weights = np.zeros_like(distances)
    np.put_along_axis(weights, nearest, np.exp(-_DECAY * near / unit), axis=1)
    return normalised(np.maximum(weights, weights.T) + _EPSILON)
