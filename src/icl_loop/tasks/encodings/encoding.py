"""The base class of encodings, and the encoding that shows texts unchanged."""

import struct
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from icl_loop.core.errors import EncodingError
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

    def prepare(self, content: Any, size: int) -> Any:  # noqa: ANN401, ARG002  subclasses narrow it
        """Return the values to encode; images are resized to `size` x `size` pixels."""
        return content

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


@dataclass(frozen=True)
class TextEncoding(Encoding):
    """Shows a text unchanged."""

    name: str = "text"
    modality: Modality = "text"

    def encode(self, values: str) -> str:
        """Return the text, which must not be blank."""
        if not values.strip():
            raise EncodingError(f"{self.name}: the text is blank: {values!r}")
        return values

    def parse(self, shown: str) -> str:
        """Return the text."""
        return shown
