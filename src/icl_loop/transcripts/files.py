"""Finding saved sessions: transcripts and exports among paths and below folders."""

from collections.abc import Iterable
from pathlib import Path

from icl_loop.core.errors import TranscriptError
from icl_loop.transcripts.exported_tables import exports_below, is_exported


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the transcripts among `paths` and below the folders among them, each once, in order.

    Raises:
        TranscriptError: A path does not exist, there is no transcript at all, or one is an export.
    """
    found = sources(paths)
    for file in found:
        if is_exported(file):
            raise TranscriptError(
                f"{file} is an export; this needs the transcripts that it was made from (*.jsonl)"
            )
    return found


def sources(paths: Iterable[Path]) -> list[Path]:
    """Return the transcripts and exports among `paths` and below folders, each once, in order.

    Of a folder that holds both, the transcripts are taken: they are the record.

    Raises:
        TranscriptError: A path does not exist, or there is no transcript at all.
    """
    found: dict[object, Path] = {}
    for path in paths:
        if not path.exists():
            raise TranscriptError(f"{path} does not exist")
        below = _below(path) if path.is_dir() else [path]
        if not below:
            raise TranscriptError(f"{path} holds no transcripts (*.jsonl)")
        for file in below:
            found.setdefault(_identity(file), file)
    if not found:
        raise TranscriptError("no transcripts were named")
    return list(found.values())


def _below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jsonl")) or exports_below(folder)


def _identity(file: Path) -> object:
    """Return what is the same for all names of one file."""
    try:
        status = file.stat()
    except OSError:
        return file  # reading it says why
    return (status.st_dev, status.st_ino) if status.st_ino else file.resolve()
