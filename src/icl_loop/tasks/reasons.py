"""Reasons that can be given with a verdict: evidence in a sample, or a column of the data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import DatasetError
from icl_loop.core.records import keyed_index
from icl_loop.tasks.datasets import Dataset
from icl_loop.tasks.datasets.table import Table


@dataclass(frozen=True, slots=True)
class Reasons:
    """What can be given as the reason of a verdict on one sample.

    Attributes:
        supporting: What speaks for each class, by its name in the data set.
        opposing: What speaks against each class.
        all: Reasons from which one is drawn that says nothing about the class.
    """

    supporting: Mapping[str, str]
    opposing: Mapping[str, str]
    all: tuple[str, ...]

    def given(self, answered: str, *, correct: bool) -> str | None:
        """Return the reason for calling the answer right or wrong, None if there is none."""
        return (self.supporting if correct else self.opposing).get(answered)

    def drawn(self, *key: str | int) -> str | None:
        """Return a reason that depends on `key` alone, None if there is none."""
        return self.all[keyed_index(len(self.all), "drawn reason", *key)] if self.all else None


def reasons_for(dataset: Dataset, indices: Sequence[int]) -> list[Reasons]:
    """Return the reasons for verdicts on these samples.

    A data set with a column of reasons gives these. Otherwise a reason names a column of the table
    or a word of the text, and is chosen as a nearest-mean classifier would weigh it: the evidence
    for a class is where the sample is nearer to the mean of that class than to those of the others
    (Tibshirani et al. 2002). Columns are standardised; words are weighted by TF-IDF.

    Raises:
        DatasetError: The samples are images.
    """
    if dataset.reasons:
        every = tuple(dataset.reasons[index] for index in indices)
        same = [dict.fromkeys(dataset.labels, reason) for reason in every]
        return [Reasons(each, each, every) for each in same]
    if dataset.modality == "picture":
        raise DatasetError(
            "feedback.form = 'reason' needs a table, texts or a column of reasons, but the samples are"
            " images"
        )
    names, values, means = _evidence(dataset)
    return [_reasons(dataset, names, values[index], means) for index in indices]


def _reasons(
    dataset: Dataset,
    names: Sequence[str],
    values: Any,  # noqa: ANN401  a row of a sparse matrix or an array
    means: NDArray[np.float64],
) -> Reasons:
    """Return the reasons for verdicts on one sample."""
    if isinstance(values, np.ndarray):
        columns, row = np.arange(values.size), values
        near = -np.square(row - means)
    else:
        columns, row = values.indices, values.data
        near = row * means[:, columns]
    if not columns.size:
        return Reasons({}, {}, ())
    others = (near.sum(axis=0) - near) / (len(means) - 1)
    weights = (near - others).round(9)
    found = {
        label: (names[columns[row.argmax()]], names[columns[row.argmin()]])
        for label, row in zip(dataset.labels, weights, strict=True)
    }
    return Reasons(
        {label: best for label, (best, _) in found.items()},
        {label: worst for label, (_, worst) in found.items()},
        tuple(names[column] for column in sorted(columns.tolist())),
    )


@lru_cache(4)
def _evidence(dataset: Dataset) -> tuple[Sequence[str], Any, NDArray[np.float64]]:
    """Return the names of the features, their values for each sample, and the mean of each class."""
    values: Any
    if isinstance(dataset.contents, Table):
        names: Sequence[str] = dataset.contents.names
        table = dataset.contents.values
        deviation = table.std(axis=0)
        values = (table - table.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    else:
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  slow to import

        words = r"(?u)\b\w+\b"
        vectorizer = TfidfVectorizer(token_pattern=words)
        values = vectorizer.fit_transform(list(dataset.contents))
        names = vectorizer.get_feature_names_out().tolist()
    classes = range(len(dataset.labels))
    means = [np.asarray(values[dataset.classes == each].mean(axis=0)).ravel() for each in classes]
    return names, values, np.array(means)
