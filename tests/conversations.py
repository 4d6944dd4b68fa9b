"""Requests built turn by turn, as a session builds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from icl_loop.core.messages import Message, assistant, system, user
from icl_loop.tasks.datasets import open_dataset
from icl_loop.tasks.encodings import ENCODINGS, Pixels, to_pixels
from icl_loop.tasks.feedback import Phrase
from icl_loop.tasks.prompts import PromptSet, open_prompt_set

LABELS = ("cat", "dog", "Ankle boot", "3", "き")
NUMERALS = tuple("0123456789")
_SAMPLES = list(islice(open_dataset("digits"), 40))
DIGITS = [to_pixels(sample.image, 8) for sample in _SAMPLES]
"""Images of the bundled data set, which some simulated models know."""
TRUTHS = [sample.label for sample in _SAMPLES]
"""Their labels."""


@dataclass(frozen=True)
class Past:
    """A past turn: the image, the answer, the feedback phrase and the correct label."""

    picture: Pixels
    answer: str
    phrase: Phrase
    truth: str = "cat"


def conversation(
    asked: Pixels,
    past: Sequence[Past] = (),
    *,
    words: PromptSet | None = None,
    encoding: str = "grid",
    labels: Sequence[str] = LABELS,
) -> list[Message]:
    """Return the request that asks about an image after these turns."""
    words = words or open_prompt_set("plain")
    show, encode = words.section_for(encoding).ask, ENCODINGS[encoding].encode
    messages = [system(words.system_text(labels, encoding, len(asked), "label"))]
    for turn in past:
        messages += [
            show(encode(turn.picture)),
            assistant(words.reply(turn.answer)),
            user(words.tell(turn.phrase, turn.truth)),
        ]
    return [*messages, show(encode(asked))]
