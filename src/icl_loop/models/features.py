"""What an ordinary learner compares samples by: one vector a sample, whatever it is."""

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
class Perceived:
    """A sample as it was shown, for comparing it with others.

    Attributes:
        shown: The text or picture that its encoding made of it.
        features: Pixels row by row; measured values; or a text's pieces of words, counted.
        form: What is alike in samples that can be compared: the shape of a picture, the names of
            what was measured; None for texts.
    """

    shown: str | Image
    features: Features
    form: tuple[object, ...] | None


def perceived(shown: str | Image, values: NDArray[np.float32] | Measurements | str) -> Perceived:
    """Return what is compared of a sample that is shown so, and decoded to `values`."""
    if isinstance(values, str):
        return Perceived(shown, _counts(values), None)
    if isinstance(values, Measurements):
        return Perceived(shown, values.values.astype(np.float32), values.names)
    return Perceived(shown, values.ravel(), values.shape)


def standardised(vectors: Sequence[Features]) -> list[Features]:
    """Return vectors whose features each have mean 0 and deviation 1, or 0 where all are alike.

    What was measured in metres and in grams has no common scale but this one. It is taken over the
    samples of one request alone, since a learner knows no others.
    """
    stacked = np.stack(vectors).astype(np.float64)
    deviation = stacked.std(axis=0)
    scaled = (stacked - stacked.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return list(scaled.astype(np.float32))


def _counts(text: str) -> Features:
    """Return how often a text has each run of 2 to 4 letters, hashed, at length 1.

    At length 1 the order by Euclidean distance is that by cosine (Weinberger et al. 2009 for the
    hashing, Cavnar and Trenkle 1994 for runs of letters).
    """
    counts = _vectorizer().transform([text]).toarray()[0]
    return np.asarray(counts, dtype=np.float32)


@lru_cache(1)
def _vectorizer() -> Any:  # noqa: ANN401  scikit-learn ships no types
    from sklearn.feature_extraction.text import HashingVectorizer  # noqa: PLC0415  it takes seconds

    return HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=TEXT_FEATURES)
