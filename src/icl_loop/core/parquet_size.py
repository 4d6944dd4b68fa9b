"""How much a Parquet file unpacks to, from the headers of its pages: readers allocate what these say.

The layout is that of the Parquet specification: a footer with the places of the column chunks, whose
pages each begin with a header; both are in the compact protocol of Thrift.
"""

import mmap
from collections.abc import Iterator
from typing import Any

Bytes = bytes | mmap.mmap

_MAGIC = b"PAR1"
_MAX_FOOTER, _MAX_HEADER = 2**20, 2**16
_MAX_PAGES = 100_000
_BOOLS, _INTEGERS, _BINARY, _LISTS, _MAP, _STRUCT = (1, 2), (4, 5, 6), 8, (9, 10), 11, 12
"""Types of values."""
_FIXED = {1: 1, 2: 1, 3: 1, 7: 8, 13: 16}
"""Bytes of values of fixed length, by type: boolean in a list, byte, double, UUID."""
_LONG = 15
"""Length of a list that says that the length follows."""


def check_unpacked_size(data: Bytes, limit: int, values: int) -> None:
    """Check that the pages of a Parquet file unpack to at most `limit` bytes and `values` values.

    Raises:
        ValueError: They unpack to more, or this is no Parquet file or a damaged one.
    """
    size = count = pages = 0
    try:
        for page_size, page_values in _pages(data):
            size, count, pages = size + page_size, count + page_values, pages + 1
            if size > limit or count > values or pages > _MAX_PAGES:
                break
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise ValueError("this is not a Parquet file, or it is damaged") from None
    if size > limit:
        raise ValueError(f"it unpacks to more than {limit // 2**20:,} MiB")
    if count > values or pages > _MAX_PAGES:
        raise ValueError(f"it has more than {values:,} values or {_MAX_PAGES:,} pages")


def _pages(data: Bytes) -> Iterator[tuple[int, int]]:
    """Yield the unpacked bytes and the values of each page that the footer leads to."""
    length = int.from_bytes(data[-8:-4], "little")
    if (
        data[:4] != _MAGIC
        or data[-4:] != _MAGIC
        or not 0 < length <= min(_MAX_FOOTER, len(data) - 8)
    ):
        raise ValueError
    footer = _Thrift(data[-8 - length : -8]).struct()
    for group in footer[4]:
        for column in group[1]:
            chunk = column[3]
            place = min(chunk[9], chunk.get(11) or chunk[9])
            end = place + chunk[7]
            if not 0 < place <= end <= len(data):
                raise ValueError
            while place < end:
                thrift = _Thrift(data[place : min(end, place + _MAX_HEADER)])
                header = thrift.struct()
                values = (header.get(5) or header.get(8) or {}).get(1, 0)
                if header[2] < 0 or header[3] < 0 or values < 0:
                    raise ValueError
                yield header[2], values
                place += thrift.at + header[3]


class _Thrift:
    """Reads a value in the compact protocol; fields are by number."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self) -> dict[int, Any]:
        """Return the fields of the struct that comes next."""
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            number = number + (kind >> 4) if kind >> 4 else self._integer()
            fields[number] = kind & 15 == 1 if kind & 15 in _BOOLS else self._value(kind & 15)
        return fields

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        found, shift = 0, 0
        while (byte := self._byte()) & 128:
            found, shift = found | (byte & 127) << shift, shift + 7
            if shift > 70:
                raise ValueError
        return found | byte << shift

    def _integer(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _value(self, kind: int) -> Any:  # noqa: ANN401  a value of any type
        if kind in _INTEGERS:
            return self._integer()
        if kind in _LISTS:
            first = self._byte()
            count = self._varint() if first >> 4 == _LONG else first >> 4
            return [self._value(first & 15) for _ in range(count)]
        if kind == _STRUCT:
            return self.struct()
        self._skip(kind)
        return None

    def _skip(self, kind: int) -> None:
        """Move behind a value that is not used."""
        if kind == _MAP:
            kinds = self._byte() if (count := self._varint()) else 0
            for number in range(2 * count):
                self._value(kinds & 15 if number % 2 else kinds >> 4)
            return
        length = self._varint() if kind == _BINARY else _FIXED[kind]
        self.at += length
