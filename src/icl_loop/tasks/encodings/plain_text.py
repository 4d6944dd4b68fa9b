"""Texts, which are shown as they are."""

from dataclasses import dataclass

from icl_loop.core.errors import EncodingError
from icl_loop.core.records import Modality
from icl_loop.tasks.encodings.encoding import Encoding


@dataclass(frozen=True)
class TextEncoding(Encoding):
    """Shows a text as it is."""

    name: str = "text"

    @property
    def modality(self) -> Modality:
        """Texts."""
        return "text"

    def prepare(self, content: str, size: int) -> str:  # noqa: ARG002  a text has no side
        """Return the text as it is."""
        return content

    def encode(self, values: str) -> str:
        """Return the text."""
        if not values.strip():
            raise EncodingError(f"{self.name} shows texts that say something, got {values!r}")
        return values

    def decode(self, shown: str) -> str:
        """Return the text.

        Raises:
            EncodingError: It is blank.
        """
        return self.encode(shown)
