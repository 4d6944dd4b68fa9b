"""The laws of the way back from a question to its picture."""

from typing import Any

import numpy as np
import pytest

from icl_loop.core.messages import Message, Text, user
from icl_loop.tasks.encodings import encodings_for, get_encoding
from icl_loop.tasks.prompts import open_prompt_set, shipped
from icl_loop.tasks.question_decoding import eye, eye_of

PICTURE = np.eye(4, dtype=np.float32)


def asked(prompts: str, encoded: str) -> Message:
    """Return the question that shows `PICTURE`."""
    return open_prompt_set(prompts).about(encoded).show(get_encoding(encoded).encode(PICTURE))


@pytest.mark.parametrize("prompts", shipped())
@pytest.mark.parametrize("encoded", encodings_for("picture"))
def test_what_was_asked_is_seen(prompts: str, encoded: str) -> None:
    """A question shows its picture again, alone or behind what was told; an edited one shows none."""
    question = asked(prompts, encoded)
    behind = Message("user", (Text("told\n\n"), *question.parts))
    see = eye_of({"task": {"prompts": prompts, "encoding": encoded}})
    for each in (question, behind):
        np.testing.assert_array_equal(see(each), PICTURE)
    assert see(user(f"{question.text}!")) is None


@pytest.mark.parametrize(
    "settings",
    [{}, {"task": None}, {"task": {"prompts": "?", "encoding": "grid"}}],
    ids=["no task", "no table", "no such prompt set"],
)
def test_strange_settings_show_nothing(settings: dict[str, Any]) -> None:
    """A session whose settings are not of this version shows no picture, and is no error."""
    assert eye_of(settings)(asked("en", "grid")) is None


@pytest.mark.parametrize("encoded", [*encodings_for("table"), *encodings_for("text")])
def test_what_is_no_picture_is_not_seen(encoded: str) -> None:
    """Samples that are no pictures are not seen, even where their words show one."""
    assert eye(open_prompt_set("en"), encoded)(asked("en", "grid")) is None
