"""The tables of an export to Parquet, and the polars columns that hold the fields of lines."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import polars as pl
from polars.exceptions import PanicException, PolarsError

from icl_loop.core.errors import TranscriptError, reason_of
from icl_loop.core.messages import Served, Usage
from icl_loop.core.parquet_size import check_unpacked_size
from icl_loop.core.regular_files import open_regular
from icl_loop.core.rust_panics import without_panic_messages
from icl_loop.transcripts.schema import (
    ChoiceLine,
    EntryLine,
    Line,
    NoteLine,
    ProbeLine,
    TurnLine,
    field_names,
)

Column = pl.DataType | type[pl.DataType]
Schema = Mapping[str, Column]

SUFFIX = ".parquet"
MAX_BYTES = 2**30
MAX_UNPACKED = 2**31
MAX_ROWS, MAX_VALUES = 5_000_000, 300_000_000
"""Most bytes of a table of an export, unpacked bytes, rows, and values."""
USAGE = tuple(each.name for each in fields(Usage))
_KINDS: Mapping[Any, Column] = {
    int: pl.Int64,
    float: pl.Float64,
    bool: pl.Boolean,
    list[str]: pl.List(pl.String),
    Usage: pl.Struct(dict.fromkeys(USAGE, pl.Int64)),
    Served: pl.Struct({each.name: pl.String for each in fields(Served)}),
}
_EXPANDED: Mapping[str, Schema] = {
    "usage": dict.fromkeys(USAGE, pl.Int64),
    "served": {
        "served": pl.Boolean,
        "served_model": pl.String,
        **{each.name: pl.String for each in fields(Served)[1:]},
    },
    "kept": {"kept": pl.List(pl.List(pl.Int64))},
    "picture": {"picture": pl.Binary},
}
"""Fields that exports hold in other columns than those into which polars reads JSON."""


def json_column(model: type[Line], name: str) -> Column:
    """Return the type of the column into which polars reads a field of JSON lines.

    Runs of turns, which repeat from session to session, stay JSON text.
    """
    return _KINDS.get(_python_type(model.model_fields[name].annotation), pl.String)


def _python_type(annotation: Any) -> Any:  # noqa: ANN401  any annotation
    """Return the type in an annotation, without None, constraints and literal values."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if NoneType in arguments:
        return _python_type(next(each for each in arguments if each is not NoneType))
    if origin is Annotated:
        return _python_type(arguments[0])
    return type(arguments[0]) if origin is Literal else annotation


def columns(model: type[Line]) -> dict[str, Column]:
    """Return the columns in which a table of an export holds the fields of a line."""
    found: dict[str, Column] = {}
    for name in field_names(model)[1:]:
        found |= _EXPANDED.get(name) or {name: json_column(model, name)}
    return found


LINES: Mapping[str, type[EntryLine]] = {
    "probes": ProbeLine,
    "notes": NoteLine,
    "choices": ChoiceLine,
    "turns": TurnLine,
}
"""The lines that each table but that of sessions holds."""
SESSION_SETTINGS: Schema = {
    "path": pl.String,
    "experiment": pl.String,
    "arm": pl.String,
    "stream": pl.Int64,
    "repeat": pl.Int64,
    "seed": pl.Int64,
    "id": pl.String,
    "model": pl.String,
    "model_settings": pl.String,
    "dataset": pl.String,
    "labels": pl.String,
    "policy": pl.String,
    "context": pl.String,
    "feedback": pl.String,
    "feedback_settings": pl.String,
    "donor": pl.String,
    "donor_stream": pl.Int64,
    "donor_repeat": pl.Int64,
    "donor_id": pl.String,
    "setup": pl.String,
    "primary": pl.List(pl.String),
    "secondary": pl.String,
    "margin": pl.Float64,
    "planned_streams": pl.Int64,
    "stopped_early": pl.Boolean,
    "first_own_turn": pl.Int64,
    "imported": pl.String,
    "published": pl.String,
}
"""The columns that `analysis.sessions` returns."""
TABLES: Mapping[str, dict[str, Column]] = {
    "sessions": {
        **SESSION_SETTINGS,
        **dict.fromkeys(("turns", "played", "probes", "notes", "choices"), pl.Int64),
        **dict.fromkeys(("status", "ended", "header"), pl.String),
        "chance": pl.Float64,
        "complete": pl.Boolean,
    },
    **{name: {"path": pl.String, **columns(model)} for name, model in LINES.items()},
}
"""The tables of an export, with the columns that are read back."""
TABLES["turns"] |= {"told_length": pl.Int64, "exposure": pl.Int64}
OPTIONAL = frozenset(
    {
        *("served_model", *(each.name for each in fields(Served)[1:])),
        *("status", "ended", "model", "labels", "policy"),
        *("feedback", "donor", "donor_stream", "donor_repeat", "donor_id", "primary", "margin"),
        *("planned_streams", "first_own_turn", "seed", "dataset", "exposure", "told_length"),
        *("imported", "published", *USAGE),
    }.union(
        name
        for model in LINES.values()
        for name, field in model.model_fields.items()
        if NoneType in get_args(field.annotation) and name != "served"
    )
)
"""The columns in which values may be missing."""
_ADDED: Mapping[str, str | int | None] = {
    "verdicts": "told",
    "imported": None,
    "published": None,
    "choices": 0,
}
"""Columns that earlier exports do not have, and the value of all their rows."""


def table_path(export: Path, table: str) -> Path:
    """Return the path of a table of an export: its own for turns, otherwise `x.probes.parquet`."""
    if table == "turns":
        return export
    return export.with_name(f"{export.stem}.{table}{export.suffix}")


def is_exported(path: Path) -> bool:
    """Return whether a path is that of an export, judging by its name."""
    return path.suffix == SUFFIX


def exports_below(folder: Path) -> list[Path]:
    """Return the exports below a folder, in order."""
    files = sorted(folder.rglob(f"*{SUFFIX}"))
    others = {table_path(file, table) for file in files for table in TABLES if table != "turns"}
    return [file for file in files if file not in others]


def read_table(
    export: Path, table: str, names: Iterable[str], rows: tuple[int, int | None] = (0, None)
) -> pl.DataFrame:
    """Return some columns of a table of an export.

    Args:
        export: The export.
        table: One of `TABLES`.
        names: The columns.
        rows: First row, and number of rows or None for all.

    Raises:
        TranscriptError: The table is missing, damaged, or not of an export; names the file.
    """
    file, schema = table_path(export, table), {name: TABLES[table][name] for name in names}
    if table == "choices" and not file.exists() and _has_no_choices(export):
        return pl.DataFrame(schema=schema)
    try:
        _check_readable(file)
    except FileNotFoundError:
        raise TranscriptError(f"{file} does not exist; {_how_to_name(export)}") from None
    except OSError as error:
        raise TranscriptError(f"{file} cannot be read: {reason_of(error)}") from None
    except ValueError as error:
        raise TranscriptError(f"{file} cannot be read: {error}; export it again") from None
    try:
        scan = pl.scan_parquet(file, glob=False, low_memory=True)
        with without_panic_messages():
            count = scan.select(pl.len()).collect().item()
            if count > MAX_ROWS:
                raise TranscriptError(f"{file} has {count:,} rows, more than {MAX_ROWS:,}")
            absent = [
                name for name in _ADDED if name in schema and name not in scan.collect_schema()
            ]
            scan = scan.with_columns(
                pl.lit(_ADDED[name], schema[name]).alias(name) for name in absent
            )
            _check_columns(file, table, scan.collect_schema(), schema)
            found = scan.select(*schema).slice(*rows).collect()
    except (OSError, PolarsError, PanicException):
        raise TranscriptError(
            f"{file} cannot be read: it is not a Parquet file, or it is damaged; export it again"
        ) from None
    for name in schema.keys() - OPTIONAL:
        if found[name].null_count():
            raise TranscriptError(
                f"{file} is damaged: {name!r} is missing in a row; export it again"
            )
    return found


def _has_no_choices(export: Path) -> bool:
    """Return whether an export was written before there was a table of choices."""
    file = table_path(export, "sessions")
    try:
        _check_readable(file)
        sessions = pl.scan_parquet(file, glob=False).collect_schema()
    except (OSError, ValueError, PolarsError, PanicException):
        return False
    return "choices" not in sessions


def _check_readable(file: Path) -> None:
    """Raise OSError or ValueError if a table is no regular file or too large."""
    status = file.stat()
    _check_size(file, status.st_size, status.st_mtime_ns)


@lru_cache(64)  # of a table that is not changed
def _check_size(file: Path, _size: int, _modified_ns: int) -> None:
    with open_regular(file, MAX_BYTES) as opened:
        data = mmap(opened.fileno(), 0, access=ACCESS_READ) if _size else b""
        check_unpacked_size(data, MAX_UNPACKED, MAX_VALUES)


def _how_to_name(export: Path) -> str:
    """Return advice on which file of an export to name."""
    stem, _, table = export.stem.rpartition(".")
    if stem and table in TABLES:
        return f"{export} is one table of an export; name {stem}{export.suffix} instead"
    return f"the tables of {export} must be beside it"


def _check_columns(file: Path, table: str, found: Schema, expected: Schema) -> None:
    """Raise TranscriptError unless the columns are those of an export."""
    for name, kind in expected.items():
        if found.get(name) != kind:
            what = f"holds {found[name]}, not {kind}" if name in found else "is missing"
            raise TranscriptError(
                f"{file} is not the table of {table} of an export: its column {name!r} {what}"
            )
