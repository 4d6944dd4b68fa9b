"""Prompt sets: every sentence is filled completely and can be parsed again."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builders import experiment
from icl_loop.core.errors import InputError
from icl_loop.core.messages import JOIN
from icl_loop.core.tokens import VOCABULARIES, token_counter
from icl_loop.tasks.encodings import ENCODINGS
from icl_loop.tasks.feedback import Phrase
from icl_loop.tasks.prompts import (
    Announcements,
    ParsedFeedback,
    ParsedSystem,
    PromptSet,
    open_prompt_set,
    shipped,
)

EACH_SET = pytest.mark.parametrize(
    "prompts", [open_prompt_set(name) for name in shipped()], ids=shipped()
)
EACH_PHRASE = pytest.mark.parametrize("phrase", get_args(Phrase))
TEXT_ENCODINGS = [name for name in ENCODINGS if name != "png"]

PLACEHOLDERS = ["{label}", "{labels}", "{sample}", "{size}", "{answer}", "{0}", "{{label}}", r"\1"]
LINES = st.text(st.characters(categories=["L", "N", "P", "S"]) | st.just(" "), min_size=1)
LABELS = (st.sampled_from(PLACEHOLDERS) | LINES).filter(
    lambda text: text.strip() and ", " not in text
)
SAMPLES = st.sampled_from(PLACEHOLDERS) | st.text()


def meaning(phrase: str, label: str, ago: int) -> ParsedFeedback:
    """Return what a phrase tells."""
    correct = None if phrase == "recorded" else not phrase.endswith("incorrect")
    revealed = label if phrase.startswith("revealed") else None
    return ParsedFeedback(correct, revealed, ago if phrase.startswith("earlier") else 0)


# ---- the shipped sets -------------------------------------------------------------------------


@EACH_SET
@pytest.mark.parametrize("feedback", Announcements.model_fields)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_system_text_is_complete(prompts: PromptSet, encoding: str, feedback: str) -> None:
    """Every shipped set covers every encoding and kind of feedback and fills every placeholder."""
    text = prompts.system_text(("cat", "dog"), encoding, 20, feedback)
    assert "cat, dog" in text
    assert "20" in text or ENCODINGS[encoding].modality != "picture"
    assert prompts.reply(prompts.placeholder) in text.splitlines()
    assert not re.search(r"\{\w+\}", text)


@EACH_SET
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_none_is_announced_like_correctness(prompts: PromptSet, encoding: str) -> None:
    """The instructions of `none` and `correctness` differ in one announcement of equal length."""
    announced = prompts.announced.correctness, prompts.announced.none
    shared = [
        prompts.system_text("01", encoding, 20, kind).replace(sentence, "")
        for kind, sentence in zip(("correctness", "none"), announced, strict=True)
    ]
    assert shared[0] == shared[1]
    assert len({len(sentence.split()) for sentence in announced}) == 1
    assert abs(len(announced[0]) - len(announced[1])) <= 0.05 * len(announced[0])


@EACH_SET
def test_equal_phrases_have_equal_length(prompts: PromptSet) -> None:
    """Correct, incorrect and recorded take equally many words and tokens, announced and told."""
    phrases = [prompts.tell(name, "") for name in ("correct", "incorrect", "recorded")]
    assert len({len(phrase.split()) for phrase in phrases}) == 1
    folder = os.environ.get("TIKTOKEN_CACHE_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TIKTOKEN_CACHE_DIR names no folder with the vocabularies")
    for name in VOCABULARIES:
        count = token_counter(name).count
        assert len(set(map(count, phrases))) == 1
        revealed = ("revealed_correct", "revealed_incorrect")
        assert len({count(prompts.tell(phrase, "7")) for phrase in revealed}) == 1
        announced = prompts.announced
        assert abs(count(announced.correctness) - count(announced.none)) <= 1


# ---- parsing ----------------------------------------------------------------------------------


@EACH_SET
@given(
    labels=st.lists(LABELS, min_size=1, max_size=12, unique=True).map(tuple),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    size=st.integers(1, 999),
    feedback=st.sampled_from(sorted(Announcements.model_fields)),
)
@example(labels=("{encoding}", "{answer}"), encoding="grid", size=20, feedback="label")
@example(labels=("a,", ",b"), encoding="grid", size=20, feedback="label")
def test_system_texts_are_parsed(
    prompts: PromptSet, labels: tuple[str, ...], encoding: str, size: int, feedback: str
) -> None:
    """A system text gives back its labels and its encoding, whatever they are called."""
    text = prompts.system_text(labels, encoding, size, feedback)
    assert prompts.parse_system(text) == ParsedSystem(labels, encoding)
    assert prompts.parse_system(text, encoding) == ParsedSystem(labels, encoding)
    assert prompts.parse_system(text, "other") is None


@EACH_SET
@given(sample=SAMPLES, encoding=st.sampled_from(TEXT_ENCODINGS))
def test_questions_are_parsed(prompts: PromptSet, sample: str, encoding: str) -> None:
    """A question gives back its sample, to the character."""
    question = prompts.section_for(encoding).ask(sample).text
    assert prompts.parse_question(question, encoding) == ("", sample)


@EACH_SET
@EACH_PHRASE
@given(label=LABELS, ago=st.integers(1, 500))
def test_feedback_is_parsed(prompts: PromptSet, phrase: Phrase, label: str, ago: int) -> None:
    """A phrase gives back its verdict, the label it reveals, and which answer it is about."""
    told = prompts.tell(phrase, label, ago)
    assert prompts.parse_feedback(told) == (meaning(phrase, label, ago),)


@EACH_SET
@EACH_PHRASE
@given(label=LABELS.map(str.strip), sample=SAMPLES)
def test_feedback_before_a_question_is_parsed(
    prompts: PromptSet, phrase: Phrase, label: str, sample: str
) -> None:
    """Feedback is found if it was merged with the next question into one message."""
    told = prompts.tell(phrase, label, 3)
    question = prompts.section_for("grid").ask(sample).text
    assert prompts.parse_question(told + JOIN + question, "grid") == (told, sample)
    assert not prompts.parse_feedback(told + JOIN + question)


@EACH_SET
@given(text=st.text())
def test_other_texts_are_not_parsed(prompts: PromptSet, text: str) -> None:
    """A text from elsewhere is neither a system text nor feedback."""
    assert prompts.parse_system(text) is None
    assert not prompts.parse_feedback(text)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_set_parses_the_system_text_of_another(encoding: str) -> None:
    """The system text says which shipped set it is from."""
    for name in shipped():
        text = open_prompt_set(name).system_text("01", encoding, 8, "label")
        parsed = [open_prompt_set(each).parse_system(text) for each in shipped()]
        assert [bool(each) for each in parsed] == [each == name for each in shipped()]


# ---- a user's own file --------------------------------------------------------------------


def _table(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  any value that a file may hold
    """Return the set `plain` as a table; `a__b` changes key b of table a, None removes it."""
    table = open_prompt_set("plain").model_dump()
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
    """Yield the lines of a TOML table: its own keys, then the tables in it."""
    yield from (f"{key} = {json.dumps(v)}" for key, v in table.items() if not isinstance(v, dict))
    for key, value in table.items():
        if isinstance(value, dict):
            yield f"[{name}{key}]"
            yield from _lines(value, f"{name}{key}.")


def test_a_complete_file(tmp_path: Path) -> None:
    """A file that states every sentence needs no other set, and is read again when it changes."""
    path = tmp_path / "my.toml"
    prompts = open_prompt_set(_write(path, _table(answer="I pick {label}!", placeholder="it")))
    assert prompts.reply("3") == "I pick 3!"
    assert "I pick it!" in prompts.system_text("01", "grid", 20, "none")
    assert open_prompt_set(_write(path, _table(answer="{label}"))).reply("3") == "3"


def test_a_file_that_extends_a_set(tmp_path: Path) -> None:
    """A file may state only what it changes, down to one sentence of one table."""
    plain = open_prompt_set("plain")
    mine = tmp_path / "mine.toml"
    changes = {
        "extend": "plain",
        "told": {"correct": "Yes."},
        "image_text": {"question": "{sample}"},
    }
    prompts = open_prompt_set(_write(mine, changes))
    told = plain.told.model_copy(update={"correct": "Yes."})
    assert prompts.told == told
    assert prompts.image_text is not None
    assert prompts.image_text.question == "{sample}"
    assert prompts.image_text.system == plain.section_for("grid").system
    assert (prompts.table, prompts.announced) == (plain.table, plain.announced)
    (tmp_path / "more").mkdir()
    more = {"extend": "../mine.toml", "answer": "I pick {label}"}
    further = open_prompt_set(_write(tmp_path / "more" / "more.toml", more))
    assert (further.answer, further.told) == ("I pick {label}", told)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("plan", "did you mean 'plain'"),
        ("missing.toml", "missing.toml cannot be read"),
        ("my.toml", "extends itself"),
        (3, "key extend: must be a string, got 3"),
    ],
)
def test_a_set_that_cannot_be_extended(tmp_path: Path, base: object, reason: str) -> None:
    """Extending a set that does not exist, or the file itself, is an error."""
    path = tmp_path / "my.toml"
    path.write_text(f"extend = {json.dumps(base)}")
    with pytest.raises(InputError, match=reason):
        open_prompt_set(str(path))


def test_a_file_needs_only_the_sections_it_uses(tmp_path: Path) -> None:
    """Sections and descriptions may be missing or empty; using a missing one is an early error."""
    table = _table(
        image_text__encodings={"grid": "", "ascii": "{size} runes"}, table=None, notes=None
    )
    path = _write(tmp_path / "my.toml", table)
    prompts = open_prompt_set(path)
    for encoding in ("grid", "ascii"):
        text = prompts.system_text("01", encoding, 8, "none")
        assert prompts.parse_system(text) == ParsedSystem(("0", "1"), encoding)
    with pytest.raises(InputError, match=r"arm 'feedback'.*'wine'.*\[table\]"):
        experiment(task={"prompts": path, "dataset": "wine", "encoding": "table"})
    with pytest.raises(InputError, match=r"'sparse'; add it to its section \[image_text\]"):
        experiment(task={"prompts": path, "encoding": "sparse"})


def test_encodings_with_the_same_description(tmp_path: Path) -> None:
    """If two encodings have the same description, the expected encoding decides."""
    changes = {"extend": "plain", "image_text": {"encodings": {"grid": "", "sparse": ""}}}
    prompts = open_prompt_set(_write(tmp_path / "my.toml", changes))
    for encoding in ("grid", "sparse"):
        text = prompts.system_text("01", encoding, 8, "none")
        assert prompts.parse_system(text, encoding) == ParsedSystem(("0", "1"), encoding)


@given(sample=st.text())
@example(sample="\n")
def test_a_question_without_words(tmp_path_factory: pytest.TempPathFactory, sample: str) -> None:
    """A question may be the sample alone; feedback before it is found all the same."""
    changes = {"extend": "plain", "text": {"question": "{sample}"}}
    path = tmp_path_factory.getbasetemp() / "bare.toml"
    prompts = open_prompt_set(_write(path, changes))
    told = prompts.tell("revealed_correct", "cat")
    parsed = prompts.parse_question(told + JOIN + sample, "text")
    assert parsed == (told, sample)


def test_a_file_from_another_editor(tmp_path: Path) -> None:
    """A byte order mark and Windows line ends change nothing."""
    path = tmp_path / "my.toml"
    text = Path(_write(path, _table())).read_text(encoding="utf-8")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert open_prompt_set(str(path)) == open_prompt_set("plain")


def test_overlapping_phrases(tmp_path: Path) -> None:
    """If one phrase is another with a longer label, the phrase with the shorter label is found."""
    table = _table(
        told__revealed_correct="{label} it is.", told__revealed_incorrect="No, {label} it is."
    )
    prompts = open_prompt_set(_write(tmp_path / "my.toml", table))
    assert prompts.parse_feedback("No, 3 it is.") == (ParsedFeedback(correct=False, label="3"),)
    assert prompts.parse_feedback("3 it is.") == (ParsedFeedback(correct=True, label="3"),)


@pytest.mark.parametrize(
    ("changes", "both"),
    [
        ({"incorrect": "Correct."}, ("correct", "incorrect")),
        ({"recorded": "Incorrect."}, ("incorrect", "recorded")),
        (
            {"revealed_correct": "It is {label}.", "revealed_incorrect": "It is {label}."},
            ("revealed_correct", "revealed_incorrect"),
        ),
        ({"earlier_correct": "{ago}", "earlier_incorrect": "{ago}"}, ("earlier_correct",)),
    ],
)
def test_phrases_that_cannot_be_told_apart(
    tmp_path: Path, changes: dict[str, str], both: tuple[str, ...]
) -> None:
    """A set in which two phrases can be the same text is refused."""
    path = _write(tmp_path / "my.toml", {"extend": "plain", "told": changes})
    with pytest.raises(InputError, match="cannot be told apart") as caught:
        open_prompt_set(path)
    assert all(f"told.{phrase}" in str(caught.value) for phrase in both)


@pytest.mark.parametrize(
    ("changes", "both"),
    [
        ({"told__correct": "Hm 3", "told__revealed_correct": "Hm {label}"}, ("told.", "told.")),
        (
            {"told__recorded": "It is late.", "told__revealed_incorrect": "It is {label}."},
            ("told.",),
        ),
        ({"told__correct": "Answer: right"}, ("told.correct", "answer")),
        ({"told__revealed_correct": "Good.\nAnswer: {label}"}, ("told.revealed_correct", "answer")),
    ],
)
def test_feedback_that_reads_like_another_sentence(
    tmp_path: Path, changes: dict[str, Any], both: tuple[str, ...]
) -> None:
    """Feedback that is also an answer line, or other feedback with some label, is an error."""
    path = _write(tmp_path / "my.toml", _table(**changes))
    with pytest.raises(InputError, match="cannot be told apart") as caught:
        open_prompt_set(path)
    assert all(name in str(caught.value) for name in both)


def test_an_answer_form_without_words_is_like_no_feedback(tmp_path: Path) -> None:
    """An answer line that is the label alone is no reason to refuse feedback."""
    path = _write(tmp_path / "my.toml", _table(answer="{label}."))
    assert open_prompt_set(path).reply("3") == "3."


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"image_text__encodings__gird": "{size} rows"},
            "key image_text.encodings.gird: there is no such encoding here; did you mean 'grid'",
        ),
        (
            {"image_text__encodings__png": ""},
            "key image_text.encodings.png: there is no such encoding here; ",
        ),
        ({"table__encodings__tabel": ""}, "key table.encodings.tabel: there is no such encoding"),
        ({"placeholder": None}, "key placeholder: is missing"),
        ({"told__recorded": None}, "key told.recorded: is missing"),
        ({"announced": None}, "key announced: is missing"),
        ({"anwser": "A: {label}"}, "key anwser: is not a known key: did you mean 'answer'"),
        (
            {"told__incorrect": None, "told__incorect": "No."},
            "key told.incorect: is not a known key: did you mean 'incorrect'",
        ),
        (
            {"image_text__question": "Array:"},
            "key image_text.question: must contain {sample} once, but contains no placeholder",
        ),
        (
            {"image_text__question": "{sample} {sample}"},
            "key image_text.question: must contain {sample} once",
        ),
        ({"image__question": "{sample}?"}, "key image.question: must end in {sample}"),
        ({"table__system": "{labels} {encoding}"}, "key table.system: must contain {labels} once"),
        ({"answer": "{lable}"}, "key answer: must contain {label} once, but contains {lable} once"),
        (
            {"told__correct": "{label}!"},
            "key told.correct: must contain no placeholder, but contains {label}",
        ),
        (
            {"image_text__encodings__grid": "{sise}"},
            "key image_text.encodings.grid: must contain no placeholder but {size}",
        ),
        ({"told__correct": ""}, "key told.correct: must not be empty"),
        ({"placeholder": 3}, "key placeholder: must be a string, got 3"),
        ({"told": "yes"}, "key told: "),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    """A missing or unknown key, or a wrong placeholder, is one error that names file and key."""
    name = _write(tmp_path / "my.toml", _table(**changes))
    with pytest.raises(InputError) as caught:
        open_prompt_set(name)
    assert str(caught.value).startswith(f"prompt set {name}, {complaint}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"system = ", "at the end: a value is missing"),
        (b"a = 1\n\xff", "byte 7"),
        (b"[told]\n[told]", "line 2, column 6: this table was declared before"),
        (b"a = 1\na = 2\n", "line 2, column 6: this key has a value already"),
        (b"= 3", "line 1, column 1: "),
        (b"a = 'x\n", "at the end: a quotation mark is missing"),
        (b"a = " + b"9" * 5_000, "a whole number is too long"),
    ],
)
def test_not_toml(tmp_path: Path, data: bytes, why: str) -> None:
    """A file that is not TOML is one error that names file and place, and says why in plain words."""
    path = tmp_path / "my.toml"
    path.write_bytes(data)
    with pytest.raises(
        InputError, match=f"prompt set {re.escape(str(path))} is not valid TOML: {why}"
    ):
        open_prompt_set(str(path))


def test_no_file(tmp_path: Path) -> None:
    """A missing file, a folder and an unknown name are errors that say what to choose."""
    with pytest.raises(InputError, match=r"prompt set .*my\.toml cannot be read: No such file"):
        open_prompt_set(str(tmp_path / "my.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match=r"prompt set .*folder\.toml cannot be read: "):
        open_prompt_set(str(tmp_path / "folder.toml"))
    for name, choice in (("plane", "plain"), ("en", "plain"), ("ja", "plain-ja")):
        with pytest.raises(InputError, match=f"'{name}': did you mean '{choice}'"):
            open_prompt_set(name)
    with pytest.raises(InputError, match="article, article-ja, plain, plain-ja"):
        open_prompt_set("?")
