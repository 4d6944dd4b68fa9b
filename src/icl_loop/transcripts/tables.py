"""The tables of an export to Parquet, and the polars columns that hold the fields of lines."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import polars as pl
from polars.exceptions import PanicException, PolarsError

from icl_loop.core.errors import TranscriptError
from icl_loop.core.messages import Served, Usage
from icl_loop.transcripts.schema import Line, NoteLine, ProbeLine, TurnLine, field_names

TABLES = ("turns", "sessions", "probes", "notes")
"""The tables of an export. The path of the export is that of its turns."""
SUFFIX = ".parquet"
Schema = Mapping[str, pl.DataType | type[pl.DataType]]

USAGE = tuple(each.name for each in fields(Usage))
SERVED = tuple(each.name for each in fields(Served))
_SCALARS = {int: pl.Int64, float: pl.Float64, bool: pl.Boolean, str: pl.String}
_SERVED_COLUMNS = ("served_model", "system_fingerprint")


def python_type(model: type[Line], name: str) -> tuple[Any, bool]:
    """Return the type of a field, and whether it may be null."""
    annotation = model.model_fields[name].annotation
    kinds = get_args(annotation) if NoneType in get_args(annotation) else (annotation,)
    (kind,) = [each for each in kinds if each is not NoneType]
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    elif get_origin(kind) is Literal:
        kind = type(get_args(kind)[0])
    return kind, len(kinds) > 1


def json_column(model: type[Line], name: str) -> pl.DataType | type[pl.DataType]:
    """Return the type of the column into which polars reads a field of JSON lines.

    Runs of turns, which repeat from session to session, stay JSON text.
    """
    kind, _ = python_type(model, name)
    if kind in (Usage, Served):
        return pl.Struct(
            dict.fromkeys(USAGE, pl.Int64) if kind is Usage else dict.fromkeys(SERVED, pl.String)
        )
    if kind == list[str]:
        return pl.List(pl.String)
    return _SCALARS.get(kind, pl.String)


def columns(model: type[Line]) -> dict[str, pl.DataType | type[pl.DataType]]:
    """Return the columns in which a table of an export holds the fields of a line."""
    found: dict[str, pl.DataType | type[pl.DataType]] = {}
    for name in field_names(model)[1:]:
        kind, _ = python_type(model, name)
        if kind is Usage:
            found |= dict.fromkeys(USAGE, pl.Int64)
        elif kind is Served:
            found |= {name: pl.Boolean, **dict.fromkeys(_SERVED_COLUMNS, pl.String)}
        elif get_origin(kind) is tuple:
            found[name] = pl.List(pl.List(pl.Int64))
        else:
            found[name] = pl.Binary if kind is bytes else _SCALARS.get(kind, pl.String)
    return found


def nullable(model: type[Line]) -> frozenset[str]:
    """Return the columns of a line in which values may be missing."""
    names = {name for name in model.model_fields if python_type(model, name)[1]}
    return frozenset(names - {"served"} | set(_SERVED_COLUMNS))


LINES: Mapping[str, type[TurnLine | ProbeLine | NoteLine]] = {
    "turns": TurnLine,
    "probes": ProbeLine,
    "notes": NoteLine,
}
"""The lines that each table but that of sessions holds."""


def beside(place: Path, table: str) -> Path:
    """Return the path of a table of an export other than its turns, such as `x.probes.parquet`."""
    return place.with_name(f"{place.stem}.{table}{place.suffix}")


def is_exported(path: Path) -> bool:
    """Return whether a path is that of an export, judging by its name."""
    return path.suffix == SUFFIX


def exports_below(folder: Path) -> list[Path]:
    """Return the exports below a folder, in order."""
    files = sorted(folder.rglob(f"*{SUFFIX}"))
    others = {beside(file, table) for file in files for table in TABLES if table != "turns"}
    return [file for file in files if file not in others]


def read_table(
    path: Path,
    name: str,
    schema: Schema,
    required: Iterable[str] = (),
    rows: tuple[int, int] | None = None,
) -> pl.DataFrame:
    """Return columns of a table of an export.

    Args:
        path: The export.
        name: One of `TABLES`.
        schema: The columns and their types.
        required: Columns in which no value may be missing.
        rows: First row and number of rows; all rows if None.

    Raises:
        TranscriptError: The table is missing, damaged, or not of an export; names the file.
    """
    file = path if name == "turns" else beside(path, name)
    if not file.is_file():
        raise TranscriptError(f"{file} does not exist; {_how_to_name(path)}")
    try:
        found = pl.scan_parquet(file, glob=False, low_memory=True)
        _check_columns(file, name, found.collect_schema(), schema)
        table = found.select(*schema).slice(*(rows or (0, None))).collect()
    except (OSError, PolarsError, PanicException) as error:
        message = str(error).split("\n", 1)[0][:200]
        raise TranscriptError(f"{file} cannot be read: {message}; export it again") from None
    for column in required:
        if table[column].null_count():
            raise TranscriptError(
                f"{file} is damaged: {column!r} is missing in a row; export it again"
            )
    return table


def _how_to_name(path: Path) -> str:
    """Return advice on which file of an export to name."""
    stem, _, name = path.stem.rpartition(".")
    if stem and name in TABLES:
        return f"{path} is one table of an export; name {stem}{path.suffix} instead"
    return f"the tables of {path} must be beside it"


def _check_columns(file: Path, name: str, found: Schema, expected: Schema) -> None:
    """Raise TranscriptError unless the columns are those of an export."""
    for column, kind in expected.items():
        if column not in found:
            what = f"it has no column {column!r}"
        elif found[column] != kind:
            what = f"its column {column!r} holds {found[column]}, not {kind}"
        else:
            continue
        raise TranscriptError(f"{file} is not the table of {name} of an export: {what}")
