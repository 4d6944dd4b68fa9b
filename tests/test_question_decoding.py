"""Questions give back the image they show."""

from typing import Any

import numpy as np
import pytest

from icl_loop.core.messages import Message, Text, user
from icl_loop.tasks.encodings import encodings_for, get_encoding
from icl_loop.tasks.prompts import open_prompt_set, shipped
from icl_loop.tasks.question_decoding import question_decoder, recorded_question_decoder

IMAGE = np.eye(4, dtype=np.float32)


def question(prompts: str, encoding: str) -> Message:
    """Return the question that shows `IMAGE`."""
    encoded = get_encoding(encoding).encode(IMAGE)
    return open_prompt_set(prompts).section_for(encoding).ask(encoded)


@pytest.mark.parametrize("prompts", shipped())
@pytest.mark.parametrize("encoding", encodings_for("picture"))
def test_images_are_recovered(prompts: str, encoding: str) -> None:
    """A question gives back its image, alone or after feedback; an edited question gives none."""
    asked = question(prompts, encoding)
    told = open_prompt_set(prompts).tell("correct", "")
    after_feedback = Message("user", (Text(f"{told}\n\n{asked.text}"), *asked.parts[1:]))
    decode = recorded_question_decoder({"task": {"prompts": prompts, "encoding": encoding}})
    for each in (asked, after_feedback):
        np.testing.assert_array_equal(decode(each), IMAGE)
    assert decode(user(f"{asked.text}!")) is None


@pytest.mark.parametrize(
    "settings",
    [{}, {"task": None}, {"task": {"prompts": "?", "encoding": "grid"}}],
    ids=["no task", "no table", "no such prompt set"],
)
def test_unknown_settings_show_no_image(settings: dict[str, Any]) -> None:
    """A session whose settings are unknown to this version shows no image and raises no error."""
    assert recorded_question_decoder(settings)(question("plain", "grid")) is None


@pytest.mark.parametrize("encoding", [*encodings_for("table"), *encodings_for("text")])
def test_other_samples_show_no_image(encoding: str) -> None:
    """Table rows and texts show no image, even if their text looks like one."""
    decode = question_decoder(open_prompt_set("plain"), encoding)
    assert decode(question("plain", "grid")) is None
