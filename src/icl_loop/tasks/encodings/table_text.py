"""Rows of tables written as text, and read back again."""

import re
from dataclasses import dataclass

import numpy as np

from icl_loop.core.errors import EncodingError
from icl_loop.core.records import LARGEST, Measurements, Modality
from icl_loop.tasks.encodings.encoding import Encoding

DIGITS = 4
"""Significant digits to which a number is written."""
MAX_COLUMNS = 1_000
"""Most numbers of a row; a text of more lines is refused."""

_LINE = re.compile(r"(?P<name>.*\S.*): (?P<value>-?[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?)")
_PLAIN = (1e-6, 1e16)
"""Sizes between which numbers are written without an exponent."""


@dataclass(frozen=True)
class TableEncoding(Encoding):
    """Writes a row as lines of `name: value`, one a column."""

    name: str = "table"

    @property
    def modality(self) -> Modality:
        """Rows of tables."""
        return "table"

    def prepare(self, content: Measurements, size: int) -> Measurements:  # noqa: ARG002  a row has no side
        """Return the row as it is."""
        return content

    def encode(self, values: Measurements) -> str:
        """Return the lines of a row, its values to 4 significant digits."""
        if not 0 < len(values.names) == values.values.size <= MAX_COLUMNS:
            raise EncodingError(
                f"{self.name} writes 1 to {MAX_COLUMNS} named numbers, got {len(values.names)} names"
                f" for {values.values.size} numbers"
            )
        pairs = zip(values.names, values.values.tolist(), strict=True)
        return "\n".join(self._line(name, value) for name, value in pairs)

    def _line(self, name: str, value: float) -> str:
        if not name.strip() or not name.isprintable():
            raise EncodingError(f"{self.name} writes names of one plain line, got {name!r}")
        if not abs(value) <= LARGEST:
            raise EncodingError(
                f"{self.name} writes numbers up to {LARGEST:g}, got {name!r} = {value}"
            )
        return f"{name}: {written(value)}"

    def decode(self, shown: str) -> Measurements:
        """Return the row that a text stands for, to 4 significant digits.

        Raises:
            EncodingError: No row is written as exactly this text.
        """
        lines = [_LINE.fullmatch(line) for line in shown.split("\n", MAX_COLUMNS)]
        found = [line for line in lines if line]
        row = Measurements(
            tuple(line["name"] for line in found),
            np.array([float(line["value"]) for line in found]),
        )
        if len(found) < len(lines) or self.encode(row) != shown:
            raise EncodingError("not a text of the table encoding: it is written otherwise")
        return row


def written(value: float) -> str:
    """Return a finite number to 4 significant digits, without an exponent unless it is extreme.

    >>> [written(value) for value in (5.1, 0.006399, 1065.0, 123456.0)]
    ['5.1', '0.006399', '1065', '123500']
    """
    short = f"{value:.{DIGITS}g}"
    rounded = float(short) + 0.0  # which makes minus zero zero
    if rounded and not _PLAIN[0] <= abs(rounded) < _PLAIN[1]:
        return short
    return np.format_float_positional(rounded, trim="-")
