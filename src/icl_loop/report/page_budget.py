"""The streams that a page holds: all of them, or an even choice that keeps it from growing without end."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from icl_loop.report.session_browser import Named, Shelf, shelve

MOST_TURNS = 30_000
"""Most turns that can be stepped through."""
MOST_BYTES = 24_000_000
"""Most bytes that these take in the page, packed."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The sessions of a stream of an experiment.

    Attributes:
        turns: How many turns they have together.
        read: Reads them.
    """

    turns: int
    read: Callable[[], Iterable[Named]]


def shelve_evenly(
    streams: Sequence[Stream], most_turns: int = MOST_TURNS, most_bytes: int = MOST_BYTES
) -> tuple[Shelf, str]:
    """Return as many streams as there is room for, at least one, and what is left out and why.

    They are read one after another, those first that lie apart, until one finds no room: whatever
    there is besides is never read.

    Args:
        streams: All of them, in their order.
        most_turns: Turns that are held.
        most_bytes: Bytes that these take, packed.
    """
    shelves: dict[int, Shelf] = {}
    turns = size = 0
    why = ""
    for place in spread(len(streams)):
        turns += streams[place].turns
        if shelves and turns > most_turns:
            why = f"{most_turns:,} turns"
            break
        shelf = shelve(streams[place].read())
        size += sum(map(len, shelf.blobs.values()))
        if shelves and size > most_bytes:
            why = f"{most_bytes / 1e6:,.0f} MB of sessions"
            break
        shelves[place] = shelf
    held = joined([shelves[place] for place in sorted(shelves)])
    return held, _left_out(len(shelves), len(streams) - len(shelves), why)


def spread(size: int) -> list[int]:
    """Return the places of a sequence so that the first few, however many, lie evenly over it.

    It is the order of the numbers whose binary digits are reversed (van der Corput 1935).
    """
    width = max(size - 1, 1).bit_length()
    return sorted(range(size), key=lambda place: f"{place:0{width}b}"[::-1])


def joined(shelves: Iterable[Shelf]) -> Shelf:
    """Return the shelves as one, their blobs numbered anew."""
    whole = Shelf([], {})
    pools, sessions = count(), count()
    for shelf in shelves:
        names = {
            name: f"pool-{next(pools)}" if name.startswith("pool-") else f"session-{next(sessions)}"
            for name in shelf.blobs
        }
        whole.blobs.update({names[name]: blob for name, blob in shelf.blobs.items()})
        whole.index.extend(
            {**entry, "pool": names[entry["pool"]], "blob": names[entry["blob"]]}
            for entry in shelf.index
        )
    return whole


def _left_out(held: int, others: int, why: str) -> str:
    if not others:
        return ""
    are = "1 other is" if others == 1 else f"{others:,} others are"
    return (
        f"This page holds an even choice of the streams, {held:,} of {held + others:,}; {are} left"
        f" out, since with one more it would hold more than {why}. What was saved holds them all."
    )
