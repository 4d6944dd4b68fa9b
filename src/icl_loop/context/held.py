"""What a session holds of its past: a list that only grows, of which items are let go of."""

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class Held(Sequence[T]):
    """Items by their place, as in a list; those that nobody needs any more are let go of.

    An item that was let go of still counts and still has its place.
    """

    def __init__(self) -> None:
        self._items: dict[int, T] = {}
        self._length = 0
        self._many = _SPARE

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """Return an item, or several.

        Raises:
            IndexError: There is none in this place.
            LookupError: It was let go of.
        """
        try:
            return self._items[index]  # type: ignore[index]  # a slice is no key, which is seen below
        except (KeyError, TypeError):
            return self._otherwise(index)

    def _otherwise(self, index: int | slice) -> T | list[T]:
        """Return what is not asked for by its place."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        place = index % self._length
        if place not in self._items:
            raise LookupError(f"{place} was let go of: nothing was to show it any more")
        return self._items[place]

    def append(self, item: T) -> None:
        """Add an item in the next place."""
        self._items[self._length] = item
        self._length += 1

    def hold(self, needed: Callable[[], range], newest: int = 1) -> None:
        """Let go of what is neither `needed` nor among the newest.

        It is done from time to time, when what is held has grown by a quarter.
        """
        if len(self._items) < self._many:
            return
        still, since = needed(), self._length - newest
        held = {
            place: item for place, item in self._items.items() if place in still or place >= since
        }
        self._items, self._many = held, len(held) * 5 // 4 + _SPARE


_SPARE = 16
"""Items beyond what is needed that are always held."""
