"""What an encoding is: a way to show samples of one modality to a model, with its inverse."""

from abc import ABC, abstractmethod
from typing import Any

from icl_loop.core.records import Modality


class Encoding(ABC):
    """A way to show samples, as text or as the image part of a message.

    What is shown holds all that `decode` needs. Each kind of encoding states the types of its
    values and of what it makes of them.
    """

    name: str
    """Its name in experiment files."""

    @property
    @abstractmethod
    def modality(self) -> Modality:
        """The kind of sample that it shows."""

    @abstractmethod
    def prepare(self, content: Any, size: int) -> Any:  # noqa: ANN401  each kind states its types
        """Return the values that are shown of `content`; pictures are brought to `size` pixels."""

    @abstractmethod
    def encode(self, values: Any) -> Any:  # noqa: ANN401  each kind states its types
        """Return `values` as they are shown: a text, or an `Image`."""

    @abstractmethod
    def decode(self, shown: Any) -> Any:  # noqa: ANN401  each kind states its types
        """Return the values that are shown so, to the encoding's own precision.

        Raises:
            EncodingError: No values are shown as exactly this.
        """
