"""Label maps: the names under which the model sees the classes."""

from collections.abc import Callable, Mapping
from itertools import count

from icl_loop.core.errors import InputError
from icl_loop.core.records import keyed_order

LabelMap = Mapping[str, str]
"""From the class name in the data set to the name that the model sees."""
Key = tuple[int, int]
"""Seed and stream of a session; they determine its random choices."""

ABSTRACT_NAMES = tuple(
    """
    lamp stone river paper glass table cloud knife bread chair door window bridge forest silver
    basket mirror orange hammer needle thread wheel rocket bell tent path hill lake pond sand rock
    iron steel brick root branch seed grass corn rice salt coffee cake pie snow rain storm ash ice
    planet queen castle tower wall gate roof hall mill shop market church library hotel
    """.split()  # noqa: SIM905  sixty literals would take sixty lines
)
"""Names unrelated to the data sets. Each is one token of o200k_base and of cl100k_base, with or
without a space before it."""


def native(labels: tuple[str, ...], _: Key) -> LabelMap:
    """Return the map that keeps every name."""
    return {label: label for label in labels}


def abstract(labels: tuple[str, ...], key: Key) -> LabelMap:
    """Return a random map to unrelated names.

    Raises:
        InputError: There are more labels than names.
    """
    if len(labels) > len(ABSTRACT_NAMES):
        raise InputError(
            f"abstract labels support at most {len(ABSTRACT_NAMES)} classes, got {len(labels)}"
        )
    drawn = keyed_order(len(ABSTRACT_NAMES), *key, "abstract labels").tolist()
    return {label: ABSTRACT_NAMES[index] for label, index in zip(labels, drawn, strict=False)}


def deranged(labels: tuple[str, ...], key: Key) -> LabelMap:
    """Return a random map that gives every class the name of another class."""
    return dict(zip(labels, _derangement(labels, *key, "deranged labels"), strict=True))


LABEL_MAPS: Mapping[str, Callable[[tuple[str, ...], Key], LabelMap]] = {
    "native": native,
    "abstract": abstract,
    "deranged": deranged,
}
"""By kind: from the classes of a data set, and seed and stream, to their names."""


def swapped(label_map: LabelMap, key: Key) -> LabelMap:
    """Return a map with the same names in which no class keeps its name."""
    names = tuple(label_map.values())
    return dict(zip(label_map, _derangement(names, *key, "swap"), strict=True))


def _derangement(names: tuple[str, ...], *key: str | int) -> list[str]:
    """Return a random order of `names` that leaves none in place, uniform over all such orders.

    Random orders are drawn until one qualifies, which takes about e attempts.
    """
    if len(names) < 2:
        raise InputError(f"swapping names needs at least two classes, got {len(names)}")
    for attempt in count():
        order = keyed_order(len(names), *key, attempt).tolist()
        if all(index != place for place, index in enumerate(order)):
            break
    return [names[index] for index in order]
