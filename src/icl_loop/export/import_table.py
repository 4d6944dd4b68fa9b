"""Sessions in a table of turns: a CSV or Parquet file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_loop.core.errors import nearest
from icl_loop.export.imported_session import (
    ImportedSession,
    known_labels,
    parsed_reply,
    turn_line,
)
from icl_loop.tasks.answers import ParsedAnswer
from icl_loop.tasks.datasets.columns import Columns
from icl_loop.tasks.datasets.csv_file import csv_columns
from icl_loop.tasks.datasets.row_files import parquet_columns

REQUIRED = ("session", "turn", "answer", "label", "told")
OPTIONAL = ("arm", "stream", "model", "sample", "question", "reply")
"""Columns that are used if they are there."""
_OF_SESSION = ("arm", "stream", "model")
"""Columns with one value per session."""


def sessions_in(path: Path, given: Sequence[str]) -> list[ImportedSession]:
    """Return the sessions of a table with the columns `REQUIRED`, and perhaps `OPTIONAL`, in order.

    The answer is a label, or a reply that gives one. An empty cell of `told` says that nothing was
    told; an empty cell of `answer` is an unreadable answer.

    Raises:
        ValueError: A column or cell is wrong; the message names row, column and value.
    """
    columns = parquet_columns(path) if path.suffix == ".parquet" else csv_columns(path)
    rows = _Rows(columns)
    labels = known_labels(given, [rows.text(at, "label") for at in rows.all], "column 'label'")
    sessions: dict[str, list[int]] = {}
    for at in rows.all:
        sessions.setdefault(rows.text(at, "session"), []).append(at)
    return [_session(name, rows, mine, labels) for name, mine in sessions.items()]


class _Rows:
    """The cells of a table as texts; None if empty."""

    def __init__(self, columns: Columns) -> None:
        names = {name.strip().casefold(): index for index, name in enumerate(columns.names)}
        for name in REQUIRED:
            if name not in names:
                raise ValueError(
                    f"there is no column {name!r} ({nearest(name, columns.names)}); a table of turns"
                    f" has the columns {', '.join(REQUIRED)}, and may have {', '.join(OPTIONAL)}"
                )
        self.place, self.all = columns.place, range(len(columns.rows))
        self._cells = {
            name: [
                _as_text(row[names[name]], f"{self.place(at)}, column {name!r}")
                for at, row in enumerate(columns.rows)
            ]
            for name in (*REQUIRED, *OPTIONAL)
            if name in names
        }

    def cell(self, at: int, name: str) -> str | None:
        return self._cells[name][at] if name in self._cells else None

    def text(self, at: int, name: str) -> str:
        if not (text := (self.cell(at, name) or "").strip()):
            raise ValueError(f"{self.place(at)}, column {name!r}: the cell is empty")
        return text

    def number(self, at: int, name: str) -> int:
        text = self.text(at, name)
        if not text.isdecimal() or len(text) > 18:
            raise self.wrong(at, name, "is not a whole number from 0")
        return int(text)

    def wrong(self, at: int, name: str, what: str) -> ValueError:
        return ValueError(f"{self.place(at)}, column {name!r}: {self.cell(at, name)!r} {what}")


def _as_text(cell: object, place: str) -> str | None:
    """Return a cell as text, whole numbers without decimals; None if it is empty."""
    if cell is None or cell == "" or cell != cell:
        return None
    if not isinstance(cell, str | int | float):
        raise ValueError(f"{place}: the cell is neither text nor a number")  # noqa: TRY004  found in a file
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)


def _session(name: str, rows: _Rows, mine: Sequence[int], labels: Sequence[str]) -> ImportedSession:
    first, shared = mine[0], dict[str, str | None]()
    for column in _OF_SESSION:
        shared[column] = rows.cell(first, column)
        for at in mine:
            if rows.cell(at, column) != shared[column]:
                what = (
                    f"differs from {shared[column]!r} in {rows.place(first)}, of session {name!r}"
                )
                raise rows.wrong(at, column, what)
    order = sorted(mine, key=lambda at: rows.number(at, "turn"))
    start = rows.number(order[0], "turn")
    for number, at in enumerate(order, min(start, 1)):
        if (turn := rows.number(at, "turn")) != number:
            what = "occurs twice" if turn < number else f"comes where turn {number} is missing"
            raise rows.wrong(at, "turn", f"{what} in session {name!r}")
    lines = [_turn(number, rows, at, labels) for number, at in enumerate(order)]
    model = shared["model"]
    return ImportedSession(
        key=name,
        place=rows.place(first),
        labels=labels,
        lines=lines,
        arm=shared["arm"],
        stream=None if shared["stream"] is None else rows.number(first, "stream"),
        header={"settings": {"model": {"name": model}} if model else {}},
    )


def _turn(number: int, rows: _Rows, at: int, labels: Sequence[str]) -> Mapping[str, Any]:
    label, answer, reply = rows.text(at, "label"), rows.cell(at, "answer"), rows.cell(at, "reply")
    if answer is None:
        parsed = ParsedAnswer(None, "unreadable")
    elif answer.strip() in labels:
        parsed = ParsedAnswer(answer.strip(), "ok")
    else:
        parsed = parsed_reply(answer, labels)
        reply = answer if reply is None else reply
    known = {
        "sample": rows.cell(at, "sample"),
        "question": rows.cell(at, "question"),
        "told": rows.cell(at, "told") or "",
        "reply": reply,
    }
    return turn_line(number, label, parsed, known)
