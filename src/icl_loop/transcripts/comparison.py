"""Whether what is played is what was saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_loop.core.errors import ReplayMismatch, SettingsMismatch
from icl_loop.core.records import Event, Probe
from icl_loop.transcripts.checksum import SEAL
from icl_loop.transcripts.fields import event_fields
from icl_loop.transcripts.header import HEADER, Header
from icl_loop.transcripts.reader import first_line, has_whole_line, parse, turns_before

TIME_FIELDS = frozenset({"created", "at", "latency_s", "attempts", SEAL})
"""The only fields in which a resumed session may differ from one that was never cut: times, and the
checksum over them."""
_ADDED = ("counted", "prefix", "limit")
"""Fields that sessions have not always been saved with."""
PLACE_KEYS = tuple(
    f"settings.model.{key}" for key in ("base_url", "api_key_env", "organization", "headers")
)
"""Where a model is asked and who pays; a session may go on at another address."""


def compare(saved: Event | Probe, played: Event | Probe) -> None:
    """Raise ReplayMismatch, naming turn and field, if `played` is not what was saved.

    Fields that a session was saved without are left out.
    """
    before, now = event_fields(saved), event_fields(played)
    unsaid = {name for name in _ADDED if before.get(name) is None}
    for name in [name for name in {**before, **now} if name not in TIME_FIELDS | unsaid]:
        was, is_now = before.get(name), now.get(name)
        if was != is_now:
            raise ReplayMismatch(turns_before(saved), name, expected=is_now, found=was)


def check_resumable(path: Path, header: Header, *, donor: bool = True) -> None:
    """Raise SettingsMismatch if the file at `path` holds a session other than `header` describes.

    Where it is not known yet, the donor is left out.
    """
    if not has_whole_line(path):
        return
    saved = parse(path, 1, first_line(path), HEADER)
    if saved.source is not None:
        raise SettingsMismatch(
            f"{path} holds replies of {saved.source.experiment} that were read again; it cannot be"
            " gone on with: resume its source, or choose another name or --out"
        )
    unlike = {"id", "created", "icl_loop"} | (set() if donor else {"donor"})
    before = _flat(saved.model_dump(mode="json", exclude=unlike))
    now = _flat(header.model_dump(mode="json", exclude=unlike))
    for key in sorted(before.keys() | now.keys()):
        if not key.startswith((*PLACE_KEYS, "analysis.streams")) and before.get(key) != now.get(
            key
        ):
            raise SettingsMismatch(
                f"{path} was played with {key} = {before.get(key)!r}, but now it is"
                f" {now.get(key)!r}; choose another name or --out for the new settings,"
                " or set it back to resume"
            )


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
