"""Finding transcripts and exports among paths and below folders."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from icl_loop.core.errors import TranscriptError
from icl_loop.transcripts.columns import exports_below, is_exported

MAX_BYTES = 2**30
"""Most bytes of a transcript."""
MAX_LINE = 32 * 2**20
"""Most bytes of a line: twice those of a reply that is accepted."""
_COMPRESSED: Mapping[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"\x1f\x9d": "compress",
    b"(\xb5/\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"\x5d\x00\x00": "lzma",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
}
"""Formats by the bytes that files begin with."""


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the transcripts among `paths` and below folders, each once, in order.

    Raises:
        TranscriptError: A path does not exist or is an export, or there is no transcript.
    """
    found = sources(paths)
    for file in filter(is_exported, found):
        raise TranscriptError(
            f"{file} is an export; name the transcripts that it was made from (*.jsonl)"
        )
    return found


def sources(paths: Iterable[Path | str]) -> list[Path]:
    """Return the transcripts and exports among `paths` and below folders, each once, in order.

    Exports in a folder that holds transcripts are left out: the transcripts are the record.

    Raises:
        TranscriptError: A path does not exist, or there is no transcript.
    """
    found: dict[object, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise TranscriptError(f"{path} does not exist")
        below = [path]
        if path.is_dir():
            below = sorted(path.rglob("*.jsonl")) or exports_below(path)
        if not below:
            others = (file for file in path.rglob("*.jsonl.*") if file.suffix != ".part")
            other = next(others, None)
            hint = f"; if {other} is compressed, decompress it first" if other else ""
            raise TranscriptError(f"{path} holds no transcripts (*.jsonl){hint}")
        for file in below:
            found.setdefault(_identity(file), file)
    if not found:
        raise TranscriptError("no transcripts were named")
    return list(found.values())


def check_uncompressed(path: Path, beginning: bytes) -> None:
    """Raise TranscriptError if a file that begins with these bytes is compressed.

    Libraries would decompress it without a word, and then its size and checksums are not those of
    the file.
    """
    if name := _compression(beginning):
        raise TranscriptError(f"{path} looks like {name} data; decompress it to get a transcript")


def _compression(beginning: bytes) -> str | None:
    for magic, name in _COMPRESSED.items():
        if beginning.startswith(magic):
            return name
    is_zlib = beginning[:1] and beginning[0] & 0x8F == 8  # RFC 1950, as is the factor of 31
    return "zlib" if is_zlib and int.from_bytes(beginning[:2]) % 31 == 0 else None


def _identity(file: Path) -> object:
    """Return a key that all names of a file share."""
    try:
        status = file.stat()
    except OSError:
        return file  # opening it reports the reason
    return (status.st_dev, status.st_ino) if status.st_ino else file.resolve()
