"""Rows of numbers under names: what a tabular data set is made of."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import DatasetError
from icl_loop.core.records import LARGEST, Measurements

MAX_NAME = 200
"""Most characters of the name of a column or a class."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers under names.

    Attributes:
        names: Names of the columns, at least one, each one plain line and no two alike.
        values: Float64, shape (rows, columns), each at most `LARGEST` in size.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not 0 < len(self.names) == self.values.shape[1]:
            raise DatasetError(
                f"a table has a name for each column, got {len(self.names)} names for values of"
                f" shape {self.values.shape}"
            )
        for position, name in enumerate(self.names):
            if not is_name(name):
                raise DatasetError(f"the name of a column is one plain line, got {name!r}")
            if name in self.names[:position]:
                raise DatasetError(f"two columns are named {name!r}")
        outside = np.argwhere(~(np.abs(self.values) <= LARGEST))
        if outside.size:
            row, column = outside[0].tolist()
            raise DatasetError(
                f"row {row}, column {self.names[column]!r}: {self.values[row, column]} is not a"
                f" number up to {LARGEST:g}"
            )

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Measurements:
        return Measurements(self.names, self.values[index])

    def __iter__(self) -> Iterator[Measurements]:
        return (self[index] for index in range(len(self)))


def is_name(text: str) -> bool:
    """Return whether `text` can name a column or a class: one short line that can be printed."""
    return bool(text.strip()) and text.isprintable() and len(text) <= MAX_NAME
