"""Images as PNG files: encoding, questions, requests, transcripts and parsing."""

import io
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image as Pillow
from rich.console import Console

import contracts
from builders import experiment, without_checksum
from icl_loop.analysis.baseline import baseline
from icl_loop.core.errors import EncodingError, ReplayMismatch, RequestRefused
from icl_loop.core.messages import Image, Message, Text, merged, system, user
from icl_loop.models import open_model
from icl_loop.models.conversation_parser import ConversationParser, request_key
from icl_loop.models.openai import encode_messages
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run
from icl_loop.server import ServerSettings, build_app, serving
from icl_loop.tasks.datasets import open_dataset
from icl_loop.tasks.encodings import Pixels, get_encoding, prepare_sample
from icl_loop.tasks.encodings.image_text import MAX_SIDE
from icl_loop.tasks.feedback import Phrase
from icl_loop.tasks.prompts import ParsedFeedback, PromptSet, open_prompt_set, shipped
from icl_loop.terminal.session_view import SessionView, draw
from icl_loop.transcripts import read
from icl_loop.transcripts.comparison import compare

PNG = get_encoding("png")
EACH_WORDING = pytest.mark.parametrize(
    "words", [open_prompt_set(n) for n in shipped()], ids=shipped()
)

rectangles = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.floats(0, 1, width=32),
)


def opened(picture: Image) -> np.ndarray:
    """Return the pixels of a PNG file as Pillow reads them."""
    return np.asarray(Pillow.open(io.BytesIO(picture.png), formats=["PNG"]))


# ---- the file ------------------------------------------------------------------------------


@given(values=rectangles)
@example(values=np.ones((256, 256), np.float32))  # more than one stored block
@example(values=np.zeros((1, MAX_SIDE), np.float32))
def test_contract(values: Pixels) -> None:
    """Decoding is exact to 8 bits and agrees with Pillow."""
    contracts.check_encoding(PNG, values)
    assert np.array_equal(opened(PNG.encode(values)), np.rint(values * 255))


def test_the_bytes_never_change() -> None:
    """The bytes of the file never change, as sessions must stay verifiable."""
    values = np.array([[0, 0.5], [1, 0.25]], dtype=np.float32)
    assert PNG.encode(values).png.hex() == (
        "89504e470d0a1a0a"
        "0000000d49484452000000020000000208000000" + "0057dd52f8"
        "000000114944415478010106" + "00f9ff" + "00008000ff40" + "044401c0" + "4adc2e3b"
        "0000000049454e44ae426082"
    )


def test_a_seen_sample_is_the_written_one() -> None:
    """The file shows the same resized grey levels as the texts."""
    sample = open_dataset("digits")[3]
    seen = PNG.decode(PNG.encode(prepare_sample(sample, PNG, 20)))
    grid = get_encoding("grid")
    assert grid.encode(seen) == grid.encode(prepare_sample(sample, grid, 20))


def _altered(start: int, new: bytes) -> bytes:
    png: bytes = PNG.encode(np.zeros((2, 2), np.float32)).png
    return png[:start] + new + png[start + len(new) :]


def _squeezed() -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(np.zeros((2, 2), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "png",
    [
        b"",
        b"\x89PNG",
        _altered(0, b"\x88"),
        _altered(16, b"\0\0\0\0"),
        _altered(16, b"\xff\xff\xff\xff"),
        _altered(24, b"\x10"),
        _altered(41, b"\x79"),
        _altered(60, b"\0"),
        _squeezed(),
    ],
)
def test_other_files_are_refused(png: bytes) -> None:
    """Broken files, and files written in another way, are rejected."""
    with pytest.raises(EncodingError, match="not in the png encoding"):
        PNG.decode(Image(png))


@given(at=st.integers(0, 200), new=st.binary(max_size=3), cut=st.integers(0, 3))
def test_any_bytes(at: int, new: bytes, cut: int) -> None:
    """An altered file is rejected unless it is the file of another image."""
    png = PNG.encode(np.eye(6, dtype=np.float32)).png
    altered = Image(png[:at] + new + png[at + cut :])
    try:
        values = PNG.decode(altered)
    except EncodingError:
        return
    assert PNG.encode(values) == altered


def test_a_bomb_takes_no_memory() -> None:
    """A decompression bomb is not decompressed beyond the size of the image."""
    png = bytearray(PNG.encode(np.zeros((2, 2), np.float32)).png)
    png[41:] = zlib.compress(bytes(10**8))
    with pytest.raises(EncodingError, match="written differently"):
        PNG.decode(Image(bytes(png)))


@pytest.mark.parametrize(
    "values", [np.zeros((0, 0)), np.full((2, 2), 1.1), np.full((2, 2), np.nan)]
)
def test_values_that_are_no_picture(values: np.ndarray) -> None:
    """Only rows and columns of values from 0 to 1 can be encoded."""
    with pytest.raises(EncodingError, match="png: pixels"):
        PNG.encode(values.astype(np.float32))


# ---- asked and heard -----------------------------------------------------------------------


def picture(seed: int) -> Image:
    """Return the file of a random image."""
    values = np.random.default_rng(seed).random((4, 4), dtype=np.float32)
    return Image(PNG.encode(values).png)


@EACH_WORDING
def test_questions_are_understood(words: PromptSet) -> None:
    """The image is recovered from a question, also if feedback comes first."""
    asked, parse = words.section_for("png").ask(picture(1)), words.parse_image_question
    assert [type(part) for part in asked.parts] == [Text, Image]
    assert parse(asked, "png") == ("", picture(1))
    for phrase in ("correct", "revealed_incorrect"):
        told = words.tell(phrase, "7")
        [both] = merged([user(told), asked])
        assert parse(both, "png") == (told, picture(1))
    assert parse(user(asked.text), "png") is None
    assert parse(Message("user", (*asked.parts, *asked.parts)), "png") is None
    assert parse(Message("user", asked.parts[::-1]), "png") is None


def conversation(
    words: PromptSet, wired: type = list, phrase: Phrase = "revealed_correct"
) -> list[Message]:
    """Return a request about an image, after one turn with feedback."""
    ask = words.section_for("png").ask
    frame = system(words.system_text(("cat", "dog"), "png", 4, "label"))
    past = [ask(picture(1)), Message("assistant", (Text(words.reply("cat")),))]
    return list(wired([frame, *past, user(words.tell(phrase, "cat")), ask(picture(2))]))


@EACH_WORDING
@pytest.mark.parametrize("wired", [list, merged])
def test_a_conversation_is_heard(words: PromptSet, wired: type) -> None:
    """A learner parses images, answers and feedback, from separate and from merged messages."""
    heard = ConversationParser().parse(conversation(words, wired))
    assert np.allclose(heard.asked.features, PNG.decode(picture(2)).ravel())
    [example_] = heard.examples
    assert np.allclose(example_.sample.features, PNG.decode(picture(1)).ravel())
    assert (example_.answer, example_.feedback) == (
        "cat",
        ParsedFeedback(correct=True, label="cat"),
    )


def test_what_keys_an_answer() -> None:
    """Random choices depend on the image, but not on whether messages are merged."""
    request = conversation(open_prompt_set("plain"))
    assert request_key(request) == request_key(merged(request))
    other = [*request[:-1], open_prompt_set("plain").section_for("png").ask(picture(3))]
    assert request_key(other) != request_key(request)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((Text("Look:"), picture(1)), "shows an image without the expected question"),
        ((picture(1), picture(2)), "shows an image without the expected question"),
        ((Text("Image:"), Image(b"\x89PNG")), "not in the png encoding"),
        ((Text("Image:\n0123"),), "asks no question"),
    ],
)
async def test_what_is_not_understood(parts: tuple[Text | Image, ...], reason: str) -> None:
    """A question with other words, another kind of image, or none is rejected."""
    frame = conversation(open_prompt_set("plain"))[0]
    with pytest.raises(RequestRefused, match=reason):
        await open_model("reference/nearest").complete([frame, Message("user", parts)])


# ---- saved and sent ------------------------------------------------------------------------


async def test_a_saved_picture_is_read_again(tmp_path: Path) -> None:
    """A transcript contains its images; it replays, unless an image was changed."""
    made = experiment(task={"encoding": "png", "size": 8}, streams=1, feedback={"kind": "label"})
    [path] = (await Run(made, tmp_path).play()).paths
    saved = read(path)
    [fresh] = made.sessions()
    assert [turn.question for turn in saved.turns] == [fresh.task.question(n) for n in range(12)]
    assert await verify(saved) == 12
    assert await baseline(saved) == [turn.feedback.correct for turn in saved.turns]
    text = without_checksum(path.read_text())
    with pytest.raises(ReplayMismatch, match="picture is"):
        compare(saved.turns[0], replace(saved.turns[0], question=user("Image:")))
    path.write_text(text.replace(',"picture":"iVBORw0K', ',"picture":"iVBORw1K'))
    with pytest.raises(ReplayMismatch):
        await verify(read(path))


async def test_replay_draws_what_was_seen(tmp_path: Path) -> None:
    """The viewer shows the image of a turn."""
    made = experiment(task={"encoding": "png"}, streams=1, turns=2)
    [path] = (await Run(made, tmp_path).play()).paths
    saved = read(path)
    [fresh] = made.sessions()
    drawn = draw(prepare_sample(fresh.task.samples[1], PNG, 20), colour=False).plain
    console = Console(width=80, file=io.StringIO())
    with console.capture() as shown:
        console.print(SessionView(saved, colour=False).turn(1))
    assert shown.get().startswith(drawn)


async def test_seen_and_written_over_the_wire(tmp_path: Path) -> None:
    """Behind an endpoint, a learner learns from images and from texts alike."""
    models = {"reference/nearest": open_model("reference/nearest", seed=7)}
    arms = [
        {"name": "png", "task": {"encoding": "png"}},
        {"name": "grid", "task": {"encoding": "grid"}},
    ]
    changes = {"arms": arms, "feedback": {"kind": "label"}, "turns": 40, "streams": 2}
    with serving(build_app(models, settings=ServerSettings())) as base_url:
        model = {"name": "reference/nearest", "base_url": base_url, "context_window": 128_000}
        result = await Run(experiment(model=model, **changes), tmp_path / "wire").play()
    assert result.complete
    await Run(experiment(model={"context_window": 128_000}, **changes), tmp_path / "here").play()
    late = {"png": 0, "grid": 0}
    for path in result.paths:
        over, here = read(path).turns, read(tmp_path / "here" / "small" / path.name).turns
        assert [turn.answer for turn in over] == [turn.answer for turn in here]
        assert [turn.request for turn in over] == [turn.request for turn in here]
        late[path.name.partition("-")[0]] += sum(turn.feedback.correct for turn in over[20:])
    assert min(late.values()) >= 0.4 * 40  # chance is 0.1
    assert abs(late["png"] - late["grid"]) <= 8


def test_the_wire_holds_the_file() -> None:
    """A request contains the image as a data URL after its question."""
    sent = encode_messages([open_prompt_set("plain").section_for("png").ask(picture(1))])
    assert sent.startswith(b'{"role":"user","content":[{"type": "text", "text": "Image:"}')
    assert b'"image_url": {"url": "data:image/png;base64,iVBORw0KGgo' in sent
