"""Label maps: the names by which the model is given the classes."""

from collections.abc import Callable, Mapping

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.records import keyed_order

LabelMap = Mapping[str, str]
"""The data set's own name of each class to the name that the model is given."""
Key = tuple[int, int]
"""Seed and stream: what the random maps of a session are keyed by."""

NAMES = tuple(
    """
    lamp stone river paper glass table cloud knife bread chair door window bridge forest silver
    basket mirror orange hammer needle thread wheel rocket bell tent path hill lake pond sand rock
    iron steel brick root branch seed grass corn rice salt coffee cake pie snow rain storm ash ice
    planet queen castle tower wall gate roof hall mill shop market church library hotel
    """.split()  # noqa: SIM905  sixty literals would take sixty lines
)
"""Names unrelated to what data sets hold, each one token of o200k_base and of cl100k_base, with a
blank before it or without."""


def native(labels: tuple[str, ...], _: Key) -> LabelMap:
    """Return the map that leaves every class its own name."""
    return {label: label for label in labels}


def abstract(labels: tuple[str, ...], key: Key) -> LabelMap:
    """Return a map to unrelated names, drawn for the stream."""
    if len(labels) > len(NAMES):
        raise InputError(f"abstract labels name at most {len(NAMES)} classes, got {len(labels)}")
    drawn = keyed_order(len(NAMES), *key, "abstract labels")[: len(labels)].tolist()
    return {label: NAMES[index] for label, index in zip(labels, drawn, strict=True)}


def deranged(labels: tuple[str, ...], key: Key) -> LabelMap:
    """Return a map that gives every class the name of another, drawn for the stream."""
    return dict(zip(labels, derangement(labels, *key, "deranged labels"), strict=True))


def swapped(names: LabelMap, key: Key) -> LabelMap:
    """Return the map after a swap: the same names, every class under another one than before."""
    return dict(zip(names, derangement(tuple(names.values()), *key, "swap"), strict=True))


def derangement(names: tuple[str, ...], *key: str | int) -> list[str]:
    """Return `names` in an order that leaves none in its place, uniform over all such orders.

    Orders are drawn until one does; about every third does.
    """
    if len(names) < 2:
        raise InputError(f"names can change places only among two or more, got {len(names)}")
    attempt = 0
    while True:
        order = keyed_order(len(names), *key, attempt).tolist()
        if all(index != place for place, index in enumerate(order)):
            return [names[index] for index in order]
        attempt += 1


LABEL_MAPS: Mapping[str, Callable[[tuple[str, ...], Key], LabelMap]] = {
    "native": native,
    "abstract": abstract,
    "deranged": deranged,
}


def label_map(kind: str, labels: tuple[str, ...], key: Key = (0, 0)) -> LabelMap:
    """Return the map of this kind for the classes `labels` in the session of this seed and stream.

    Raises:
        InputError: There is no such kind, or it cannot name these classes.
    """
    if kind not in LABEL_MAPS:
        raise InputError(f"unknown labels {kind!r}: {nearest(kind, LABEL_MAPS)}")
    return LABEL_MAPS[kind](labels, key)
