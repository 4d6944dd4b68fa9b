"""Images as text: what is written, its inverse, and that other texts are rejected."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

import contracts
from icl_loop.core.errors import EncodingError, InputError
from icl_loop.tasks.datasets import open_dataset
from icl_loop.tasks.encodings import Pixels, get_encoding, to_pixels
from icl_loop.tasks.encodings.image_text import MAX_SIDE, PIXEL_TEXT_ENCODINGS

ARTICLE_SHA256 = "c3fb932b1dee4f76e2c3534e3ce0d703e0333473fd5d94ec1266aacc2d41dc86"

names = st.sampled_from(sorted(PIXEL_TEXT_ENCODINGS))
shades = st.floats(0, 1, width=32)
sides = st.integers(1, 28)
squares = sides.flatmap(lambda side: arrays.arrays(np.float32, (side, side), elements=shades))
rectangles = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 80)), elements=shades
)
images = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12))
    | st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)),
)


def floats(*rows: Sequence[float]) -> Pixels:
    """Return pixels with these rows."""
    return np.array(rows, dtype=np.float32)


def as_numpy_prints(values: Pixels) -> str:
    """Return the rows of tenths as numpy itself prints them, joined as in the article."""
    # Adding zero turns the minus zero that rounding may leave into zero.
    rounded = np.round(values, 1) + np.float32(0)
    with np.printoptions(threshold=rounded.size + 1):
        return "[" + ",\n".join(str(row) for row in rounded) + "]"


@pytest.mark.parametrize("name", sorted(PIXEL_TEXT_ENCODINGS))
@given(values=squares)
@example(values=np.zeros((20, 20), np.float32))
@example(values=np.ones((20, 20), np.float32))
@example(values=np.zeros((1, 1), np.float32))
@example(values=np.eye(MAX_SIDE // 8, dtype=np.float32))
def test_contract(name: str, values: Pixels) -> None:
    """Every encoding keeps the contract on squares."""
    contracts.check_encoding(get_encoding(name), values)


@pytest.mark.parametrize("name", sorted(set(PIXEL_TEXT_ENCODINGS) - {"sparse"}))
@given(values=rectangles)
def test_rectangles(name: str, values: Pixels) -> None:
    """Every encoding but `sparse` keeps the contract on rectangles."""
    contracts.check_encoding(get_encoding(name), values)


def test_article_of_the_original() -> None:
    """The fifth training image of MNIST is written exactly as in the original article."""
    folder = os.environ.get("ICL_LOOP_DATA")
    prefix = Path(folder or "", "mnist", "train-first100")
    if not folder or not Path(f"{prefix}-images-idx3-ubyte.gz").exists():
        pytest.skip("ICL_LOOP_DATA names no folder that holds mnist/train-first100-*")
    sample = open_dataset(f"idx:{prefix}")[4]
    text = get_encoding("article").encode(to_pixels(sample.image, 20))
    assert len(text) == 1560
    assert hashlib.sha256(text.encode()).hexdigest() == ARTICLE_SHA256


@given(values=squares | rectangles)
@example(values=np.linspace(0, 1, 2 * 1001, dtype=np.float32).reshape(2, 1001))
@example(values=floats([0, 1] * 12))  # the longest line of whole numbers
@example(values=floats([1, *[0, 1] * 12]))  # one number more
@example(values=floats([0.5, 0] * 9))  # the longest line of tenths
@example(values=floats([0, *[0.5, 0] * 9]))  # one number more
@example(values=floats([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95]))
@example(values=floats([-0.0, 1e-45, 0.04999, 0.95, 0.9500001]))
def test_article_is_numpy_printing(values: Pixels) -> None:
    """The article encoding equals numpy's own printing of the tenths, at any width."""
    assert get_encoding("article").encode(values) == as_numpy_prints(values)


@given(image=images, size=st.integers(1, 24))
def test_article_of_any_image(image: NDArray[np.uint8], size: int) -> None:
    """An image is resized, converted to grey, scaled and rounded, in this order."""
    grey = Image.fromarray(image).resize((size, size)).convert("L")
    scaled = np.asarray(grey, np.float32) / np.float32(255)
    assert np.array_equal(to_pixels(image, size), scaled)
    assert get_encoding("article").encode(to_pixels(image, size)) == as_numpy_prints(scaled)


def test_printing_options_change_nothing() -> None:
    """Numpy's print options do not change the article encoding."""
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    usual = get_encoding("article").encode(values)
    with np.printoptions(precision=2, floatmode="fixed", linewidth=30, sign="+", threshold=3):
        assert get_encoding("article").encode(values) == usual


@given(image=arrays.arrays(np.uint8, st.tuples(sides, sides)))
def test_pixels_without_resize(image: NDArray[np.uint8]) -> None:
    """An image of the requested size keeps every value."""
    square = np.resize(image, (len(image), len(image)))
    assert np.array_equal(np.rint(to_pixels(square, len(square)) * 255), square)


def test_colour_is_resized_first() -> None:
    """A colour image is resized before the conversion to grey, which makes a difference."""
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(image)
    late = np.array(picture.resize((4, 4)).convert("L")) / np.float32(255)
    early = np.array(picture.convert("L").resize((4, 4))) / np.float32(255)
    assert not np.array_equal(late, early)
    assert np.array_equal(to_pixels(image, 4), late)


@pytest.mark.parametrize("size", [-1, 0, MAX_SIDE + 1])
def test_impossible_size(size: int) -> None:
    """A size outside 1 to `MAX_SIDE` is rejected."""
    with pytest.raises(InputError, match=f"got {size}"):
        to_pixels(np.zeros((8, 8), np.uint8), size)


def test_examples() -> None:
    """The texts of a small image are as described to the model."""
    values = floats([0, 0.5, 1], [0, 0, 0], [1, 0, 0.25])
    assert {name: each.encode(values) for name, each in PIXEL_TEXT_ENCODINGS.items()} == {
        "article": "[[0.  0.5 1. ],\n[0. 0. 0.],\n[1.  0.  0.2]]",
        "grid": "049\n000\n902",
        "spaced": "0 4 9\n0 0 0\n9 0 2",
        "ascii": " =@\n   \n@ :",
        "binary": "..#\n...\n#..",
        "sparse": "2\n.\n0",
    }


@given(values=squares)
def test_sparse_is_binary(values: Pixels) -> None:
    """Sparse and binary show the same pixels."""
    sparse, binary = get_encoding("sparse"), get_encoding("binary")
    read = binary.decode(binary.encode(values))
    assert np.array_equal(sparse.decode(sparse.encode(values)), read)


def is_rejected(name: str, text: str) -> bool:
    """Return whether `text` is rejected, having checked that otherwise it round-trips."""
    try:
        values = get_encoding(name).decode(text)
    except EncodingError:
        return True
    assert get_encoding(name).encode(values) == text
    return False


@given(name=names, text=st.text() | st.text("[]., \n0123456789-.:=+*#%@eE_nainf٣"))
def test_any_text(name: str, text: str) -> None:
    """A text is either exactly what the encoding produces, or rejected."""
    is_rejected(name, text)


@given(
    name=names,
    values=squares,
    at=st.integers(0, 10_000),
    cut=st.integers(0, 3),
    put=st.text("[]., \n0123456789-#@e", max_size=3) | st.text(max_size=2),
)
def test_altered_text(name: str, values: Pixels, at: int, cut: int, put: str) -> None:
    """An altered text is rejected unless it is the text of another image."""
    text = get_encoding(name).encode(values)
    start = at % (len(text) + 1)
    is_rejected(name, text[:start] + put + text[start + cut :])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, "") for name in PIXEL_TEXT_ENCODINGS),
        ("article", "[[0.5 nan]]"),
        ("article", "[[0.5 1.1]]"),
        ("article", "[[0.5 -0. ]]"),
        ("article", "[[0.5 0.25]]"),  # no tenth
        ("article", "[[0.5 0.]]"),  # not padded
        ("article", "[[0.5 ٠.1]]"),
        ("article", "[[0. 0.],\n[0.]]"),
        ("article", "[0. 0.]"),
        ("grid", "01\n0"),
        ("grid", "0x\n00"),
        ("grid", "01\n01\n"),
        ("grid", "٣٣\n٣٣"),
        ("spaced", "0 1\n01 "),
        ("spaced", "0,1\n0,1"),
        ("binary", "01\n01"),
        ("sparse", ".\n2"),
        ("sparse", "1-0\n."),
        ("sparse", "0 1\n."),  # two runs that are one
        ("sparse", "0-0\n."),
        ("sparse", "00\n."),
        ("sparse", "0\n"),
        ("sparse", f"{'9' * 5000}\n."),
    ],
)
def test_similar_texts(name: str, text: str) -> None:
    """A text that only resembles an encoding is rejected."""
    assert is_rejected(name, text)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("article", "0."),
        ("grid", "0"),
        ("spaced", "0"),
        ("ascii", " "),
        ("binary", "."),
        ("sparse", "."),
    ],
)
def test_too_many_rows(name: str, row: str) -> None:
    """A text with too many rows is rejected; the error gives the limit."""
    between = "],\n[" if name == "article" else "\n"
    text = between.join([row] * 20_000)
    with pytest.raises(EncodingError, match=str(MAX_SIDE)):
        get_encoding(name).decode(f"[[{text}]]" if name == "article" else text)


@pytest.mark.parametrize("name", sorted(PIXEL_TEXT_ENCODINGS))
@pytest.mark.parametrize(
    "values",
    [
        np.zeros((0, 0)),
        np.zeros(4),
        np.zeros((2, 2, 3)),
        np.zeros((1, MAX_SIDE + 1)),
        np.full((2, 2), 1.01),
        np.full((2, 2), -0.01),
        np.full((2, 2), np.nan),
        np.full((2, 2), np.inf),
    ],
    ids=lambda values: f"{values.shape}-{values.max(initial=0)}",
)
def test_invalid_values(name: str, values: NDArray[np.float64]) -> None:
    """Only rows and columns of values from 0 to 1 can be encoded."""
    with pytest.raises(EncodingError, match=name):
        get_encoding(name).encode(values.astype(np.float32))


def test_sparse_refuses_rectangles() -> None:
    """Sparse rejects rectangles, because its rows do not show their length."""
    with pytest.raises(EncodingError, match=r"\(2, 3\)"):
        get_encoding("sparse").encode(np.zeros((2, 3), np.float32))


def test_unknown_encoding() -> None:
    """An unknown encoding is rejected; the error names the nearest one."""
    with pytest.raises(InputError, match="did you mean 'article'"):
        get_encoding("artikel")
