"""Recovers the image that a question shows."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from icl_loop.core.errors import EncodingError, InputError
from icl_loop.core.messages import Image, Message
from icl_loop.tasks.encodings import Pixels, PngEncoding, get_encoding
from icl_loop.tasks.prompts import PromptSet, open_prompt_set, parser

QuestionDecoder = Callable[[Message], Pixels | None]
"""Returns the pixels that a question shows, or None if it shows no image or was edited."""


@lru_cache(maxsize=16)
def question_decoder(prompts: PromptSet, encoding_name: str) -> QuestionDecoder:
    """Return the decoder for questions in this prompt set and encoding.

    Raises:
        InputError: There is no such encoding, or the prompt set does not describe it.
    """
    how, reader = get_encoding(encoding_name), parser(prompts)
    prompts.section_for(encoding_name)
    if how.modality != "picture":
        return no_image

    def decode(question: Message) -> Pixels | None:
        found: tuple[str, str | Image] | None
        if isinstance(how, PngEncoding):
            found = reader.parse_image_question(question, encoding_name)
        else:
            found = reader.parse_question(question.text, encoding_name)
        try:
            pixels: Pixels | None = None if found is None else how.decode(found[1])
        except EncodingError:
            return None
        return pixels

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
        return no_image


def no_image(_: Message) -> None:
    """Return None: there is no image."""
