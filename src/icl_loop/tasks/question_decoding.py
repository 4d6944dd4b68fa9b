"""The way back from a question to the picture that it shows."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from icl_loop.core.errors import EncodingError, InputError
from icl_loop.core.messages import Message
from icl_loop.tasks.encodings import Pixels, PngEncoding, get_encoding
from icl_loop.tasks.prompts import PromptSet, open_prompt_set

Eye = Callable[[Message], Pixels | None]
"""From a question to its picture; None if it shows none, as where it was edited."""


@lru_cache(maxsize=16)
def eye(prompts: PromptSet, encoded: str) -> Eye:
    """Return how to see what questions show in these words and the encoding called `encoded`.

    Raises:
        InputError: There is no such encoding, or there are no words for it.
    """
    how, sentences = get_encoding(encoded), prompts.about(encoded)
    if how.modality != "picture":
        return blind
    seen = isinstance(how, PngEncoding)

    def see(question: Message) -> Pixels | None:
        heard = sentences.hear_picture(question) if seen else sentences.hear_question(question.text)
        try:
            pixels: Pixels | None = None if heard is None else how.decode(heard[1])
        except EncodingError:
            return None
        return pixels

    return see


def eye_of(settings: Mapping[str, Any]) -> Eye:
    """Return how to see what the questions of a session show, by its recorded settings.

    Where they are not of this version, nothing is seen.
    """
    task = settings.get("task")
    said = task if isinstance(task, dict) else {}
    try:
        return eye(open_prompt_set(str(said.get("prompts"))), str(said.get("encoding")))
    except InputError:
        return blind


def blind(_: Message) -> None:
    """See nothing."""
