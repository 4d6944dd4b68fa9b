"""CSV files: a table of numbers or a list of texts, with a label in each row.

The first row names the columns. Cells are separated by whichever of comma, semicolon, tab and
vertical bar gives that row the most cells.
"""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from icl_loop.tasks.datasets.columns import (
    COLUMN_OPTIONS,
    MAX_CELLS,
    Columns,
    LoadedColumns,
    options_of,
    samples,
)
from icl_loop.tasks.datasets.source_file import read_bytes, translated

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?\r?\n')
"""The line with which Excel names the separator."""
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_IMPLAUSIBLE = re.compile(r"[^\x00-\x7f]{3}|[A-Za-z][\x80-\x9f¡-¿×÷ŒŸ‚ƒ„†‡ˆ‰‹›˜™][A-Za-z]")
"""Unlike any Western European word."""


def load(source: str) -> LoadedColumns:
    """Return the samples of a CSV file, given as `PATH` or `PATH?label=NAME&text=NAME&charset=NAME`.

    The columns are chosen as in `samples`. The charset is that of the byte order mark, else UTF-8 if
    the file is valid UTF-8, else Windows-1252 (which includes the letters of Latin-1) if the text
    looks like a Western European language.

    Raises:
        DatasetError: The file cannot be parsed; the message names file, line, column and value.
    """
    path, _, query = source.partition("?")
    with translated(path):
        options = options_of(query, (*COLUMN_OPTIONS, "charset"))
        text, charset = _decoded(read_bytes(Path(path), "csv"), options.get("charset"))
        columns, separator = _columns(text)
        contents, classes, labels, origin, reasons = samples(columns, options)
    origin = f"{origin}; {charset}, separated by {_SEPARATORS[separator]}"
    return contents, classes, labels, origin, reasons


def csv_columns(path: Path) -> Columns:
    """Return all columns of a CSV file, as texts; raise ValueError if it cannot be parsed."""
    columns, _ = _columns(_decoded(read_bytes(path, "csv"), None)[0])
    return columns


def _decoded(data: bytes, charset: str | None) -> tuple[str, str]:
    """Return the text of a file and its charset."""
    marks = (name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark))
    chosen = charset or next(marks, None) or _unmarked_utf_16(data) or "utf-8"
    try:
        return data.decode(chosen), chosen
    except LookupError:
        raise ValueError(
            f"unknown charset {charset!r}, such as latin-1, utf-16 or cp1250"
        ) from None
    except UnicodeDecodeError as error:
        problem = f"byte {data[error.start]:#04x} is not {chosen}"
        line = data.count(b"\n", 0, error.start) + 1
    if charset is None and chosen == "utf-8":
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            text = ""
        if text and not _IMPLAUSIBLE.search(text):
            return text, "windows-1252"
    raise ValueError(
        f"line {line}: {problem}; name the charset, as in ?charset=cp1250, or convert the file, as"
        " with iconv -f CP1250 -t UTF-8"
    )


def _unmarked_utf_16(data: bytes) -> str | None:
    """Return which UTF-16 a file without a byte order mark is, if every other byte is NUL."""
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(data) >= 4 and data[start::2].count(0) > len(data) * 0.4:
            return name
    return None


def _columns(text: str) -> tuple[Columns, str]:
    """Return the columns of a file, and its separator."""
    declared = _SEPARATOR_LINE.match(text)
    body = text[declared.end() :] if declared else text
    start = 2 if declared else 1
    separator = declared[1] if declared else max(_SEPARATORS, key=lambda each: _width(body, each))
    lines: list[int] = []
    rows: list[list[str]] = []
    line = start
    try:
        reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append(line)
                rows.append(cells)
                if (len(rows) - 1) * len(rows[0]) > MAX_CELLS:
                    raise ValueError(f"line {line}: more than {MAX_CELLS:,} cells")
            line = reader.line_num + start
    except csv.Error:
        raise ValueError(
            f"line {line}: a quotation mark is missing, or a cell has more than"
            f' {csv.field_size_limit():,} characters; quote cells as Excel does, "like ""this"""'
        ) from None
    if not rows:
        raise ValueError("the file is empty")
    return _named(rows, lines, separator), separator


def _named(rows: list[list[str]], lines: Sequence[int], separator: str) -> Columns:
    """Return the columns of rows, the first of which has the names."""
    names = [name.strip() for name in rows[0]]
    body = rows[1:]
    for line, cells in zip(lines[1:], body, strict=True):
        if len(cells) != len(names):
            raise ValueError(
                f"line {line}: {len(cells)} cells, but there are {len(names)} columns; quote texts"
                f" that contain the separator {separator!r}"
            )
    if not body:
        raise ValueError("there are no rows below the column names")
    # Excel writes columns that were once used
    width = max(n for n, name in enumerate(names, 1) if name or any(row[n - 1] for row in body))
    return Columns(
        names[:width],
        [row[:width] for row in body],
        place=lambda number: f"line {lines[number + 1]}",
        decimals={",": ".", "\t": ".,\t"}.get(separator, ".,"),
    )


def _width(text: str, separator: str) -> int:
    """Return how many cells the first row has."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        return len(next((cells for cells in reader if cells), ()))
    except csv.Error:
        return 0
