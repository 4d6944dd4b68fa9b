"""Files of rows: reading their bytes, and telling which kind of file they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icl_loop.core.errors import DatasetError, reason_of
from icl_loop.core.regular_files import read_regular

MAX_BYTES = 32 * 2**20

_KINDS = (
    (b"PAR1", "parquet", "is a Parquet file; write parquet:{path}"),
    (b"PK\x03\x04", None, "is an Excel workbook or another zip file; save the sheet as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0", None, "is an old Excel workbook; save the sheet as CSV UTF-8"),
    (b"\x1f\x8b", None, "is gzipped; unpack it with gunzip"),
    (b"version https://git-lfs", None, "is a Git LFS pointer; fetch the file with git lfs pull"),
    (b"<!doctype html", None, "is a web page, not data; download the file itself"),
    (b"<html", None, "is a web page, not data; download the file itself"),
    (b'{"', "jsonl", "has JSON objects; write jsonl:{path}"),
    (b"[{", "jsonl", "has JSON objects; write jsonl:{path}"),
)
"""First bytes, the kind of data set that reads them, and what to do if it is another one."""


def read_bytes(path: Path, kind: str) -> bytes:
    """Return the content of a file of this kind of data set: `csv`, `jsonl` or `parquet`.

    Raises:
        OSError: The file cannot be read or is too large.
        ValueError: It is of another kind.
    """
    data = read_regular(path, MAX_BYTES, "; make a smaller one, as some thousand rows suffice")
    for start, reader, advice in _KINDS:
        if reader != kind and data[: len(start)].lower() == start.lower():
            raise ValueError(advice.format(path=path))
    return data


@contextmanager
def translated(source: str) -> Iterator[None]:
    """Turn errors about a source of data into a DatasetError that names it."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{source} cannot be read: {reason_of(error)}") from None
    except ValueError as error:
        raise DatasetError(f"{source}: {error}") from None
