"""Which requests were made for a session itself, and which were paid for elsewhere."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis.session_settings import whole_in
from icl_loop.core.errors import TranscriptError
from icl_loop.transcripts.exported_tables import Schema, is_exported, table
from icl_loop.transcripts.files import sources

_SCHEMA: Schema = {"path": pl.String, "bought_from": pl.Int64}


def bought(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the turn from which on the requests of each session were its own, one row each.

    Columns: `path`, `bought_from`: 0, or the turn at which a branch left its parent, which paid for
    those before; null where replies were read again, all of which their source paid for.

    Raises:
        TranscriptError: A file does not begin with the line of a session.
    """
    rows = [
        (path, _bought_from(path, header))
        for exported, files in groupby(sources(paths), is_exported)
        for path, header in (_exported(files) if exported else _saved(files))
    ]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _exported(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    texts = {"path": pl.String, "header": pl.String}
    for file in files:
        yield from table(file, "sessions", texts, texts).iter_rows()


def _saved(files: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    for path in files:
        with path.open("rb") as file:
            yield str(path), file.readline()


def _bought_from(path: str, header: str | bytes) -> int | None:
    try:
        said = json.loads(header)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise TranscriptError(f"{path}, line 1 is not a line of a transcript")
    return None if _table(said, "source") else whole_in(_table(said, "branch"), "at") or 0


def _table(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = said.get(key)
    return found if isinstance(found, dict) else {}
