"""A checksum at the end of each line of a transcript detects damage.

CRC-32 detects every single flipped bit and every error burst of up to 32 bits. It does not protect
against forgery: anyone can compute it anew. A file without checksums is accepted.
"""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from icl_loop.core.errors import ChecksumMismatch

CHECKSUM_KEY = "crc32"
"""The last field of a line."""
_KEY = b',"%b":"' % CHECKSUM_KEY.encode()
_SUFFIX = _KEY + b'%08x"}'
_LENGTH = len(_SUFFIX % 0)


def with_checksum(line: bytes) -> bytes:
    """Return a line, a non-empty JSON object, with the checksum of its bytes as the last field."""
    body = line.removesuffix(b"}")
    return body + _suffix(body)


def without_checksum(line: bytes) -> bytes:
    """Return a line without its checksum; a newline at its end is kept."""
    body = line.removesuffix(b"\n")
    if _KEY not in body[-_LENGTH:]:
        return line
    return body[:-_LENGTH] + b"}" + line[len(body) :]


def _suffix(body: bytes) -> bytes:
    return _SUFFIX % zlib.crc32(body)


def verified(path: Path, lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the complete lines of a file, without their newlines, each after its check.

    Args:
        path: The file, for messages.
        lines: Its lines with their newlines. After the first one with a checksum, all need one. The
            last may be torn; if it is a complete line but for one wrong byte in place of its newline,
            the file was changed rather than cut off.

    Raises:
        ChecksumMismatch: A line was changed; names the first one.
    """
    expected = False
    for number, whole in enumerate(lines, start=1):
        line = whole.removesuffix(b"\n")
        if line == whole:
            if line[-_LENGTH - 1 : -1] == _suffix(line[: -_LENGTH - 1]):
                raise _damaged(path, number, "it does not end in a newline")
            return
        if line[-_LENGTH:] == _suffix(line[:-_LENGTH]):
            expected = True
        elif _KEY in line[-_LENGTH:]:
            raise _damaged(path, number, "the checksum does not match")
        elif expected:
            raise _damaged(path, number, "the checksum is missing")
        yield line


def _damaged(path: Path, number: int, what: str) -> ChecksumMismatch:
    advice = (
        f"restore a copy, or keep only the {number - 1} intact lines before it and run again to"
        " replay the rest"
        if number > 1
        else "restore a copy, or move the file away and run again"
    )
    return ChecksumMismatch(f"{path}, line {number}: {what}, so the line was changed; {advice}")
