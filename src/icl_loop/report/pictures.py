"""From a question back to the picture that it shows."""

import base64
from collections.abc import Callable

import numpy as np

from icl_loop.encodings import Pixels, SeenPicture, encoding
from icl_loop.errors import EncodingError, InputError
from icl_loop.messages import Message
from icl_loop.transcripts import Header
from icl_loop.wording import open_wording

Eye = Callable[[Message], Pixels | None]
"""From a question to its picture, None if there is none to be read in it."""
Drawn = tuple[int, int, str]
"""Rows, columns, and a byte of brightness for each pixel, in base64."""


def eye(header: Header) -> Eye:
    """Return how to see the pictures of a session, from its recorded settings."""
    task = header.settings.get("task")
    said = task if isinstance(task, dict) else {}
    try:
        how = encoding(str(said.get("encoding")))
        sentences = open_wording(str(said.get("wording"))).about(how.name)
    except InputError:
        return _blind
    if how.modality != "picture":
        return _blind

    def see(question: Message) -> Pixels | None:
        seen = isinstance(how, SeenPicture)
        heard = sentences.hear_picture(question) if seen else sentences.hear_question(question.text)
        try:
            return None if heard is None else how.decode(heard[1])
        except EncodingError:
            return None  # a question that was edited is shown as it stands

    return see


def _blind(_: Message) -> None:
    """See nothing."""


def drawn(pixels: Pixels) -> Drawn:
    """Return a picture, shape (rows, columns) and between 0 and 1, as it is packed."""
    rows, columns = pixels.shape
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return rows, columns, base64.b64encode(levels.tobytes()).decode()
