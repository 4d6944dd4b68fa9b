"""Texts: encoding, parsing and learning."""

from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import contracts
from builders import experiment, played
from icl_loop.core.errors import DatasetError, EncodingError, InputError
from icl_loop.core.messages import merged, system, user
from icl_loop.models.conversation_parser import ConversationParser
from icl_loop.models.features import TEXT_FEATURES, sample_features
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run
from icl_loop.tasks.encodings import get_encoding
from icl_loop.tasks.prompts import PromptSet, open_prompt_set, shipped
from icl_loop.transcripts import read

TEXT = get_encoding("text")
EACH_WORDING = pytest.mark.parametrize(
    "words", [open_prompt_set(n) for n in shipped()], ids=shipped()
)
SAYINGS = {
    "cooking": ("simmer the onions in butter", "knead the dough and let it rise", "salt the boiling water"),
    "sailing": ("reef the mainsail before the squall", "the anchor drags on the sand", "haul in the jib sheet"),
    "sums": ("the square root of eighty-one", "seven times six less four", "a third of twenty-seven"),
}  # fmt: skip
texts = st.text().filter(str.strip)


def sheet(folder: Path) -> str:
    """Write a CSV file with three classes of 30 texts; return the name of the data set."""
    lines = [
        f'"{saying}, number {number}{"!" * (number % 3)}",{kind}'
        for kind, sayings in SAYINGS.items()
        for number in range(30)
        for saying in [sayings[number % 3]]
    ]
    path = folder / "sayings.csv"
    path.write_text("\n".join(["text,label", *lines]), "utf-8")
    return f"csv:{path}"


@given(text=texts)
def test_texts_keep_the_contract(text: str) -> None:
    """A text that is not blank is shown unchanged."""
    contracts.check_encoding(TEXT, text)


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_a_blank_text_is_refused(text: str) -> None:
    """A blank text is rejected by encode and decode."""
    for way in (TEXT.encode, TEXT.decode):
        with pytest.raises(EncodingError, match="is blank"):
            way(text)


@EACH_WORDING
@given(text=texts)
@example(text="Text:\nText:\n")
@example(text="Correct.")
@example(text="文章：\n{sample}")
def test_texts_are_heard(words: PromptSet, text: str) -> None:
    """Any text is recovered from its question, also if feedback comes first."""
    asked = words.section_for("text").ask(text)
    assert words.parse_question(asked.text, "text") == ("", text)
    told = words.tell("revealed_incorrect", "sums")
    [both] = merged([user(told), asked])
    assert words.parse_question(both.text, "text") == (told, text)
    request = [system(words.system_text(("a", "b"), "text", 20, "label")), asked]
    sample = ConversationParser().parse(request).asked
    assert (sample.features.shape, sample.shown) == ((TEXT_FEATURES,), text)


def test_texts_are_compared_by_their_letters() -> None:
    """Texts with the same words are near each other, whatever their length."""
    said = ["the anchor drags", "the anchor drags the anchor drags", "the dragging anchor", "3 + 4"]
    vectors = [sample_features(each, each).features for each in said]
    distances = [float(np.square(vectors[0] - each).sum()) for each in vectors]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[1] < 0.1
    assert distances[2] < distances[3]


async def test_texts_are_learned_from(tmp_path: Path) -> None:
    """With revealed labels, the nearest neighbour learns texts; the session replays."""
    task = {"dataset": sheet(tmp_path), "encoding": "text"}
    made = experiment(task=task, turns=40, streams=2, feedback={"kind": "label"})
    result = await Run(made, tmp_path / "out").play()
    late = []
    for path in result.paths:
        assert await verify(read(path)) == 40
        late += [turn.feedback.correct for turn in read(path).turns[20:]]
    assert mean(late) >= 0.9


@pytest.mark.parametrize("draw", ["uniform", "natural"])
async def test_the_encoding_is_chosen(tmp_path: Path, draw: str) -> None:
    """Without `encoding`, texts and table rows get theirs; transcripts record it and replay."""
    for dataset, encoding in ((sheet(tmp_path), "text"), ("iris", "table"), ("digits", "grid")):
        made = experiment(task={"dataset": dataset, "draw": draw}, turns=3, streams=1)
        result = await Run(made, tmp_path / encoding).play()
        [saved] = map(read, result.paths)
        assert saved.header.settings["task"]["encoding"] == encoding
        assert saved.header.settings["task"].get("draw", "uniform") == draw
        assert await verify(saved) == 3


def test_an_encoding_that_does_not_fit(tmp_path: Path) -> None:
    """A named encoding of another modality is an error, and so is a data set that is not there."""
    with pytest.raises(InputError, match="use one of text"):
        experiment(task={"dataset": sheet(tmp_path), "encoding": "grid"}).check()
    with pytest.raises(
        InputError, match="dataset = 'irs': unknown data set 'irs': did you mean 'iris'"
    ):
        experiment(task={"dataset": "irs"})


async def test_a_file_that_changed_is_found_out(tmp_path: Path) -> None:
    """A class with too few samples is reported before the first request."""
    made = experiment(task={"dataset": sheet(tmp_path), "encoding": "text"}, turns=91)
    with pytest.raises(DatasetError, match="needs one more sample of class"):
        made.check()


@EACH_WORDING
async def test_every_prompts_is_played(tmp_path: Path, words: PromptSet) -> None:
    """Texts, tables and PNG images work with every prompt set."""
    name = next(name for name in shipped() if open_prompt_set(name) == words)
    for dataset, how in ((sheet(tmp_path), "text"), ("iris", "table"), ("digits", "png")):
        task = {"dataset": dataset, "encoding": how, "prompts": name}
        [session, *_] = experiment(task=task, turns=3, feedback={"kind": "label"}).sessions()
        assert [turn.outcome for turn in await played(session)] == ["ok"] * 3
