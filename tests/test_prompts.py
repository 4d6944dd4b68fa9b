"""The prompt sets: what is said can be understood again."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icl_loop.core.errors import InputError
from icl_loop.core.tokens import VOCABULARIES, token_counter
from icl_loop.tasks.encodings import ENCODINGS
from icl_loop.tasks.feedback import Phrase
from icl_loop.tasks.prompts import (
    Announcements,
    Frame,
    ParsedFeedback,
    PromptSet,
    open_prompt_set,
    shipped,
)

WORDINGS = pytest.mark.parametrize(
    "words", [open_prompt_set(name) for name in shipped()], ids=shipped()
)
PHRASES = pytest.mark.parametrize("phrase", get_args(Phrase))

PLACEHOLDERS = ["{label}", "{labels}", "{image}", "{size}", "{answer}", "{0}", "{{label}}", r"\1"]
LINES = st.text(st.characters(categories=["L", "N", "P", "S"]) | st.just(" "), min_size=1)
LABELS = (st.sampled_from(PLACEHOLDERS) | LINES).filter(
    lambda text: text.strip() and ", " not in text
)
IMAGES = st.sampled_from(PLACEHOLDERS) | st.text()
MEANINGS = {
    "correct": (True, False),
    "incorrect": (False, False),
    "revealed_correct": (True, True),
    "revealed_incorrect": (False, True),
    "recorded": (None, False),
    "earlier_correct": (True, False),
    "earlier_incorrect": (False, False),
}
"""The verdict that each phrase tells, and whether it tells the label."""


# ---- every prompt set says everything, and is understood -------------------------------------


@WORDINGS
@pytest.mark.parametrize("feedback", Announcements.model_fields)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_frame_is_complete(words: PromptSet, encoding: str, feedback: str) -> None:
    """Every shipped set words every encoding and every kind of feedback, and leaves no gap open."""
    text = words.frame(("cat", "dog"), encoding, 20, feedback)
    assert "cat, dog" in text
    assert "20 x 20" in text or encoding not in ("article", "png")
    assert words.reply(words.blank) in text.splitlines()
    assert not re.search(r"\{\w+\}", text)


@WORDINGS
@given(
    labels=st.lists(LABELS, min_size=1, max_size=12, unique=True).map(tuple),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    size=st.integers(1, 999),
    feedback=st.sampled_from(sorted(Announcements.model_fields)),
)
@example(labels=("{encoding}", "{answer}"), encoding="grid", size=20, feedback="label")
@example(labels=("a,", ",b"), encoding="grid", size=20, feedback="label")
def test_frames_are_understood(
    words: PromptSet, labels: tuple[str, ...], encoding: str, size: int, feedback: str
) -> None:
    """A frame tells its labels and its encoding again, whatever they are called."""
    said = words.frame(labels, encoding, size, feedback)
    assert words.hear_frame(said) == Frame(labels, encoding)


@WORDINGS
@given(image=IMAGES)
def test_questions_are_understood(words: PromptSet, image: str) -> None:
    """A question tells its image again, to the character."""
    assert words.hear_question(words.ask(image)) == ("", image)


@WORDINGS
@PHRASES
@given(label=LABELS, ago=st.integers(1, 500))
def test_told_phrases_are_understood(
    words: PromptSet, phrase: Phrase, label: str, ago: int
) -> None:
    """A told phrase means its verdict, the label where it reveals one, and which answer it is about."""
    correct, reveals = MEANINGS[phrase]
    heard = ParsedFeedback(correct, label if reveals else None, ago if "earlier" in phrase else 0)
    assert words.hear_told(words.tell(phrase, label, ago)) == heard


@WORDINGS
@PHRASES
@given(label=LABELS.map(str.strip), image=IMAGES, gap=st.sampled_from(["\n\n", "\n", " "]))
def test_questions_may_follow_what_is_told(
    words: PromptSet, phrase: Phrase, label: str, image: str, gap: str
) -> None:
    """What is told is found again where the wire has merged it in front of the next question."""
    told = words.tell(phrase, label)
    assert words.hear_question(told + gap + words.ask(image)) == (told, image)
    assert words.hear_told(told + gap + words.ask("1 2")) is None


@WORDINGS
@given(text=st.text())
def test_other_texts_are_not_understood(words: PromptSet, text: str) -> None:
    """A text that no prompt set says is neither a frame nor a told phrase."""
    assert words.hear_frame(text) is None
    assert words.hear_told(text) is None


def test_promptss_are_told_apart() -> None:
    """No shipped set understands the frame or the phrases of another."""
    for name in shipped():
        said = open_prompt_set(name)
        for other in set(shipped()) - {name}:
            heard_by = open_prompt_set(other)
            assert heard_by.hear_frame(said.frame("01", "grid", 8, "label")) is None
            assert heard_by.hear_told(said.tell("revealed_correct", "1")) is None


@WORDINGS
def test_the_phrases_are_equally_long(words: PromptSet) -> None:
    """Told right, wrong or nothing, a model is told equally many tokens, so arms differ in content only."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TIKTOKEN_CACHE_DIR names no folder with the vocabularies")
    for name in VOCABULARIES:
        count = token_counter(name).count
        phrases = ("correct", "incorrect", "recorded")
        assert len({count(words.tell(phrase, "")) for phrase in phrases}) == 1
        revealed = ("revealed_correct", "revealed_incorrect")
        assert len({count(words.tell(phrase, "7")) for phrase in revealed}) == 1


@WORDINGS
def test_unknown_encoding_or_feedback(words: PromptSet) -> None:
    """An encoding or a kind of feedback that has no words is refused with the nearest that has."""
    with pytest.raises(InputError, match="no words for 'gird': did you mean 'grid'"):
        words.frame("01", "gird", 20, "label")
    with pytest.raises(InputError, match="no words for 'labels': did you mean 'label'"):
        words.frame("01", "grid", 20, "labels")


# ---- a user's own file --------------------------------------------------------------------


def _table(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  any value that a file may hold
    """Return the English set as the tables of a file; `a__b` changes key b of table a, None removes."""
    table = open_prompt_set("en").model_dump()
    for path, value in changes.items():
        *tables, key = path.split("__")
        inner = table
        for name in tables:
            inner = inner[name]
        if value is None:
            del inner[key]
        else:
            inner[key] = value
    return table


def _write(path: Path, table: dict[str, Any]) -> str:
    """Write `table` as TOML, whose strings are those of JSON, and return the path."""
    path.write_text("\n".join(_lines(table)), encoding="utf-8")
    return str(path)


def _lines(table: dict[str, Any], name: str = "") -> Iterator[str]:
    """Yield the lines of a table of TOML: what is plain, then the tables within."""
    yield from (f"{key} = {json.dumps(v)}" for key, v in table.items() if not isinstance(v, dict))
    for key, value in table.items():
        if isinstance(value, dict):
            yield f"[{name}{key}]"
            yield from _lines(value, f"{name}{key}.")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    """A user's own TOML file is a prompt set like any other, read anew when it has changed."""
    path = tmp_path / "my.toml"
    words = open_prompt_set(_write(path, _table(answer="I pick {label}!", blank="it")))
    assert words.reply("3") == "I pick 3!"
    assert "I pick it!" in words.frame("01", "grid", 20, "none")
    assert words.tell("correct", "3") == open_prompt_set("en").tell("correct", "3")
    assert open_prompt_set(_write(path, _table(answer="{label}"))).reply("3") == "3"


def test_a_file_may_word_less(tmp_path: Path) -> None:
    """A user's file may leave out encodings that it does not use, and add one of its own."""
    table = _table(encodings={"grid": "digits", "runes": "a rune for each of {size} pixels"})
    words = open_prompt_set(_write(tmp_path / "my.toml", table))
    frame = words.frame("01", "runes", 8, "none")
    assert "a rune for each of 8 pixels" in frame
    assert words.hear_frame(frame) == Frame(("0", "1"), "runes")
    with pytest.raises(InputError, match="'sparse'"):
        words.frame("01", "sparse", 8, "none")


def test_a_file_from_another_editor(tmp_path: Path) -> None:
    """A file with a byte order mark and Windows line ends holds the same prompt set."""
    path = tmp_path / "my.toml"
    text = Path(_write(path, _table())).read_text(encoding="utf-8")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert open_prompt_set(str(path)) == open_prompt_set("en")


def test_ambiguous_phrases(tmp_path: Path) -> None:
    """Where one phrase could be another around a longer label, the longer phrase is heard."""
    path = tmp_path / "my.toml"
    table = _table(
        told__revealed_correct="{label} it is.", told__revealed_incorrect="No, {label} it is."
    )
    words = open_prompt_set(_write(path, table))
    assert words.hear_told("No, 3 it is.") == ParsedFeedback(correct=False, label="3")
    assert words.hear_told("3 it is.") == ParsedFeedback(correct=True, label="3")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"blank": None}, "key blank: is missing"),
        ({"told__recorded": None}, "key told.recorded: is missing"),
        ({"announced": None}, "key announced: is missing"),
        ({"questoin": "Array: {image}"}, "key questoin: is not known: did you mean 'question'"),
        (
            {"told__incorrect": None, "told__incorect": "No."},
            "key told.incorect: is not known: did you mean 'incorrect'",
        ),
        (
            {"question": "Array:"},
            "key question: must hold {image}, each once, but holds no placeholder",
        ),
        ({"question": "{image} {image}"}, "key question: must hold {image}, each once"),
        ({"system": "{labels} {encoding} {answer}"}, "key system: must hold {labels}"),
        ({"answer": "{lable}"}, "key answer: must hold {label}, each once, but holds {lable}"),
        (
            {"told__correct": "{label}!"},
            "key told.correct: must hold no placeholder, but holds {label}",
        ),
        ({"encodings__grid": "{sise}"}, "key encodings.grid: may hold {size}, but holds {sise}"),
        ({"encodings__grid": ""}, "key encodings.grid: "),
        ({"blank": 3}, "key blank: must be a text, got 3"),
        ({"told": "yes"}, "key told: "),
    ],
)
def test_faults_of_a_file(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    """A key that is missing, unknown, or lacks its placeholder is one error naming file and key."""
    name = _write(tmp_path / "my.toml", _table(**changes))
    with pytest.raises(InputError) as caught:
        open_prompt_set(name)
    assert str(caught.value).startswith(f"prompt set {name}, {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"system = ", "Invalid value"),
        (b"a = 1\n\xff", "byte 7 is no UTF-8"),
        (b"[told]\n[told]", "Cannot declare"),
        (b"= 3", "Invalid"),
    ],
)
def test_not_toml(tmp_path: Path, data: bytes, why: str) -> None:
    """A file that is not TOML is one error that names it and says why."""
    path = tmp_path / "my.toml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"prompt set {re.escape(str(path))} is not TOML: {why}"):
        open_prompt_set(str(path))


def test_no_file(tmp_path: Path) -> None:
    """A file that is missing or a folder is one error that names it, and so is an unknown set."""
    with pytest.raises(InputError, match=r"prompt set .*my\.toml cannot be read: No such file"):
        open_prompt_set(str(tmp_path / "my.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match=r"prompt set .*folder\.toml cannot be read: "):
        open_prompt_set(str(tmp_path / "folder.toml"))
    with pytest.raises(InputError, match=r"unknown prompt set 'jp': .*ja"):
        open_prompt_set("jp")
