"""Tables: rows of numbers with named columns."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from reprlib import repr as short_repr

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import DatasetError
from icl_loop.core.records import LARGEST, Measurements

MAX_NAME = 200
"""Most characters in the name of a column or class."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers with named columns.

    Attributes:
        names: The column names: at least one, each one line, all different.
        values: Float64, shape (rows, columns), each at most `LARGEST` in absolute value.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or not 0 < len(self.names) == self.values.shape[1]:
            raise DatasetError(
                f"a table needs a name for each column, got {len(self.names)} names for values of"
                f" shape {self.values.shape}"
            )
        if problem := problem_with_names(self.names):
            raise DatasetError(problem)
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


def problem_with_names(names: Sequence[str]) -> str | None:
    """Return which column name is not one short line, or occurs twice; None if all are sound."""
    for position, name in enumerate(names, start=1):
        if not is_name(name):
            return f"the name of column {position} must be one short line, got {short_repr(name)}"
    repeated = repeated_name(names)
    return repeated and f"two columns are named {repeated!r}"


def is_name(text: str) -> bool:
    """Return whether `text` can name a column or class: one short printable line."""
    return bool(text.strip()) and text.isprintable() and len(text) <= MAX_NAME


def repeated_name(names: Sequence[str]) -> str | None:
    """Return a name that occurs more than once, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
