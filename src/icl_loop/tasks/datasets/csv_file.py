"""CSV files of one's own: a table of numbers or texts, with a label a row.

The file is UTF-8, its cells are parted by commas, its first row names the columns.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown  # long values are cut in the middle
from typing import NoReturn
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import DatasetError, nearest
from icl_loop.core.records import LARGEST
from icl_loop.tasks.datasets.dataset import MAX_TEXT, check_text
from icl_loop.tasks.datasets.table import MAX_NAME, Table, is_name

MAX_BYTES = 32 * 2**20
MAX_ROWS = 100_000
MAX_COLUMNS = 1_000
MAX_CELLS = 2_000_000
MAX_CLASSES = 1_000
"""The largest file that is read, in every respect; a larger one is refused by what is too large."""

LABEL, TEXT = "label", "text"
"""The columns that are looked for if none are named."""

_OPTIONS = (LABEL, TEXT)
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")

Row = tuple[int, Sequence[str]]
"""The line on which a row begins, and its cells."""
Found = tuple[Table | list[str], NDArray[np.intp], tuple[str, ...]]


def load(source: str) -> Found:
    """Return the samples of a CSV file, their classes and the names of the classes in order.

    Args:
        source: Its path, and after a question mark what its columns are: `?label=NAME&text=NAME`.

    The label is in the column named so, or in `label`, or in the last. A column named so, or
    `text`, makes it a data set of texts, whose other columns are not used; else every other column
    holds numbers.

    Raises:
        DatasetError: The file cannot be read as that; the message names file, line, column, value.
    """
    path, options = _options(source)
    sheet = _read(Path(path))
    label = sheet.column(options.get(LABEL), LABEL, len(sheet.names) - 1)
    text = sheet.column(options.get(TEXT), TEXT, None)
    if label is None or label == text:
        raise DatasetError(
            f"{sheet.path}: label and text are the same column; name them as in"
            " csv:FILE?label=NAME&text=NAME"
        )
    contents = sheet.table(label) if text is None else sheet.texts(text)
    names, classes = sheet.labels(label)
    return contents, classes, names


def _options(source: str) -> tuple[str, dict[str, str]]:
    """Return the path, and the columns that are named behind it."""
    path, mark, query = source.partition("?")
    try:
        options = dict(parse_qsl(query, strict_parsing=True)) if mark else {}
    except ValueError:
        raise DatasetError(f"csv:{source}: options are written ?label=NAME&text=NAME") from None
    for key in options.keys() - set(_OPTIONS):
        raise DatasetError(f"csv:{source}: unknown option {key!r}: {nearest(key, _OPTIONS)}")
    return path, options


@dataclass(frozen=True)
class _Sheet:
    """The cells of a file.

    Attributes:
        path: The file.
        names: Names of the columns.
        rows: The rows below them, each as long as `names`.
    """

    path: Path
    names: tuple[str, ...]
    rows: list[Row]

    def column(self, named: str | None, usual: str, otherwise: int | None) -> int | None:
        """Return the position of the column `named`, or of the `usual` one, or `otherwise`."""
        if named is not None and named not in self.names:
            raise DatasetError(f"{self.path} has no column {named!r}: {nearest(named, self.names)}")
        name = named or usual
        return self.names.index(name) if name in self.names else otherwise

    def labels(self, column: int) -> tuple[tuple[str, ...], NDArray[np.intp]]:
        """Return the labels that there are, in order, and the class of each row."""
        found = [self._label(line, column, cells[column].strip()) for line, cells in self.rows]
        names = sorted(set(found))
        if not 1 < len(names) <= MAX_CLASSES:
            fault = (
                f"every label is {shown(names[0])}; there is nothing to tell apart"
                if len(names) == 1
                else f"{len(names):,} different labels are more than {MAX_CLASSES:,}"
            )
            raise DatasetError(f"{self.path}, column {self.names[column]!r}: {fault}")
        number = {name: index for index, name in enumerate(names)}
        return tuple(names), np.array([number[label] for label in found], dtype=np.intp)

    def _label(self, line: int, column: int, label: str) -> str:
        if not label:
            self._refuse(line, column, "the label is missing")
        if not is_name(label) or ", " in label:
            self._refuse(line, column, f"{shown(label)} is no label: a short line without commas")
        return label

    def texts(self, column: int) -> list[str]:
        """Return the texts in a column, their line ends made one kind."""
        texts = []
        for line, cells in self.rows:
            text = cells[column].replace("\r\n", "\n").replace("\r", "\n")
            try:
                check_text(text)
            except ValueError as error:
                self._refuse(line, column, f"the text {error}")
            texts.append(text)
        return texts

    def table(self, label: int) -> Table:
        """Return the numbers in all columns but that of the label."""
        columns = [column for column in range(len(self.names)) if column != label]
        if not columns:
            raise DatasetError(
                f"{self.path} has the one column {self.names[0]!r}; a label and something to tell"
                " it by are needed, parted by commas"
            )
        values = [
            np.array([self._number(line, column, cells[column].strip()) for column in columns])
            for line, cells in self.rows
        ]
        return Table(tuple(self.names[column] for column in columns), np.stack(values))

    def _number(self, line: int, column: int, cell: str) -> float:
        if not cell:
            self._refuse(line, column, "the value is missing")
        if not _NUMBER.fullmatch(cell):
            self._refuse(line, column, f"{shown(cell)} is no number")
        value = float(cell)
        if abs(value) > LARGEST:
            self._refuse(line, column, f"{shown(cell)} is beyond {LARGEST:g}")
        return value

    def _refuse(self, line: int, column: int, why: str) -> NoReturn:
        raise DatasetError(f"{self.path}, line {line}, column {self.names[column]!r}: {why}")


def _read(path: Path) -> _Sheet:
    """Return the cells of a file, having checked that it is a table under names."""
    rows = _rows(path)
    line, header = next(rows, (1, []))
    names = _names(path, line, header)
    body: list[Row] = []
    for line, cells in rows:
        if len(cells) != len(names):
            raise DatasetError(
                f"{path}, line {line}: {len(cells)} cells, but there are {len(names)} columns"
            )
        if len(body) == MAX_ROWS:
            raise DatasetError(f"{path}, line {line}: more than {MAX_ROWS:,} rows")
        if (len(body) + 1) * len(names) > MAX_CELLS:
            raise DatasetError(f"{path}, line {line}: more than {MAX_CELLS:,} cells")
        body.append((line, cells))
    if not body:
        raise DatasetError(f"{path} has no row below the names of its columns")
    return _Sheet(path, names, body)


def _names(path: Path, line: int, header: Sequence[str]) -> tuple[str, ...]:
    if not header:
        raise DatasetError(f"{path} is empty")
    if len(header) > MAX_COLUMNS:
        raise DatasetError(f"{path}, line {line}: more than {MAX_COLUMNS:,} columns")
    names = tuple(name.strip() for name in header)
    for position, name in enumerate(names):
        if not is_name(name):
            raise DatasetError(
                f"{path}, line {line}: column {position + 1} is named {shown(name)}; a name is"
                f" one plain line of at most {MAX_NAME} characters"
            )
        if name in names[:position]:
            raise DatasetError(f"{path}, line {line}: two columns are named {name!r}")
    return names


def _rows(path: Path) -> Iterator[Row]:
    """Yield the rows that are not blank, each with the line on which it begins."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                _check_cells(path, line, cells)
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{path}, line {line}: {error}") from None


def _check_cells(path: Path, line: int, cells: Sequence[str]) -> None:
    longest = max(map(len, cells))
    if longest > MAX_TEXT:
        raise DatasetError(
            f"{path}, line {line}: a cell of {longest:,} characters, more than {MAX_TEXT:,}"
        )


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
