"""The size limit of the page: all streams if they fit, otherwise an even selection."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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
    """
    chosen: dict[int, BrowserData] = {}
    turns = size = 0
    note = ""
    for place in spread(len(streams)):
        turns += streams[place].turns
        if chosen and turns > most_turns:
            note = _left_out(len(chosen), len(streams), f"{most_turns:,} turns")
            break
        data = browser_data(place, streams[place].read())
        size += sum(map(len, data.blobs.values()))
        if chosen and size > most_bytes:
            limit = f"{most_bytes / 1e6:,.0f} MB of sessions"
            note = _left_out(len(chosen), len(streams), limit)
            break
        chosen[place] = data
    parts = [chosen[place] for place in sorted(chosen)]
    index = [entry for part in parts for entry in part.index]
    return BrowserData(index, {k: blob for part in parts for k, blob in part.blobs.items()}), note


def _left_out(kept: int, all_streams: int, limit: str) -> str:
    return (
        f"This page contains {kept:,} of {all_streams:,} streams, evenly chosen, because one more"
        f" would exceed {limit}. The transcripts contain all of them."
    )


def spread(size: int) -> list[int]:
    """Return the indices below `size` in an order whose every prefix is spread evenly.

    It sorts by reversed binary digits (van der Corput 1935).
    """
    width = max(size - 1, 1).bit_length()
    return sorted(range(size), key=lambda place: f"{place:0{width}b}"[::-1])
