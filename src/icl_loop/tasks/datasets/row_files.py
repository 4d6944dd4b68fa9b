"""Parquet and JSON Lines files: a table of numbers or a list of texts, with a label in each row."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_loop.core.parquet_size import check_unpacked_size
from icl_loop.core.rust_panics import without_panic_messages
from icl_loop.tasks.datasets.columns import (
    COLUMN_OPTIONS,
    MAX_CELLS,
    Columns,
    LoadedColumns,
    options_of,
    samples,
)
from icl_loop.tasks.datasets.source_file import read_bytes, translated

MAX_UNPACKED = 2**28
"""Most bytes of the unpacked pages of a Parquet file, and of its texts."""


def load_parquet(source: str) -> LoadedColumns:
    """Return the samples of a Parquet file, given as `PATH` or `PATH?label=NAME&text=NAME`.

    The columns are chosen as in `samples`. Numbers of classes get the names that Hugging Face's
    `datasets` writes into the metadata of the file.

    Raises:
        DatasetError: The file cannot be read; the message names file, row, column and value.
    """
    path, _, query = source.partition("?")
    with translated(path):
        options = options_of(query, COLUMN_OPTIONS)
        return samples(parquet_columns(Path(path)), options)


def parquet_columns(path: Path) -> Columns:
    """Return all columns of a Parquet file; raise ValueError if it cannot be read."""
    import polars as pl  # noqa: PLC0415  loads slowly

    data = read_bytes(path, "parquet")
    check_unpacked_size(data, MAX_UNPACKED, 2 * MAX_CELLS)  # cells may be lists
    try:
        with without_panic_messages():
            scan = pl.scan_parquet(io.BytesIO(data))
            check_size(scan.select(pl.len()).collect().item(), len(scan.collect_schema()))
            frame = scan.collect()
            texts = frame.select(pl.col(pl.String).str.len_bytes(), pl.col(pl.Binary).bin.size())
            metadata = pl.read_parquet_metadata(io.BytesIO(data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise ValueError("this is not a Parquet file, or it is damaged") from None
    if sum(each.sum() for each in texts) > MAX_UNPACKED:
        raise ValueError(f"its texts have more than {MAX_UNPACKED // 2**20} MiB")
    return _of_rows(frame.columns, frame.rows(), _class_names(metadata))


def load_jsonl(source: str) -> LoadedColumns:
    """Return the samples of a file with a JSON object per line, or with one array of objects.

    `source` is `PATH` or `PATH?label=NAME&text=NAME`. The columns are chosen as in `samples`.

    Raises:
        DatasetError: The file cannot be parsed; the message names file, row, column and value.
    """
    path, _, query = source.partition("?")
    with translated(path):
        options = options_of(query, COLUMN_OPTIONS)
        objects = _objects(read_bytes(Path(path), "jsonl"))
        names = list(dict.fromkeys(name for each in objects for name in each))
        check_size(len(objects), len(names))
        rows = [[each.get(name) for name in names] for each in objects]
        return of_rows(names, rows, options)


def of_rows(
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    options: Mapping[str, str],
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> LoadedColumns:
    """Return the samples in rows; `class_names` are by column and number.

    Raises:
        ValueError: A column or cell is wrong; rows are counted from 1.
    """
    return samples(_of_rows(names, rows, class_names or {}), options)


def _of_rows(
    names: Sequence[str], rows: Sequence[Sequence[Any]], class_names: Mapping[str, Sequence[str]]
) -> Columns:
    check_size(len(rows), len(names))
    return Columns(names, rows, lambda at: f"row {at + 1}", class_names)


def check_size(rows: int, columns: int) -> None:
    """Raise ValueError if there are no cells or too many."""
    if not rows or not columns:
        raise ValueError("there are no rows")
    if rows * columns > MAX_CELLS:
        raise ValueError(
            f"there are {rows:,} rows of {columns} columns, more than {MAX_CELLS:,} cells; use fewer"
            " rows or columns"
        )


def _class_names(metadata: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of the classes, by column, in the metadata that `datasets` writes."""
    try:
        features = json.loads(metadata.get("huggingface", "{}"))["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


def _objects(data: bytes) -> list[dict[str, Any]]:
    """Return the objects of a file, from one array or a line each."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: byte {data[error.start]:#04x} is not UTF-8, which JSON files must be;"
            " convert the file, as with iconv -f UTF-16 -t UTF-8"
        ) from None
    if text.lstrip().startswith("["):
        found = parsed_json(text, "")
        objects = found if isinstance(found, list) else []
        places = [f"entry {number}" for number in range(1, len(objects) + 1)]
    else:
        lines = [(f"line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        places = [place for place, _ in lines]
        objects = [parsed_json(line, f"{place}: ") for place, line in lines]
    for place, each in zip(places, objects, strict=True):
        if not isinstance(each, dict):
            form = '{"text": "hi", "label": "x"}'
            raise ValueError(f"{place}: this is not an object such as {form}")  # noqa: TRY004  found in a file
    return objects


def parsed_json(text: str | bytes, place: str) -> Any:  # noqa: ANN401  any JSON value
    """Return a JSON value; raise ValueError, which begins with `place`, if it is wrong."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        reason = "an escape such as \\ud800 is half a character"
    except json.JSONDecodeError as error:
        reason = f"at character {error.pos + 1}"
    except (ValueError, RecursionError):
        reason = "a number is too long, or it is nested too deeply"
    else:
        return value
    raise ValueError(f"{place}this is not valid JSON ({reason}); write one object per line")
