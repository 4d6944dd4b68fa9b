"""Seals: a checksum at the end of each line of a transcript, by which damage is seen.

CRC-32 finds every change of one bit, and every change within 32 bits in a row. It is no signature:
who wants to forge a line can seal it again. A file without seals is taken as it is.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

from icl_loop.core.errors import ChecksumMismatch

SEAL = "crc32"
"""Name of the last field of a sealed line."""
_MARK = b',"%b":"' % SEAL.encode()
_FORM = _MARK + b'%08x"}'
_LENGTH = len(_FORM % 0)


def with_checksum(line: bytes) -> bytes:
    """Return a JSON object that is not empty with the checksum of its bytes as its last field."""
    body = line.removesuffix(b"}")
    return body + _seal_of(body)


def without_checksum(line: bytes) -> bytes:
    """Return a line of a transcript, with or without its end, without its checksum."""
    body = line.removesuffix(b"\n")
    if _MARK not in body[-_LENGTH:]:
        return line
    return body[:-_LENGTH] + b"}" + line[len(body) :]


def _seal_of(body: bytes) -> bytes:
    return _FORM % zlib.crc32(body)


def verify_checksums(path: Path, lines: Sequence[bytes], torn: bytes = b"") -> None:
    """Raise ChecksumMismatch, naming the first one, if a line is not as it was written.

    Once a line is sealed, all that follow must be. What is `torn` off the end is not read, but it
    must have been torn: a whole line that is followed by anything but a line end was changed.
    """
    is_sealed = False
    for number, line in enumerate(lines, start=1):
        if line[-_LENGTH:] == _seal_of(line[:-_LENGTH]):
            is_sealed = True
        elif _MARK in line[-_LENGTH:]:
            raise _damaged(path, number, "its checksum is not that of its bytes")
        elif is_sealed:
            raise _damaged(path, number, "it has lost its checksum")
    if torn[-_LENGTH - 1 : -1] == _seal_of(torn[: -_LENGTH - 1]):
        raise _damaged(path, len(lines) + 1, "it does not end as a line does")


def _damaged(path: Path, number: int, what: str) -> ChecksumMismatch:
    sound = number - 1
    kept = (
        f"the {sound} lines before it are sound: put back a copy of the file, or keep those alone"
        " and run again to ask for the rest anew"
        if sound
        else "put back a copy of the file, or move it away and run again"
    )
    return ChecksumMismatch(f"{path}, line {number}: {what}, so it was changed; {kept}")
