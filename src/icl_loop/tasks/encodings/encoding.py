"""The protocol of encodings: how samples of one modality are shown to a model, and the inverse."""

import struct
import zlib
from abc import ABC, abstractmethod
from typing import Any

from icl_loop.core.errors import EncodingError
from icl_loop.core.records import Modality


class Encoding(ABC):
    """A way to show samples as text, or as the image part of a message.

    `encode(prepare(content, size))` shows a sample, and `decode` recovers the prepared values to
    the precision of the encoding. Subclasses narrow the types, and implement `parse`.
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
    def parse(self, shown: Any) -> Any:  # noqa: ANN401  subclasses narrow it
        """Return the values of a text or an `Image`; raise ValueError and the like if invalid."""

    def decode(self, shown: Any) -> Any:  # noqa: ANN401  depends on the subclass
        """Return the values that `encode` shows as `shown`.

        Raises:
            EncodingError: `encode` never produces this.
        """
        try:
            values = self.parse(shown)
        except (ValueError, struct.error, zlib.error) as error:
            raise EncodingError(f"not in the {self.name} encoding: {error}") from None
        if self.encode(values) != shown:
            raise EncodingError(f"not in the {self.name} encoding: it would be written differently")
        return values
