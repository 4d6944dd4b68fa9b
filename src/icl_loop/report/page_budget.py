"""The size limit of the page: all streams if they fit, otherwise an even selection."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from icl_loop.report.session_browser import BrowserData, NamedSession, browser_data

MOST_TURNS = 30_000
"""Maximum number of turns to step through."""
MOST_BYTES = 24_000_000
"""Maximum size of these turns in the page, in bytes."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The sessions of one stream of an experiment.

    Attributes:
        turns: Total number of turns.
        read: Loads the sessions.
    """

    turns: int
    read: Callable[[], Iterable[NamedSession]]


def select_streams(
    streams: Sequence[Stream], most_turns: int = MOST_TURNS, most_bytes: int = MOST_BYTES
) -> tuple[BrowserData, str]:
    """Return as many streams as fit, at least one, and a sentence about those left out.

    Streams are loaded one by one in an order that spreads them evenly, until one does not fit.

    Args:
        streams: All streams in order.
        most_turns: Maximum number of turns.
        most_bytes: Maximum packed size in bytes.
    """
    chosen: dict[int, BrowserData] = {}
    turns = size = 0
    why = ""
    for place in spread(len(streams)):
        turns += streams[place].turns
        if chosen and turns > most_turns:
            why = f"{most_turns:,} turns"
            break
        data = browser_data(streams[place].read())
        size += sum(map(len, data.blobs.values()))
        if chosen and size > most_bytes:
            why = f"{most_bytes / 1e6:,.0f} MB of sessions"
            break
        chosen[place] = data
    merged = merge([chosen[place] for place in sorted(chosen)])
    return merged, _left_out(len(chosen), len(streams) - len(chosen), why)


def spread(size: int) -> list[int]:
    """Return the indices below `size` in an order whose every prefix is spread evenly.

    It sorts by reversed binary digits (van der Corput 1935).
    """
    width = max(size - 1, 1).bit_length()
    return sorted(range(size), key=lambda place: f"{place:0{width}b}"[::-1])


def merge(parts: Iterable[BrowserData]) -> BrowserData:
    """Return the data of several streams as one, with blobs renumbered."""
    whole = BrowserData([], {})
    pools, sessions = count(), count()
    for part in parts:
        names = {
            name: f"pool-{next(pools)}" if name.startswith("pool-") else f"session-{next(sessions)}"
            for name in part.blobs
        }
        whole.blobs.update({names[name]: blob for name, blob in part.blobs.items()})
        whole.index.extend(
            {**entry, "pool": names[entry["pool"]], "blob": names[entry["blob"]]}
            for entry in part.index
        )
    return whole


def _left_out(held: int, others: int, why: str) -> str:
    if not others:
        return ""
    return (
        f"This page contains {held:,} of {held + others:,} streams, evenly chosen: with one more it"
        f" would exceed {why}. The transcripts contain all of them."
    )
