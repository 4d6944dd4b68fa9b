"""What a data set is to the rest of the house: samples, their classes, and a checksum."""

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
from icl_loop.tasks.datasets.table import Table

Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
"""One array of equal images, or one array each."""
Contents = Images | Table | Sequence[str]
"""What the samples are, all of one modality."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples with one class each.

    Attributes:
        name: The name it was opened by, such as `mnist:test`.
        contents: One uint8 array per sample, shape (height, width) or (height, width, 3); or the
            rows of a table; or texts.
        classes: Integers, shape (samples,); positions in `labels`.
        labels: Names of the classes, at least two, in order.
    """

    name: str
    contents: Contents
    classes: NDArray[np.intp]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.contents) != len(self.classes):
            raise DatasetError(
                f"{self.name}: {len(self.contents)} {_MANY[self.modality]} but"
                f" {len(self.classes)} labels"
            )
        if len(self.labels) < 2:
            raise DatasetError(
                f"{self.name}: {len(self.labels)} classes; there is nothing to tell apart"
            )
        self._check_labels()
        self._check_contents()

    def _check_labels(self) -> None:
        for position, label in enumerate(self.labels):
            if not is_text(label):
                raise DatasetError(f"{self.name}: the name of class {label!r} is not UTF-8 text")
            if label in self.labels[:position]:
                raise DatasetError(f"{self.name}: two classes are named {label!r}")
        outside = self.classes[(self.classes < 0) | (self.classes >= len(self.labels))]
        if outside.size:
            raise DatasetError(
                f"{self.name}: classes are 0 to {len(self.labels) - 1}, found {outside[0]}"
            )

    def _check_contents(self) -> None:
        """Raise DatasetError for an image or a text that is none; a table has checked itself."""
        alike = isinstance(self.contents, np.ndarray)  # then the first stands for all
        for index in range(min(len(self), 1) if alike else len(self)):
            content = self.contents[index]
            if isinstance(content, str):
                self._check_text(index, content)
            elif isinstance(content, np.ndarray):
                self._check_image(index, content)

    def _check_text(self, index: int, text: str) -> None:
        try:
            check_text(text)
        except ValueError as error:
            raise DatasetError(f"{self.name}: text {index} {error}") from None

    def _check_image(self, index: int, image: NDArray[np.uint8]) -> None:
        shaped = image.size and (image.ndim == 2 or image.shape[2:] == (3,))
        if image.dtype != np.uint8 or not shaped:
            raise DatasetError(
                f"{self.name}: images are uint8, (height, width) or (height, width, 3);"
                f" image {index} is {image.dtype}, {image.shape}"
            )

    @cached_property
    def modality(self) -> Modality:
        """What kind of thing the samples are."""
        return modality(self.contents[0]) if len(self.contents) else "picture"

    @property
    def images(self) -> Images:
        """The pictures.

        Raises:
            DatasetError: The samples are something else.
        """
        if self.modality != "picture":
            raise DatasetError(f"{self.name} holds {_MANY[self.modality]}, not pictures")
        return cast("Images", self.contents)

    def __len__(self) -> int:
        return len(self.contents)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise DatasetError(f"{self.name} has samples 0 to {len(self) - 1}, got index {index}")
        if index not in self._given:
            self._given[index] = Sample(
                id=f"{self.name}/{index}",
                content=self.contents[index],
                label=self.labels[int(self.classes[index])],
            )
        return self._given[index]

    @cached_property
    def _given(self) -> dict[int, Sample]:
        """The samples given out so far; each is one object, so that what is made of it is too."""
        return {}

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the names of the classes and every sample with its shape and class."""
        sha = hashlib.sha256("\0".join(self.labels).encode())
        for content, number in zip(self.contents, self.classes.tolist(), strict=True):
            shape, data = _bytes_of(content)
            sha.update(f"{shape}{number}".encode())
            sha.update(data)
        return sha.hexdigest()

    def stream(self, turns: int, seed: int, number: int) -> tuple[int, ...]:
        """Return the indices of the samples of stream `number`, one a turn.

        The label of each turn is drawn uniformly and independently of all others, so chance is
        exactly one over the number of labels; the sample is then the next one of that class in
        an order that the stream shuffled. No sample comes twice. A longer stream begins with the
        shorter one.

        Raises:
            DatasetError: A class has too few samples for this many turns.
        """
        return _stream(self, turns, seed, number)

    def shuffled(self, number_of_class: int, seed: int, number: int) -> list[int]:
        """Return the samples of a class in the order in which a stream draws them."""
        members = np.flatnonzero(self.classes == number_of_class)
        order = keyed_order(members.size, seed, "sample", number, number_of_class)
        drawn: list[int] = members[order].tolist()
        return drawn

    def probes(self, count: int, turns: int, seed: int, number: int) -> tuple[int, ...]:
        """Return the indices of `count` samples that are unlike all of a stream's first `turns`.

        The classes take turns in an order of the stream's own, so that each has as many as another,
        or one more; within a class the samples are those that the stream would draw last.

        Raises:
            DatasetError: There are too few samples for that.
        """
        taken = {_key(self.contents[index]) for index in self.stream(turns, seed, number)}
        classes = keyed_order(len(self.labels), seed, "probe class", number).tolist()
        left: dict[int, list[int]] = {}
        drawn: list[int] = []
        for place in range(count):
            number_of_class = classes[place % len(classes)]
            if number_of_class not in left:
                left[number_of_class] = self.shuffled(number_of_class, seed, number)
            members = left[number_of_class]
            while members and _key(self.contents[members[-1]]) in taken:
                members.pop()
            if not members:
                raise DatasetError(
                    f"{self.name}: {count} probes need one more sample of class"
                    f" {self.labels[number_of_class]!r} than stream {number} leaves; ask fewer"
                    " probes, play fewer turns or use a larger data set"
                )
            drawn.append(members.pop())
        return tuple(drawn)


@lru_cache(16)  # all arms of a stream ask for it, one after the other
def _stream(dataset: Dataset, turns: int, seed: int, number: int) -> tuple[int, ...]:
    """Return what `Dataset.stream` says."""
    orders: dict[int, list[int]] = {}
    drawn: list[int] = []
    for turn in range(turns):
        number_of_class = keyed_index(len(dataset.labels), seed, "label", number, turn)
        if number_of_class not in orders:
            orders[number_of_class] = dataset.shuffled(number_of_class, seed, number)[::-1]
        if not orders[number_of_class]:
            raise DatasetError(
                f"{dataset.name}: turn {turn} of stream {number} needs one more sample of class"
                f" {dataset.labels[number_of_class]!r} than there are; play at most {turn} turns"
                " or use a larger data set"
            )
        drawn.append(orders[number_of_class].pop())
    return tuple(drawn)


MAX_TEXT = 20_000
"""Most characters of a text, and of a cell of a table."""

_MANY: Mapping[Modality, str] = {"picture": "images", "table": "rows", "text": "texts"}


def _key(content: Content) -> object:
    """Return what is equal for equal contents."""
    if isinstance(content, np.ndarray):
        return content.shape, content.tobytes()
    return content if isinstance(content, str) else tuple(content.values)


def is_text(name: str) -> bool:
    """Return whether `name` can stand in a UTF-8 file and in a path: no surrogate, no NUL."""
    return not any(mark == "\0" or "\ud800" <= mark <= "\udfff" for mark in name)


def check_text(text: str) -> None:
    """Raise ValueError if a model cannot be shown `text`: it is blank, too long, or steers a terminal."""
    if not text.strip():
        raise ValueError("is blank")
    if len(text) > MAX_TEXT:
        raise ValueError(f"has {len(text):,} characters, more than {MAX_TEXT:,}")
    unplain = [mark for mark in text if category(mark) in ("Cc", "Cs") and mark not in "\n\t"]
    if unplain:
        raise ValueError(f"holds {unplain[0]!r}, which is no mark of a text")


def _bytes_of(content: Content) -> tuple[object, bytes | memoryview]:
    """Return the shape of a sample, or what stands for it, and its bytes, for the checksum."""
    if isinstance(content, str):
        return f"text {len(content)} ", content.encode()
    if isinstance(content, Measurements):
        return content.names, content.values.astype("<f8").tobytes()
    return content.shape, np.ascontiguousarray(content).data
