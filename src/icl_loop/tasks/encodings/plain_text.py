"""Texts, shown unchanged."""

from dataclasses import dataclass

from icl_loop.core.errors import EncodingError
from icl_loop.core.records import Modality
from icl_loop.tasks.encodings.encoding import Encoding


@dataclass(frozen=True)
class TextEncoding(Encoding):
    """Shows a text unchanged."""

    name: str = "text"
    modality: Modality = "text"

    def prepare(self, content: str, size: int) -> str:  # noqa: ARG002  for images only
        """Return the text."""
        return content

    def encode(self, values: str) -> str:
        """Return the text, which must not be blank."""
        if not values.strip():
            raise EncodingError(f"{self.name}: the text is blank: {values!r}")
        return values

    def parse(self, shown: str) -> str:
        """Return the text."""
        return shown
