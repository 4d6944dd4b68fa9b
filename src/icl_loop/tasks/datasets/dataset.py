"""Data sets: samples with their classes, and the random streams drawn from them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from icl_loop.core.errors import DatasetError
from icl_loop.core.records import (
    Content,
    Measurements,
    Modality,
    Sample,
    keyed_index,
    keyed_order,
    modality,
)
from icl_loop.tasks.datasets.table import Table, repeated_name

MAX_TEXT = 20_000
"""Most characters of a text."""

Draw = Literal["uniform", "natural"]
"""How often classes are drawn: equally often, or as often as the data set has them."""
Order = Literal["random", "easy_first", "hard_first", "blocked", "interleaved"]
"""The order of the samples of a stream."""
Contents = NDArray[np.uint8] | Sequence[NDArray[np.uint8]] | Table | Sequence[str]
Loaded = tuple[Contents, NDArray[np.intp], tuple[str, ...]]
"""The samples of a data set, the class of each sample, and the names of the classes."""

_PLURALS: Mapping[Modality, str] = {"picture": "images", "table": "rows", "text": "texts"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples with one class each.

    Attributes:
        name: The name it was opened by, such as `mnist:test`.
        contents: One uint8 array per sample, shape (height, width) or (height, width, 3); or the
            rows of a table; or texts.
        classes: Integers, shape (samples,); indices of `labels`.
        labels: Names of the classes, at least two.
        origin: Where in its source the samples and classes were found.
        reasons: A reason for the class of each sample; none if there are no reasons.
    """

    name: str
    contents: Contents
    classes: NDArray[np.intp]
    labels: tuple[str, ...]
    origin: str = ""
    reasons: Sequence[str] = ()

    def __post_init__(self) -> None:
        try:
            self._check_classes()
            for index, content in enumerate(self.contents):
                if isinstance(content, str):
                    check_text(content, f"text {index}")
                elif isinstance(content, np.ndarray):
                    _check_image(content, index)
                if isinstance(self.contents, np.ndarray | Table):
                    break  # all samples have the same form
        except ValueError as error:
            raise DatasetError(f"{self.name}: {error}") from None

    def _check_classes(self) -> None:
        if len(self) != len(self.classes):
            raise ValueError(
                f"{len(self)} {_PLURALS[self.modality]} but {len(self.classes)} labels"
            )
        if len(self.labels) < 2:
            raise ValueError(f"needs at least two classes, got {len(self.labels)}")
        for label in self.labels:
            if not is_utf8(label):
                raise ValueError(f"the name of class {label!r} is not UTF-8 text")
        if repeated := repeated_name(self.labels):
            raise ValueError(f"two classes are named {repeated!r}")
        outside = self.classes[(self.classes < 0) | (self.classes >= len(self.labels))]
        if outside.size:
            raise ValueError(f"classes must be 0 to {len(self.labels) - 1}, got {outside[0]}")

    @cached_property
    def modality(self) -> Modality:
        """The modality of the samples."""
        return modality(self.contents[0]) if len(self.contents) else "picture"

    def __len__(self) -> int:
        return len(self.contents)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise DatasetError(f"{self.name} has samples 0 to {len(self) - 1}, got index {index}")
        return self._samples[index]

    @cached_property
    def _samples(self) -> list[Sample]:
        """One object per sample, so that caches can go by identity."""
        pairs = zip(self.contents, self.classes.tolist(), strict=True)
        return [
            Sample(f"{self.name}/{index}", content, self.labels[number])
            for index, (content, number) in enumerate(pairs)
        ]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the names of the classes, each sample with its shape and class, and the reasons."""
        sha = hashlib.sha256("\0".join(self.labels).encode())
        for content, number in zip(self.contents, self.classes.tolist(), strict=True):
            shape, data = _shape_and_bytes(content)
            sha.update(f"{shape}{number}".encode())
            sha.update(data)
        if self.reasons:
            sha.update("\0".join(self.reasons).encode())
        return sha.hexdigest()

    def stream(self, turns: int, seed: int, number: int, draw: Draw = "uniform") -> tuple[int, ...]:
        """Return the indices of the samples of stream `number`, one per turn.

        If the draw is `uniform`, the label of each turn is drawn uniformly and independently, so
        chance is exactly one over the number of labels, and the sample is the next one of its class.
        If it is `natural`, the sample is the next one of all. The order is shuffled for the stream.
        No sample is repeated. A longer stream begins with the shorter one.

        Raises:
            DatasetError: A class has too few samples.
        """
        return _stream(self, turns, seed, number, draw)

    def probes(
        self, count: int, turns: int, seed: int, number: int, draw: Draw = "uniform"
    ) -> tuple[int, ...]:
        """Return the indices of `count` samples that differ from the first `turns` of a stream.

        They are those that the stream would draw last. If the draw is `uniform`, the classes
        alternate in an order that is shuffled for the stream, so their counts differ by at most one.

        Raises:
            DatasetError: There are too few samples.
        """
        stream = self.stream(turns, seed, number, draw)
        taken = {_shape_and_bytes(self.contents[i]) for i in stream}
        piles = _shuffled_piles(self, seed, number, draw)
        order = keyed_order(len(piles), seed, "probe class", number).tolist()
        drawn: list[int] = []
        for place in range(count):
            pile = piles[order[place % len(order)]]
            while pile and _shape_and_bytes(self.contents[pile[-1]]) in taken:
                pile.pop()
            if not pile:
                kind = self._pile_name(order[place % len(order)], draw)
                raise DatasetError(
                    f"{self.name}: {count} probes need one more sample{kind} than stream {number}"
                    " leaves; use fewer probes, fewer turns or a larger data set"
                )
            drawn.append(pile.pop())
        return tuple(drawn)

    def exemplars(
        self, count: int, turns: int, seed: int, number: int, draw: Draw = "uniform"
    ) -> tuple[int, ...]:
        """Return the indices of `count` samples of each class that differ from those of a stream.

        They are taken from three quarters of what the stream could draw, so that neither a longer
        stream nor the probes need them, and are in an order that is shuffled for the stream.

        Raises:
            DatasetError: A class has too few samples.
        """
        stream = self.stream(turns, seed, number, draw)
        taken = {_shape_and_bytes(self.contents[i]) for i in stream}
        chosen: dict[int, list[int]] = {each: [] for each in range(len(self.labels))}
        for pile in _shuffled_piles(self, seed, number, draw):
            start = len(pile) * 3 // 4
            for index in pile[start:] + pile[:start][::-1]:
                of_class = chosen[self.classes[index]]
                if len(of_class) == count or _shape_and_bytes(self.contents[index]) in taken:
                    continue
                of_class.append(index)
                taken.add(_shape_and_bytes(self.contents[index]))
        for each, found in chosen.items():
            if len(found) < count:
                raise DatasetError(
                    f"{self.name}: {count} exemplars of class {self.labels[each]!r} need"
                    f" {count - len(found)} more samples than stream {number} leaves; use fewer"
                    " exemplars, fewer turns or a larger data set"
                )
        found = [index for each in chosen.values() for index in each]
        order = keyed_order(len(found), seed, "exemplars", number).tolist()
        return tuple(found[place] for place in order)

    def _pile_name(self, pile: int, draw: Draw) -> str:
        return f" of class {self.labels[pile]!r}" if draw == "uniform" else ""


@lru_cache(16)  # all arms play the same streams
def _stream(dataset: Dataset, turns: int, seed: int, number: int, draw: Draw) -> tuple[int, ...]:
    piles = [iter(pile) for pile in _shuffled_piles(dataset, seed, number, draw)]
    drawn: list[int] = []
    for turn in range(turns):
        pile = keyed_index(len(piles), seed, "label", number, turn)
        index = next(piles[pile], None)
        if index is None:
            larger = "or use a larger data set"
            if draw == "uniform" and turn < len(dataset):
                larger = (
                    "use a larger data set, or set task.draw = 'natural' to draw classes as often as"
                    f" the data set has them, for up to {len(dataset)} turns"
                )
            raise DatasetError(
                f"{dataset.name}: turn {turn} of stream {number} needs one more sample"
                f"{dataset._pile_name(pile, draw)} than there are; play at most {turn} turns,"
                f" {larger}"
            )
        drawn.append(index)
    return tuple(drawn)


def _shuffled_piles(dataset: Dataset, seed: int, number: int, draw: Draw) -> list[list[int]]:
    """Return the indices of each class, or of all samples, in the order of stream `number`."""
    if draw == "natural":
        return [keyed_order(len(dataset), seed, "natural sample", number).tolist()]
    classes = [np.flatnonzero(dataset.classes == each) for each in range(len(dataset.labels))]
    return [
        members[keyed_order(members.size, seed, "sample", number, each)].tolist()
        for each, members in enumerate(classes)
    ]


def is_utf8(text: str) -> bool:
    """Return whether `text` can be written as UTF-8 and used in a path."""
    return not any(mark == "\0" or "\ud800" <= mark <= "\udfff" for mark in text)


def check_text(text: str, name: str) -> None:
    """Raise ValueError unless `text` can be shown: not blank, not too long, no control characters."""
    if not text.strip():
        raise ValueError(f"{name} is blank")
    if len(text) > MAX_TEXT:
        raise ValueError(f"{name} has {len(text):,} characters, more than {MAX_TEXT:,}")
    for mark in text:
        if category(mark) in ("Cc", "Cs") and mark not in "\n\t":
            raise ValueError(f"{name} contains the control character {mark!r}")


def _check_image(image: NDArray[np.uint8], index: int) -> None:
    shaped = image.size and (image.ndim == 2 or image.shape[2:] == (3,))
    if image.dtype != np.uint8 or not shaped:
        raise ValueError(
            "images must be uint8, (height, width) or (height, width, 3), but image"
            f" {index} is {image.dtype}, {image.shape}"
        )


def _shape_and_bytes(content: Content) -> tuple[object, bytes]:
    """Return the shape of a sample, or what replaces it in the checksum, and the bytes."""
    if isinstance(content, str):
        return f"text {len(content)} ", content.encode()
    if isinstance(content, Measurements):
        return content.names, content.values.astype("<f8").tobytes()
    return content.shape, content.tobytes()
