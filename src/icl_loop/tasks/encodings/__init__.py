"""Encodings: how samples are shown to a model, each with its inverse."""

from typing import Any

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.records import Modality, Sample
from icl_loop.tasks.encodings.encoding import Encoding, TextEncoding
from icl_loop.tasks.encodings.image_png import PngEncoding
from icl_loop.tasks.encodings.image_text import PIXEL_TEXT_ENCODINGS, Pixels, to_pixels
from icl_loop.tasks.encodings.table_text import TableEncoding

__all__ = [
    "ENCODINGS",
    "Encoding",
    "Pixels",
    "PngEncoding",
    "encodings_for",
    "get_encoding",
    "prepare_sample",
    "to_pixels",
]

ENCODINGS: dict[str, Encoding] = {
    **PIXEL_TEXT_ENCODINGS,
    **{each.name: each for each in (PngEncoding(), TableEncoding(), TextEncoding())},
}
"""The encodings by name."""


def get_encoding(name: str) -> Encoding:
    """Return the encoding of this name."""
    if name not in ENCODINGS:
        raise InputError(f"unknown encoding {name!r}: {nearest(name, ENCODINGS)}")
    return ENCODINGS[name]


def encodings_for(modality: Modality) -> tuple[str, ...]:
    """Return the names of the encodings for a modality."""
    return tuple(name for name, each in ENCODINGS.items() if each.modality == modality)


def prepare_sample(sample: Sample, encoding: Encoding, size: int) -> Any:  # noqa: ANN401  depends on the encoding
    """Return the values of `sample` to encode; images are resized to `size` x `size` pixels.

    Raises:
        InputError: The encoding is for another modality, or the size is out of range.
    """
    if encoding.modality != sample.modality:
        raise InputError(
            f"the encoding {encoding.name!r} is for a {encoding.modality}, but {sample.id} is a"
            f" {sample.modality}; use one of {', '.join(encodings_for(sample.modality))}"
        )
    return encoding.prepare(sample.content, size)
