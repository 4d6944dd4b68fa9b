"""Recovers the sample that a question shows."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, cast

from icl_loop.core.errors import EncodingError, InputError
from icl_loop.core.messages import Message
from icl_loop.core.records import Measurements
from icl_loop.tasks.encodings import Pixels, PngEncoding, get_encoding
from icl_loop.tasks.prompts import PromptSet, open_prompt_set

QuestionDecoder = Callable[[Message], Pixels | None]
"""Returns the pixels that a question shows, or None if it shows no image or was edited."""
SampleDecoder = Callable[[Message], Pixels | Measurements | str | None]
"""Returns the image, table row or text that a question shows, or None if it was edited."""


def question_decoder(prompts: PromptSet, encoding_name: str) -> QuestionDecoder:
    """Return the decoder for images in questions in this prompt set and encoding.

    Raises:
        InputError: There is no such encoding, or the prompt set does not describe it.
    """
    decode = sample_decoder(prompts, encoding_name)
    is_picture = get_encoding(encoding_name).modality == "picture"
    return cast("QuestionDecoder", decode) if is_picture else _no_image


@lru_cache(maxsize=16)
def sample_decoder(prompts: PromptSet, encoding_name: str) -> SampleDecoder:
    """Return the decoder for questions in this prompt set and encoding.

    Raises:
        InputError: There is no such encoding, or the prompt set does not describe it.
    """
    encoding = get_encoding(encoding_name)
    prompts.section_for(encoding_name)

    def decode(question: Message) -> Pixels | Measurements | str | None:
        found = (
            prompts.parse_image_question(question, encoding_name)
            if isinstance(encoding, PngEncoding)
            else prompts.parse_question(question.text, encoding_name)
        )
        try:
            sample: Pixels | Measurements | str | None = found and encoding.decode(found[1])
        except EncodingError:
            return None
        return sample

    return decode


def recorded_question_decoder(settings: Mapping[str, Any]) -> QuestionDecoder:
    """Return the decoder for a session with these recorded settings.

    If the settings are unknown to this version, it finds no image.
    """
    task = settings.get("task")
    task = task if isinstance(task, dict) else {}
    try:
        prompts = open_prompt_set(str(task.get("prompts")))
        return question_decoder(prompts, str(task.get("encoding")))
    except InputError:
        return _no_image


def _no_image(_: Message) -> None:
    return None
