"""Feature vectors by which reference learners compare samples of any kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.messages import Image
from icl_loop.core.records import Measurements

Features = NDArray[np.float32]
"""Float32, shape (features,)."""

TEXT_FEATURES = 1_024


@dataclass(frozen=True, slots=True, eq=False)
class SampleFeatures:
    """A sample as it was shown, and its feature vector.

    Attributes:
        shown: The encoded sample.
        features: Pixels row by row, the values of a table row, or character n-gram counts of a text.
        form: Equal for samples that can be compared: the shape of an image or the columns of a row;
            None for texts.
    """

    shown: str | Image
    features: Features
    form: tuple[object, ...] | None


def sample_features(
    shown: str | Image, values: NDArray[np.float32] | Measurements | str
) -> SampleFeatures:
    """Return the features of a sample that was shown as `shown` and decodes to `values`.

    Those of a text are hashed counts of its character 2- to 4-grams, scaled to length 1, so that
    Euclidean distance orders samples as cosine similarity does. Weinberger et al. (2009) for the
    hashing, Cavnar and Trenkle (1994) for n-grams.
    """
    if isinstance(values, str):
        counts = _vectorizer().transform([values]).toarray()[0]
        return SampleFeatures(shown, np.asarray(counts, dtype=np.float32), None)
    if isinstance(values, Measurements):
        return SampleFeatures(shown, values.values.astype(np.float32), values.names)
    return SampleFeatures(shown, values.ravel(), values.shape)


@lru_cache(1)
def _vectorizer() -> Any:  # noqa: ANN401  scikit-learn ships no types
    from sklearn.feature_extraction.text import HashingVectorizer  # noqa: PLC0415  slow to import

    return HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=TEXT_FEATURES)


def standardised(vectors: Sequence[Features]) -> list[Features]:
    """Return the vectors with each feature scaled to mean 0 and standard deviation 1.

    Features that are equal in all vectors become 0. Only the samples of one request are used,
    because a learner knows no others.
    """
    stacked = np.stack(vectors).astype(np.float64)
    deviation = stacked.std(axis=0)
    scaled = (stacked - stacked.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return list(scaled.astype(np.float32))
