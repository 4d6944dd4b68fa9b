"""Data sets: samples with their classes, and the random streams drawn from them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import cast
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

Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
"""One array of images of equal shape, or one array per image."""
Contents = Images | Table | Sequence[str]

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
    """

    name: str
    contents: Contents
    classes: NDArray[np.intp]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.contents) != len(self.classes):
            raise DatasetError(
                f"{self.name}: {len(self.contents)} {_PLURALS[self.modality]} but"
                f" {len(self.classes)} labels"
            )
        if len(self.labels) < 2:
            raise DatasetError(f"{self.name}: needs at least two classes, got {len(self.labels)}")
        for label in self.labels:
            if not is_utf8(label):
                raise DatasetError(f"{self.name}: the name of class {label!r} is not UTF-8 text")
        if repeated := repeated_name(self.labels):
            raise DatasetError(f"{self.name}: two classes are named {repeated!r}")
        outside = self.classes[(self.classes < 0) | (self.classes >= len(self.labels))]
        if outside.size:
            raise DatasetError(
                f"{self.name}: classes must be 0 to {len(self.labels) - 1}, got {outside[0]}"
            )
        same_shape = isinstance(self.contents, np.ndarray)
        for index in range(min(len(self), 1) if same_shape else len(self)):
            self._check_content(index)

    def _check_content(self, index: int) -> None:
        content = self.contents[index]
        if isinstance(content, str):
            try:
                check_text(content)
            except ValueError as error:
                raise DatasetError(f"{self.name}: text {index} {error}") from None
        elif isinstance(content, np.ndarray):
            shaped = content.size and (content.ndim == 2 or content.shape[2:] == (3,))
            if content.dtype != np.uint8 or not shaped:
                raise DatasetError(
                    f"{self.name}: images must be uint8, (height, width) or (height, width, 3), but"
                    f" image {index} is {content.dtype}, {content.shape}"
                )

    @cached_property
    def modality(self) -> Modality:
        """The modality of the samples."""
        return modality(self.contents[0]) if len(self.contents) else "picture"

    @property
    def images(self) -> Images:
        """The images.

        Raises:
            DatasetError: The samples are not images.
        """
        if self.modality != "picture":
            raise DatasetError(f"{self.name} has {_PLURALS[self.modality]}, not images")
        return cast("Images", self.contents)

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
        """SHA-256 of the names of the classes, and of each sample with its shape and class."""
        sha = hashlib.sha256("\0".join(self.labels).encode())
        for content, number in zip(self.contents, self.classes.tolist(), strict=True):
            shape, data = _shape_and_bytes(content)
            sha.update(f"{shape}{number}".encode())
            sha.update(data)
        return sha.hexdigest()

    def stream(self, turns: int, seed: int, number: int) -> tuple[int, ...]:
        """Return the indices of the samples of stream `number`, one per turn.

        The label of each turn is drawn uniformly and independently, so chance is exactly one over
        the number of labels. The sample is then the next one of its class, in an order that is
        shuffled for the stream. No sample is repeated. A longer stream begins with the shorter one.

        Raises:
            DatasetError: A class has too few samples.
        """
        return _stream(self, turns, seed, number)

    def probes(self, count: int, turns: int, seed: int, number: int) -> tuple[int, ...]:
        """Return the indices of `count` samples that differ from the first `turns` of a stream.

        The classes alternate in an order that is shuffled for the stream, so their counts differ by
        at most one. Within a class, the samples are those that the stream would draw last.

        Raises:
            DatasetError: There are too few samples.
        """
        taken = {_identity(self.contents[index]) for index in self.stream(turns, seed, number)}
        classes = keyed_order(len(self.labels), seed, "probe class", number).tolist()
        remaining: dict[int, list[int]] = {}
        drawn: list[int] = []
        for place in range(count):
            class_number = classes[place % len(classes)]
            if class_number not in remaining:
                remaining[class_number] = self.shuffled(class_number, seed, number)
            members = remaining[class_number]
            while members and _identity(self.contents[members[-1]]) in taken:
                members.pop()
            if not members:
                raise DatasetError(
                    f"{self.name}: {count} probes need one more sample of class"
                    f" {self.labels[class_number]!r} than stream {number} leaves; use fewer probes,"
                    " fewer turns or a larger data set"
                )
            drawn.append(members.pop())
        return tuple(drawn)

    def shuffled(self, class_number: int, seed: int, number: int) -> list[int]:
        """Return the indices of a class in the order in which stream `number` draws them."""
        members = np.flatnonzero(self.classes == class_number)
        order = keyed_order(members.size, seed, "sample", number, class_number)
        shuffled: list[int] = members[order].tolist()
        return shuffled


@lru_cache(16)  # all arms play the same streams
def _stream(dataset: Dataset, turns: int, seed: int, number: int) -> tuple[int, ...]:
    remaining: dict[int, list[int]] = {}
    drawn: list[int] = []
    for turn in range(turns):
        class_number = keyed_index(len(dataset.labels), seed, "label", number, turn)
        if class_number not in remaining:
            remaining[class_number] = dataset.shuffled(class_number, seed, number)[::-1]
        if not remaining[class_number]:
            raise DatasetError(
                f"{dataset.name}: turn {turn} of stream {number} needs one more sample of class"
                f" {dataset.labels[class_number]!r} than there are; play at most {turn} turns or use"
                " a larger data set"
            )
        drawn.append(remaining[class_number].pop())
    return tuple(drawn)


def is_utf8(text: str) -> bool:
    """Return whether `text` can be written as UTF-8 and used in a path."""
    return not any(mark == "\0" or "\ud800" <= mark <= "\udfff" for mark in text)


def check_text(text: str) -> None:
    """Raise ValueError unless `text` can be shown: not blank, not too long, no control characters."""
    if not text.strip():
        raise ValueError("is blank")
    if len(text) > MAX_TEXT:
        raise ValueError(f"has {len(text):,} characters, more than {MAX_TEXT:,}")
    for mark in text:
        if category(mark) in ("Cc", "Cs") and mark not in "\n\t":
            raise ValueError(f"contains the control character {mark!r}")


def _identity(content: Content) -> object:
    """Return a value that is equal for equal contents."""
    if isinstance(content, np.ndarray):
        return content.shape, content.tobytes()
    return content if isinstance(content, str) else tuple(content.values)


def _shape_and_bytes(content: Content) -> tuple[object, bytes | memoryview]:
    """Return the shape of a sample, or what replaces it in the checksum, and the bytes."""
    if isinstance(content, str):
        return f"text {len(content)} ", content.encode()
    if isinstance(content, Measurements):
        return content.names, content.values.astype("<f8").tobytes()
    return content.shape, np.ascontiguousarray(content).data
