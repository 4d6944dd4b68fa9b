"""How similar the samples of past turns are to the one asked about, whatever their labels."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.records import Measurements
from icl_loop.tasks.encodings import Pixels

Decoded = Pixels | Measurements | str
"""A sample as its question shows it: an image, a table row or a text."""
Distances = NDArray[np.float64]


class SampleStore:
    """The samples of past turns, in a form in which distances to them are computed quickly."""

    def __init__(self) -> None:
        self._vectors = np.empty((0, 0), dtype=np.float32)
        self._texts: Any = (
            None  # a sparse matrix of term counts; scipy and scikit-learn load slowly
        )
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, sample: Decoded) -> None:
        """Add the sample of the next turn."""
        self._count += 1
        if isinstance(sample, str):
            self._texts = _stacked([self._texts, _terms(sample)])
            return
        vector = _vector(sample)
        self._vectors.resize((self._count, vector.size), refcheck=False)  # a view is never kept
        self._vectors[-1] = vector

    def distances(self, asked: Decoded) -> Distances:
        """Return the distance of every past sample to `asked`, shape (turns,).

        That is the squared Euclidean distance of pixels, or of the columns of table rows,
        standardised over all these samples; for texts it is one minus the cosine of their TF-IDF
        vectors, whose inverse document frequencies are those of these texts (Salton and Buckley 1988).
        """
        if isinstance(asked, str):
            return _text_distances(self._texts, _terms(asked))
        vector = _vector(asked)
        past: NDArray[Any] = self._vectors
        if isinstance(asked, Measurements):
            rows = np.vstack([past, vector]).astype(np.float64)
            deviation = rows.std(axis=0)
            rows = (rows - rows.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
            past, vector = rows[:-1], rows[-1]
        apart = past - vector
        distances: Distances = np.square(apart, out=apart).sum(axis=1)
        return distances


def _vector(sample: Pixels | Measurements) -> NDArray[np.float32]:
    values = sample.values if isinstance(sample, Measurements) else sample
    return np.ravel(values).astype(np.float32)


def _text_distances(past: Any, asked: Any) -> Distances:  # noqa: ANN401  sparse matrices
    from sklearn.feature_extraction.text import TfidfTransformer  # noqa: PLC0415  slow to import

    weighted = TfidfTransformer().fit_transform(_stacked([past, asked])).tocsr()
    cosines = (weighted[:-1] @ weighted[-1].T).toarray()[:, 0]
    return np.asarray(1 - cosines.round(9))  # texts with the same terms tie on every machine


def _stacked(parts: Sequence[Any]) -> Any:  # noqa: ANN401  as above
    from scipy import sparse  # noqa: PLC0415  as above

    return sparse.vstack([part for part in parts if part is not None], format="csr")


def _terms(text: str) -> Any:  # noqa: ANN401  as above
    """Return the counts of the character 2- to 4-grams of a text, which work in any language."""
    return _vectorizer().transform([text])


@lru_cache(1)
def _vectorizer() -> Any:  # noqa: ANN401  as above
    from sklearn.feature_extraction.text import HashingVectorizer  # noqa: PLC0415  as above

    return HashingVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 4),
        n_features=2**16,
        norm=None,
        alternate_sign=False,
    )
