"""Label maps: the names by which the model is given the classes."""

from collections.abc import Callable, Mapping

from icl_loop.errors import InputError, nearest

LabelMap = Mapping[str, str]
"""The data set's own name of each class to the name that the model is given."""


def native(labels: tuple[str, ...]) -> LabelMap:
    """Return the map that leaves every class its own name."""
    return {label: label for label in labels}


LABEL_MAPS: Mapping[str, Callable[[tuple[str, ...]], LabelMap]] = {"native": native}


def label_map(kind: str, labels: tuple[str, ...]) -> LabelMap:
    """Return the map of this kind for the classes `labels`."""
    if kind not in LABEL_MAPS:
        raise InputError(f"unknown labels {kind!r}: {nearest(kind, LABEL_MAPS)}")
    return LABEL_MAPS[kind](labels)
