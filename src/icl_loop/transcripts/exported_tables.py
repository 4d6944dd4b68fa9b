"""Tables of transcripts that were exported to Parquet, read in place of the transcripts."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException, PolarsError

from icl_loop.core.errors import TranscriptError

TABLES = ("turns", "sessions", "probes", "notes")
"""Tables of an export; that of turns is called as the export is."""
SUFFIX = ".parquet"
Schema = Mapping[str, pl.DataType | type[pl.DataType]]


def beside(place: Path, table: str) -> Path:
    """Return where another table than that of turns is: `x.parquet`, `x.probes.parquet`."""
    return place.with_name(f"{place.stem}.{table}{place.suffix}")


def is_exported(path: Path) -> bool:
    """Whether a path is that of an export, by its name."""
    return path.suffix == SUFFIX


def exports_below(folder: Path) -> list[Path]:
    """Return the tables of turns below a folder, in order."""
    files = sorted(folder.rglob(f"*{SUFFIX}"))
    others = {beside(file, table) for file in files for table in TABLES if table != "turns"}
    return [file for file in files if file not in others]


def table(
    path: Path,
    name: str,
    schema: Schema,
    whole: Iterable[str] = (),
    rows: tuple[int, int] | None = None,
) -> pl.DataFrame:
    """Return these columns of a table of the export at `path`.

    Args:
        path: Where its turns are; the other tables are beside it.
        name: Which table; one of `TABLES`.
        schema: The columns that are read, and what they hold.
        whole: Those of them in which nothing may be missing.
        rows: The first row that is read, and how many are; all if None.

    Raises:
        TranscriptError: It is not there, damaged, or another table; names the file.
    """
    file = path if name == "turns" else beside(path, name)
    if not file.is_file():
        raise TranscriptError(f"{file} does not exist; {_how_to_name(path)}")
    try:
        found = pl.scan_parquet(file, glob=False, low_memory=True)
        _refuse_other(file, name, found.collect_schema(), schema)
        read = found.select(*schema).slice(*(rows or (0, None))).collect()
    except (OSError, PolarsError, PanicException) as error:
        said = str(error).split("\n", 1)[0][:200]
        raise TranscriptError(f"{file} cannot be read: {said}; export it anew") from None
    for column in whole:
        if read[column].null_count():
            raise TranscriptError(f"{file} is not whole: {column!r} is missing in a row of it")
    return read


def _how_to_name(path: Path) -> str:
    """Return which file of an export should be named, if not this one."""
    stem, _, name = path.stem.rpartition(".")
    if stem and name in TABLES:
        return f"{path} is one table of an export, which is read by the name of {stem}{path.suffix}"
    return f"{path} is read with the tables beside it"


def _refuse_other(file: Path, name: str, found: Schema, expected: Schema) -> None:
    """Raise TranscriptError unless the columns are those of an export."""
    for column, kind in expected.items():
        if column not in found:
            what = f"it has no column {column!r}"
        elif found[column] != kind:
            what = f"its column {column!r} holds {found[column]}, not {kind}"
        else:
            continue
        raise TranscriptError(f"{file} is not the table of {name} of an export: {what}")
