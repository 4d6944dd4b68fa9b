"""Finding transcripts and exports among paths and below folders."""

from collections.abc import Iterable
from pathlib import Path

from icl_loop.core.errors import TranscriptError
from icl_loop.transcripts.columns import exports_below, is_exported


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


def sources(paths: Iterable[Path]) -> list[Path]:
    """Return the transcripts and exports among `paths` and below folders, each once, in order.

    Exports in a folder that holds transcripts are left out: the transcripts are the record.

    Raises:
        TranscriptError: A path does not exist, or there is no transcript.
    """
    found: dict[object, Path] = {}
    for path in paths:
        if not path.exists():
            raise TranscriptError(f"{path} does not exist")
        below = [path]
        if path.is_dir():
            below = sorted(path.rglob("*.jsonl")) or exports_below(path)
        if not below:
            raise TranscriptError(f"{path} holds no transcripts (*.jsonl)")
        for file in below:
            found.setdefault(_identity(file), file)
    if not found:
        raise TranscriptError("no transcripts were named")
    return list(found.values())


def _identity(file: Path) -> object:
    """Return a key that all names of a file share."""
    try:
        status = file.stat()
    except OSError:
        return file  # opening it reports the reason
    return (status.st_dev, status.st_ino) if status.st_ino else file.resolve()
