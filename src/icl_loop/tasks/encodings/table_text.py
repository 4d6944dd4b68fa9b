"""Table rows written as text."""

import re
from dataclasses import dataclass

import numpy as np

from icl_loop.core.errors import EncodingError
from icl_loop.core.records import LARGEST, Measurements, Modality
from icl_loop.tasks.encodings.encoding import Encoding

SIGNIFICANT_DIGITS = 4
MAX_COLUMNS = 1_000

_LINE = re.compile(r"(?P<name>.*\S.*): (?P<value>-?[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?)")


@dataclass(frozen=True)
class TableEncoding(Encoding):
    """Writes a row as lines of `name: value`, one per column."""

    name: str = "table"
    modality: Modality = "table"

    def encode(self, values: Measurements) -> str:
        """Return the lines of a row, with numbers to 4 significant digits."""
        if not 0 < len(values.names) == values.values.size <= MAX_COLUMNS:
            raise EncodingError(
                f"{self.name}: a row needs 1 to {MAX_COLUMNS} named numbers, got"
                f" {len(values.names)} names and {values.values.size} numbers"
            )
        pairs = list(zip(values.names, values.values.tolist(), strict=True))
        for name, value in pairs:
            if not name.strip() or not name.isprintable():
                raise EncodingError(f"{self.name}: a column name must be one line, got {name!r}")
            if not abs(value) <= LARGEST:
                raise EncodingError(
                    f"{self.name}: {name!r} must be a number up to {LARGEST:g}, got {value}"
                )
        return "\n".join(f"{name}: {format_number(value)}" for name, value in pairs)

    def parse(self, shown: str) -> Measurements:
        """Return the row that a text shows, to 4 significant digits."""
        lines = [_LINE.fullmatch(line) for line in shown.split("\n", MAX_COLUMNS)]
        found = [line for line in lines if line]
        if len(found) < len(lines):
            raise ValueError("not every line has the form name: value")
        values = np.array([float(line["value"]) for line in found])
        return Measurements(tuple(line["name"] for line in found), values)


def format_number(value: float) -> str:
    """Return a finite number to 4 significant digits, with an exponent only if it is extreme.

    >>> [format_number(value) for value in (5.1, 0.006399, 1065.0, 123456.0)]
    ['5.1', '0.006399', '1065', '123500']
    """
    short = f"{value:.{SIGNIFICANT_DIGITS}g}"
    rounded = float(short) + 0.0  # turns -0.0 into 0.0
    if rounded and not 1e-6 <= abs(rounded) < 1e16:
        return short
    return np.format_float_positional(rounded, trim="-")
