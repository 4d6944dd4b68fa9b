"""Comparing a session with its saved transcript."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_loop.core.errors import ReplayMismatch, SettingsMismatch
from icl_loop.core.records import Event, Probe
from icl_loop.core.validation_messages import shown_value
from icl_loop.transcripts.checksum import CHECKSUM_KEY
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import has_entry, has_whole_line, read_header
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


def check_resumable(path: Path, header: Header, *, donor: bool = True) -> bool:
    """Return whether the transcript at `path` is resumed by the session of `header`.

    It is begun anew if there is none, or if it has other settings and no turn, note or probe, as after a
    typing error in the name of the model.

    Args:
        path: The file.
        header: The session.
        donor: Whether its donor is known yet, and is compared.

    Raises:
        SettingsMismatch: The file holds another session.
        TranscriptError: The file is not a transcript of the current version.
    """
    if not has_whole_line(path):
        return False
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
        if key.startswith((*PLACE_KEYS, "analysis.streams", "analysis.published")):
            continue
        if {} in (before.get(key), now.get(key)):
            continue  # the keys of the table that is not empty differ
        if before.get(key) != now.get(key):
            if not has_entry(path):
                return False
            raise SettingsMismatch(_difference(path, key, before.get(key), now.get(key)))
    return True


def _difference(path: Path, key: str, before: object, now: object) -> str:
    """Return what differs in a saved session, and what to do."""
    name = key.removeprefix("settings.")
    saved, given = ("unset" if each is None else shown_value(each) for each in (before, now))
    advice = "set it back to resume"
    if name == "turns" and isinstance(before, int) and isinstance(now, int) and before < now:
        advice = (
            "to play more turns, continue the saved sessions with"
            f" icl-loop branch {shlex.quote(str(path.parent))} --at {before} --turns {now}"
        )
    return (
        f"{path} was played with {name} = {saved}, which is now {given}; {advice}, or choose another"
        " name or --out"
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
