"""CSV files: a table of numbers or a list of texts, with a label in each row.

A file is UTF-8 with comma-separated cells. Its first row names the columns.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from reprlib import repr as short_repr
from typing import TypeVar
from urllib.parse import parse_qsl

import numpy as np

from icl_loop.core.errors import DatasetError, nearest, reason_of
from icl_loop.core.records import LARGEST
from icl_loop.tasks.datasets.dataset import Loaded, check_text
from icl_loop.tasks.datasets.table import Table, is_name, problem_with_names

MAX_BYTES = 32 * 2**20
MAX_CELLS = 2_000_000
MAX_CLASSES = 1_000

_OPTIONS = ("label", "text")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_Rows = list[tuple[int, Sequence[str]]]
"""The first line and the cells of each row below the column names."""
_T = TypeVar("_T")


def load(source: str) -> Loaded:
    """Return the samples and classes of a CSV file, given as `PATH` or `PATH?label=NAME&text=NAME`.

    The label is in the column that `label=` names, else in `label`, else in the last column. If
    `text=` names a column or there is one called `text`, the samples are its texts; otherwise they
    are the rows of numbers in all columns but the label.

    Raises:
        DatasetError: The file cannot be parsed; the message names file, line, column and value.
    """
    path, mark, query = source.partition("?")
    try:
        options = _options(query) if mark else {}
        names, rows = _read(Path(path))
        return _samples(names, rows, options)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {reason_of(error)}") from None
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from None


def _options(query: str) -> dict[str, str]:
    try:
        options = dict(parse_qsl(query, strict_parsing=True))
    except ValueError:
        raise ValueError("the options must have the form ?label=NAME&text=NAME") from None
    for key in options.keys() - set(_OPTIONS):
        raise ValueError(f"unknown option {key!r}: {nearest(key, _OPTIONS)}")
    return options


def _samples(names: Sequence[str], rows: _Rows, options: dict[str, str]) -> Loaded:
    for chosen in options.values():
        if chosen not in names:
            raise ValueError(f"there is no column {chosen!r}: {nearest(chosen, names)}")
    label = options.get("label") or ("label" if "label" in names else names[-1])
    text = options.get("text") or ("text" if "text" in names else None)
    others = tuple(name for name in names if name != label)
    if label == text:
        raise ValueError(
            f"column {label!r} is both label and text; choose the columns with"
            " csv:FILE?label=NAME&text=NAME"
        )
    if not others:
        raise ValueError(
            f"there is only the column {label!r}; the file needs a label and at least one other"
            " column, separated by commas"
        )

    def parsed(column: str, parse: Callable[[str], _T]) -> list[_T]:
        index, values = names.index(column), []
        for line, cells in rows:
            try:
                values.append(parse(cells[index]))
            except ValueError as error:
                raise ValueError(f"line {line}, column {column!r}: {error}") from None
        return values

    contents = (
        parsed(text, _text)
        if text
        else Table(others, np.column_stack([np.array(parsed(name, _number)) for name in others]))
    )
    labels = np.array(parsed(label, _label), dtype=object)
    classes, numbers = np.unique(labels, return_inverse=True)
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ValueError(
            f"column {label!r}: {len(classes):,} different labels; there must be 2 to"
            f" {MAX_CLASSES:,}"
        )
    return contents, numbers.astype(np.intp), tuple(classes.tolist())


def _label(cell: str) -> str:
    label = cell.strip()
    if not label:
        raise ValueError("the label is missing")
    if not is_name(label) or ", " in label:
        raise ValueError(f"{short_repr(label)} is not a label: a short line without ', '")
    return label


def _text(cell: str) -> str:
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    check_text(text, "the text")
    return text


def _number(cell: str) -> float:
    number = cell.strip()
    if not number:
        raise ValueError("the value is missing")
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"{short_repr(number)} is not a number")
    if abs(float(number)) > LARGEST:
        raise ValueError(f"{short_repr(number)} is larger than {LARGEST:g}")
    return float(number)


def _read(path: Path) -> tuple[Sequence[str], _Rows]:
    """Return the column names and the rows, which have a cell for each name."""
    rows = _rows(path)
    line, header = next(rows, (1, ()))
    if not header:
        raise ValueError("the file is empty")
    names = [name.strip() for name in header]
    if problem := problem_with_names(names):
        raise ValueError(f"line {line}: {problem}")
    body = []
    for line, cells in rows:
        if len(cells) != len(names):
            raise ValueError(f"line {line}: {len(cells)} cells, but there are {len(names)} columns")
        body.append((line, cells))
        if len(body) * len(names) > MAX_CELLS:
            raise ValueError(f"line {line}: more than {MAX_CELLS:,} cells")
    if not body:
        raise ValueError("there are no rows below the column names")
    return names, body


def _rows(path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the first line and the cells of each row that is not blank."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"the file is larger than {MAX_BYTES // 2**20} MiB")
    line = 1
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line}: {error}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: byte {data[error.start]:#04x} is not UTF-8") from None
