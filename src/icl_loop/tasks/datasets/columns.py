"""Rows with named columns: which column has the labels, which the texts, and their values."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from reprlib import repr as short_repr
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import nearest
from icl_loop.core.records import LARGEST
from icl_loop.tasks.datasets.dataset import Contents, check_text
from icl_loop.tasks.datasets.table import Table, is_name, problem_with_names

LoadedColumns = tuple[Contents, NDArray[np.intp], tuple[str, ...], str, Sequence[str]]
"""The samples, their classes, the names of the classes, the columns that they come from, and a reason
for each class if a column has reasons."""

COLUMN_OPTIONS = ("label", "text", "reason")
MAX_CELLS = 2_000_000
MAX_CLASSES = 1_000
_MANY = 20
"""Fewer rows may all have different labels by chance."""

_LABEL_NAMES = (
    *("label", "labels", "class", "category", "intent", "target"),
    *("sentiment", "emotion", "topic"),
)
_TEXT_NAMES = (
    *("text", "sentence", "utterance", "query", "question", "content", "review", "tweet"),
    *("comment", "message", "document", "description", "headline", "title", "body", "prompt"),
    *("input", "texts"),
)
_NAMED_BY = ("{}_text", "{}_name", "{}_names")
"""Names of columns beside a column of label numbers that give the names of the labels."""
_INDEX_NAMES = ("", "Unnamed: 0", "__index_level_0__")
"""Names under which pandas writes its index."""
_ID_NAMES = ("id", "idx", "index", "uid", "guid")
_MISSING = {"na", "n/a", "nan", "null", "none", "-", "?"}
"""What programs write for a missing number."""
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(,[0-9]{3})+")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Columns:
    """Rows of cells under column names.

    Attributes:
        names: The column names, all different.
        rows: The cells of each row.
        place: Returns where a row is, such as `line 3`.
        class_names: Names of the classes by number, for columns that have numbers for them.
        decimals: Decimal separators of numbers that are written as text; none if no text is a number.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]
    place: Callable[[int], str]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    decimals: str = ""

    def column(self, name: str) -> list[Any]:
        """Return the cells of a column."""
        index = self.names.index(name)
        return [row[index] for row in self.rows]

    def parsed(self, name: str, parse: Callable[[Any], _T]) -> list[_T]:
        """Return the parsed cells of a column; an error names row and column."""
        values = []
        for number, cell in enumerate(self.column(name)):
            try:
                values.append(parse(cell))
            except ValueError as error:
                raise ValueError(f"{self.place(number)}, column {name!r}: {error}") from None
        return values

    def without(self, name: str) -> "Columns":
        """Return the columns without one of them."""
        at = self.names.index(name)
        rows = [[*row[:at], *row[at + 1 :]] for row in self.rows]
        return replace(self, names=[*self.names[:at], *self.names[at + 1 :]], rows=rows)

    def without_index(self) -> "Columns":
        """Return the columns without the row numbers that pandas writes in the first or last one."""
        for at in {0, len(self.names) - 1}:
            if self.names[at] in _INDEX_NAMES and _are_row_numbers([row[at] for row in self.rows]):
                return self.without(self.names[at])
        return self


def options_of(query: str, known: Sequence[str]) -> dict[str, str]:
    """Return the options of a query such as `label=kind&text=body`, which must be `known`."""
    try:
        options = dict(parse_qsl(query, strict_parsing=bool(query)))
    except ValueError:
        raise ValueError("the options must have the form ?label=NAME&text=NAME") from None
    for key in options.keys() - set(known):
        raise ValueError(f"unknown option {key!r}: {nearest(key, known)}")
    return options


def samples(columns: Columns, options: Mapping[str, str]) -> LoadedColumns:
    """Return the samples and classes in columns.

    The label is in the column that the option `label` names, else in the names beside a numbered
    label (`label_text` beside `label`), else in one with a usual name (`label`, `intent`, ...), else
    in the last. The text is in the column that the option `text` names, else in one with a usual
    name (`text`, `utterance`, ...), else in the only other column if no cell of it is a number. Without
    a text, the samples are the numbers in all columns but the label. The column that the option
    `reason` names is no part of the samples.

    Raises:
        ValueError: A column or cell is wrong; the message names row, column and what to do.
    """
    columns = columns.without_index()
    if problem := problem_with_names(columns.names):
        raise ValueError(f"{problem}; give each column a name of its own")
    for key, chosen in options.items():
        if key in COLUMN_OPTIONS and chosen not in columns.names:
            raise ValueError(f"there is no column {chosen!r}: {nearest(chosen, columns.names)}")
    reasons: Sequence[str] = ()
    if "reason" in options:
        reasons = columns.parsed(options["reason"], _reason)
        columns = columns.without(options["reason"])
    label, text = _label_and_text(columns, options)
    if label == text:
        raise ValueError(
            f"column {label!r} is both label and text; choose the columns with"
            " ?label=NAME&text=NAME"
        )
    twins = {label, *_names_of(label, columns.names), *_numbers_of(label, columns.names)}
    others = tuple(name for name in columns.names if name not in twins)
    if not others:
        raise ValueError(
            f"there is only the column {label!r}; the file needs a label and at least one other"
            " column"
        )
    if text is None:
        contents: Contents = Table(others, np.column_stack([_numbers(columns, n) for n in others]))
        origin = f"numbers in {len(others)} columns, labels in {label!r}"
    else:
        contents = columns.parsed(text, _text)
        origin = f"texts in {text!r}, labels in {label!r}"
    is_guess = "label" not in options
    if reasons:
        origin += f", reasons in {options['reason']!r}"
    return contents, *_classes(columns, label, is_guess=is_guess), origin, reasons


def _label_and_text(columns: Columns, options: Mapping[str, str]) -> tuple[str, str | None]:
    names = columns.names
    label, text = options.get("label"), options.get("text")
    if label is None:
        label = _usual(_LABEL_NAMES, [name for name in names if name != text])
        label = next(_names_of(label, names), label) if label else None
    if text is None:
        candidates = [name for name in names if name != label]
        found = "text" if "text" in candidates else _usual(_TEXT_NAMES, candidates)
        text = found if found and (found == "text" or not _is_numeric(columns, found)) else None
    if label is None:
        label = next((name for name in reversed(names) if name != text), names[-1])
    if text is None:
        ids = {name for name in names if name.lower() in _ID_NAMES and _is_numeric(columns, name)}
        numbered = {*_names_of(label, names), *_numbers_of(label, names)}
        rest = [name for name in names if name not in {label, *numbered, *ids}]
        if len(rest) == 1 and not _has_number(columns, rest[0]):
            [text] = rest
    return label, text


def _usual(usual: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the name that is the first of the usual ones, in whatever case."""
    found = [name for each in usual for name in names if name.lower() == each]
    return next(iter(found), None)


def _names_of(label: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the columns with the names of the labels that the column `label` numbers."""
    return (each for form in _NAMED_BY for each in [form.format(label)] if each in names)


def _numbers_of(label: str, names: Sequence[str]) -> Iterator[str]:
    """Yield the columns with the numbers of the labels that the column `label` names."""
    return (name for name in names if label in [form.format(name) for form in _NAMED_BY])


def _has_number(columns: Columns, name: str) -> bool:
    return any(_as_number(cell, columns.decimals) is not None for cell in columns.column(name))


def _is_numeric(columns: Columns, name: str) -> bool:
    """Return whether all cells of a column that are not empty have numbers."""
    cells = (cell for cell in columns.column(name) if cell not in ("", None))
    return all(_as_number(cell, columns.decimals) is not None for cell in cells)


def _are_row_numbers(cells: Sequence[Any]) -> bool:
    numbers = [str(cell).strip() for cell in cells]
    return len(set(numbers)) == len(numbers) and all(map(str.isdecimal, numbers))


def _classes(
    columns: Columns, label: str, *, is_guess: bool
) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Return the class of each row and the names of the classes."""
    parse = partial(_label, names=columns.class_names.get(label))
    labels = np.array(columns.parsed(label, parse), dtype=object)
    classes, numbers = np.unique(labels, return_inverse=True)
    all_differ = is_guess and len(classes) == len(labels) > _MANY
    if all_differ or not 2 <= len(classes) <= MAX_CLASSES:
        hint = "; choose the column of the labels with ?label=NAME" if is_guess else ""
        raise ValueError(
            f"column {label!r}: {len(classes):,} different labels in {len(labels):,} rows; there must"
            f" be 2 to {MAX_CLASSES:,}, each in several rows{hint}"
        )
    return numbers.astype(np.intp), tuple(classes.tolist())


def _label(cell: object, names: Sequence[str] | None) -> str:
    if names is not None and isinstance(cell, int):
        if not 0 <= cell < len(names):
            raise ValueError(
                f"the class {cell} has no name; its column has names for 0 to {len(names) - 1}, and"
                " test sets often hide their labels"
            )
        cell = names[cell]
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, list | dict):
        raise ValueError("the cell is a list or a table, not a label")  # noqa: TRY004  found in a file
    label = "" if cell is None else str(cell).strip()
    if not label:
        raise ValueError("the label is missing; fill it in or remove the row")
    if not isinstance(cell, str | int) or not is_name(label) or ", " in label:
        raise ValueError(f"{short_repr(label)} is not a label: a short line without ', '")
    return label


def _text(cell: object) -> str:
    if cell is None:
        raise ValueError("the text is missing; fill it in or remove the row")
    if not isinstance(cell, str):
        raise ValueError(f"{short_repr(cell)} is not a text")  # noqa: TRY004  found in a file
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    check_text(text, "the text")
    return text


def _reason(cell: object) -> str:
    """Return the reason in a cell, on one line."""
    reason = " ".join(str("" if cell is None else cell).split())
    if not reason:
        raise ValueError("the reason is missing; fill it in or remove the row")
    check_text(reason, "the reason")
    return reason


def _numbers(columns: Columns, name: str) -> NDArray[np.float64]:
    """Return the numbers in a column, in which all have the same decimal separator."""
    values = columns.parsed(name, partial(_number, name=name, decimals=columns.decimals))
    if "," in columns.decimals:
        cells = [str(cell) for cell in columns.column(name)]
        if any("," in cell for cell in cells):
            for number, cell in enumerate(cells):
                if "." in cell:
                    raise ValueError(
                        f"{columns.place(number)}, column {name!r}: {short_repr(cell)} has a point,"
                        " but other cells of the column have decimal commas; use one of them"
                    )
    return np.array(values)


def _as_number(cell: object, decimals: str) -> float | None:
    """Return the number that a cell has, possibly infinite or undefined, or None."""
    if isinstance(cell, int | float):
        try:
            return float(cell)
        except OverflowError:
            return float("inf")
    text = str(cell).strip()
    if "," in decimals and text.count(",") == 1:
        text = text.replace(",", ".")
    return float(text) if decimals and _NUMBER.fullmatch(text) else None


def _remedy(text: str, name: str) -> str:
    """Return what to do about a text in a column of numbers."""
    if text.strip("#").lower() in _MISSING:
        return "fill it in or remove the row"
    if "," in text and _as_number(text.replace(".", ""), ".,") is not None:
        return "write numbers with a decimal point"
    return f"if the column is the text to classify, add ?text={name}"


def _number(cell: object, name: str, decimals: str) -> float:
    if cell is None or not str(cell).strip():
        raise ValueError("the value is missing; fill it in or remove the row")
    text = str(cell).strip()
    if "\t" in decimals and _GROUPED.fullmatch(text):
        raise ValueError(f"{short_repr(text)} may have a decimal comma or group thousands")
    number = _as_number(cell, decimals)
    if number is None or np.isnan(number):
        raise ValueError(f"{short_repr(text)} is not a number; {_remedy(text, name)}")
    if abs(number) > LARGEST:
        raise ValueError(f"{short_repr(text)} is larger than {LARGEST:g}")
    return number
