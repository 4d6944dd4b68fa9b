"""Comparing a session with its saved transcript."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_loop.core.errors import ReplayMismatch, SettingsMismatch
from icl_loop.core.records import Event, Probe
from icl_loop.transcripts.checksum import CHECKSUM_KEY
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import has_whole_line, read_header
from icl_loop.transcripts.schema import line_fields, turns_before

TIME_FIELDS = frozenset({"created", "at", "latency_s", "attempts", CHECKSUM_KEY})
"""The only fields in which a resumed session may differ from an uninterrupted one."""
PLACE_KEYS = tuple(
    f"settings.model.{key}" for key in ("base_url", "api_key_env", "organization", "headers")
)
"""Settings that may change between runs: the model's address and account."""


def compare(saved: Event | Probe, played: Event | Probe) -> None:
    """Raise ReplayMismatch, naming turn and field, if `played` differs from `saved`."""
    before, now = line_fields(saved), line_fields(played)
    for name in [name for name in {**before, **now} if name not in TIME_FIELDS]:
        if before.get(name) != now.get(name):
            raise ReplayMismatch(
                turns_before(saved), name, expected=now.get(name), found=before.get(name)
            )


def check_resumable(path: Path, header: Header, *, donor: bool = True) -> None:
    """Check that the session of `header` may be written to `path`: a new file, or its transcript.

    Args:
        path: The file.
        header: The session.
        donor: Whether its donor is known yet, and is compared.

    Raises:
        SettingsMismatch: The file holds another session.
        TranscriptError: The file is not a transcript of the current version.
    """
    if not has_whole_line(path):
        return
    saved = read_header(path)
    saved.check_replayable(path)
    if saved.source is not None:
        raise SettingsMismatch(
            f"{path} holds rescored replies of {saved.source.experiment} and cannot be resumed;"
            " resume its source, or choose another name or --out"
        )
    ignored = {"id", "created", "icl_loop"} | (set() if donor else {"donor"})
    before = flat(saved.model_dump(mode="json", exclude=ignored))
    now = flat(header.model_dump(mode="json", exclude=ignored))
    for key in sorted(before.keys() | now.keys()):
        if key.startswith((*PLACE_KEYS, "analysis.streams")):
            continue
        if {} in (before.get(key), now.get(key)):
            continue  # the keys of the table that is not empty differ
        if before.get(key) != now.get(key):
            raise SettingsMismatch(
                f"{path} was played with {key} = {before.get(key)!r}, which is now"
                f" {now.get(key)!r}; set it back to resume, or choose another name or --out"
            )


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one with dotted keys, as `--set` takes them."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
