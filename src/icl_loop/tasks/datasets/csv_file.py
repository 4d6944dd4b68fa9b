"""CSV files: a table of numbers or a list of texts, with a label in each row.

A file is UTF-8 with comma-separated cells. Its first row names the columns.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short_repr
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import DatasetError, nearest
from icl_loop.core.records import LARGEST
from icl_loop.tasks.datasets.dataset import check_text
from icl_loop.tasks.datasets.table import Table, is_name, repeated_name

MAX_BYTES = 32 * 2**20
MAX_CELLS = 2_000_000
MAX_CLASSES = 1_000

_OPTIONS = ("label", "text")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def load(source: str) -> tuple[Table | list[str], NDArray[np.intp], tuple[str, ...]]:
    """Return the samples of a CSV file, the class of each sample, and the names of the classes.

    The label is in the column that `label=` names, else in `label`, else in the last column. If
    `text=` names a column or there is one called `text`, the samples are its texts; otherwise they
    are the rows of numbers in all columns but the label.

    Args:
        source: The path, optionally followed by `?label=NAME&text=NAME`.

    Raises:
        DatasetError: The file cannot be parsed; the message names file, line, column and value.
    """
    path, options = _split_options(source)
    file = _read(Path(path))
    label = file.column(options.get("label"), "label")
    text = file.column(options.get("text"), "text")
    label = len(file.names) - 1 if label is None else label
    if label == text:
        raise DatasetError(
            f"{path}: column {file.names[label]!r} is both label and text; choose the columns with"
            " csv:FILE?label=NAME&text=NAME"
        )
    contents = file.table(label) if text is None else file.texts(text)
    names, classes = file.labels(label)
    return contents, classes, names


def _split_options(source: str) -> tuple[str, dict[str, str]]:
    path, mark, query = source.partition("?")
    try:
        options = dict(parse_qsl(query, strict_parsing=True)) if mark else {}
    except ValueError:
        raise DatasetError(
            f"csv:{source}: options must have the form ?label=NAME&text=NAME"
        ) from None
    for key in options.keys() - set(_OPTIONS):
        raise DatasetError(f"csv:{source}: unknown option {key!r}: {nearest(key, _OPTIONS)}")
    return path, options


@dataclass(frozen=True)
class _CsvFile:
    """The cells of a file.

    Attributes:
        path: The file.
        names: The column names.
        rows: The first line and the cells of each further row, as many as there are names.
    """

    path: Path
    names: tuple[str, ...]
    rows: list[tuple[int, Sequence[str]]]

    def column(self, chosen: str | None, default: str) -> int | None:
        """Return the index of the `chosen` or the `default` column; None without a default."""
        if chosen is not None and chosen not in self.names:
            raise DatasetError(
                f"{self.path} has no column {chosen!r}: {nearest(chosen, self.names)}"
            )
        name = chosen or default
        return self.names.index(name) if name in self.names else None

    def labels(self, column: int) -> tuple[tuple[str, ...], NDArray[np.intp]]:
        """Return the sorted labels and the class of each row."""
        found = [self._label(line, column, cells[column].strip()) for line, cells in self.rows]
        names, classes = np.unique(np.array(found, dtype=object), return_inverse=True)
        if not 2 <= len(names) <= MAX_CLASSES:
            raise DatasetError(
                f"{self.path}, column {self.names[column]!r}: {len(names):,} different labels; there"
                f" must be 2 to {MAX_CLASSES:,}"
            )
        return tuple(names.tolist()), classes.astype(np.intp)

    def _label(self, line: int, column: int, label: str) -> str:
        if not is_name(label) or ", " in label:
            problem = f"{short_repr(label)} is not a label: a short line without ', '"
            raise self._error(line, column, problem if label else "the label is missing")
        return label

    def texts(self, column: int) -> list[str]:
        """Return the texts of a column, with line feeds as line endings."""
        texts = []
        for line, cells in self.rows:
            text = cells[column].replace("\r\n", "\n").replace("\r", "\n")
            try:
                check_text(text)
            except ValueError as error:
                raise self._error(line, column, f"the text {error}") from None
            texts.append(text)
        return texts

    def table(self, label: int) -> Table:
        """Return the numbers of all columns but that of the label."""
        columns = [column for column in range(len(self.names)) if column != label]
        if not columns:
            raise DatasetError(
                f"{self.path} has only the column {self.names[0]!r}; it needs a label and at least"
                " one other column, separated by commas"
            )
        values = [
            np.array([self._number(line, column, cells[column].strip()) for column in columns])
            for line, cells in self.rows
        ]
        return Table(tuple(self.names[column] for column in columns), np.stack(values))

    def _number(self, line: int, column: int, cell: str) -> float:
        if not _NUMBER.fullmatch(cell):
            problem = f"{short_repr(cell)} is not a number" if cell else "the value is missing"
            raise self._error(line, column, problem)
        value = float(cell)
        if abs(value) > LARGEST:
            raise self._error(line, column, f"{short_repr(cell)} is larger than {LARGEST:g}")
        return value

    def _error(self, line: int, column: int, problem: str) -> DatasetError:
        return DatasetError(f"{self.path}, line {line}, column {self.names[column]!r}: {problem}")


def _read(path: Path) -> _CsvFile:
    """Return the cells of a file, with a name for each column and a cell for each name."""
    rows = _rows(path)
    line, header = next(rows, (1, []))
    if not header:
        raise DatasetError(f"{path} is empty")
    names = tuple(name.strip() for name in header)
    for position, name in enumerate(names, start=1):
        if not is_name(name):
            raise DatasetError(
                f"{path}, line {line}: {short_repr(name)} is not a name for column {position}: it must"
                " be one short line"
            )
    if repeated := repeated_name(names):
        raise DatasetError(f"{path}, line {line}: two columns are named {repeated!r}")
    body = []
    for line, cells in rows:
        if len(cells) != len(names):
            raise DatasetError(
                f"{path}, line {line}: {len(cells)} cells, but there are {len(names)} columns"
            )
        body.append((line, cells))
        if len(body) * len(names) > MAX_CELLS:
            raise DatasetError(f"{path}, line {line}: more than {MAX_CELLS:,} cells")
    if not body:
        raise DatasetError(f"{path} has no rows below the column names")
    return _CsvFile(path, names, body)


def _rows(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the first line and the cells of each row that is not blank."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{path}, line {line}: {error}") from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise DatasetError(f"{path} is larger than {MAX_BYTES // 2**20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path}, line {line}: byte {data[error.start]:#04x} is not UTF-8"
        ) from None
