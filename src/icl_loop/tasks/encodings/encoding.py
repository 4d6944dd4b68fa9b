"""The protocol of encodings: how samples of one modality are shown to a model, and the inverse."""

from abc import ABC, abstractmethod
from typing import Any

from icl_loop.core.records import Modality


class Encoding(ABC):
    """A way to show samples as text, or as the image part of a message.

    `encode(prepare(content, size))` shows a sample, and `decode` recovers the prepared values to
    the precision of the encoding. Subclasses narrow the types.
    """

    name: str
    """Its name in experiment files."""
    modality: Modality
    """The modality of the samples that it shows."""

    @abstractmethod
    def prepare(self, content: Any, size: int) -> Any:  # noqa: ANN401  subclasses narrow it
        """Return the values to encode; images are resized to `size` x `size` pixels."""

    @abstractmethod
    def encode(self, values: Any) -> Any:  # noqa: ANN401  subclasses narrow it
        """Return the text or the `Image` that shows `values`."""

    @abstractmethod
    def decode(self, shown: Any) -> Any:  # noqa: ANN401  subclasses narrow it
        """Return the values that `encode` shows as `shown`.

        Raises:
            EncodingError: `encode` never produces this.
        """
