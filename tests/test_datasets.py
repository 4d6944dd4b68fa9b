"""Data sets: contents, streams, file formats, downloads and errors."""

import gzip
import hashlib
import io
import os
import re
import socket
import struct
import threading
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

import contracts
from icl_loop.core.errors import DatasetError
from icl_loop.tasks.datasets import Dataset, idx, open_dataset
from icl_loop.tasks.datasets.folder import MAX_PIXELS, read_image
from icl_loop.tasks.datasets.published import PUBLISHED_DATASETS, PublishedDataset, find_files
from icl_loop.tasks.encodings import to_pixels

Bytes = NDArray[np.uint8]


def idx_bytes(array: Bytes) -> bytes:
    """Return `array` as an IDX file."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + sizes + array.tobytes()


IMAGES = np.arange(18, dtype=np.uint8).reshape(3, 2, 3) * 15
LABELS = np.array([7, 3, 7], dtype=np.uint8)


def write_pair(
    folder: Path, images: bytes, labels: bytes, *, suffix: str = "", part: str = "tiny"
) -> str:
    """Write an IDX pair into `folder`; return the prefix of the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(images)
    (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(labels)
    return str(folder / part)


def synthetic(*counts: int) -> Dataset:
    """Return a data set of one-pixel images with these class sizes."""
    classes = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(classes), 1, 1), dtype=np.uint8)
    return Dataset("synthetic", images, classes, tuple("abcdefghij"[: len(counts)]))


# ---- digits and mnist ---------------------------------------------------------------------


def test_digits() -> None:
    """The bundled digits are 1,797 images of 8 x 8 pixels, from black to white."""
    digits = open_dataset("digits")
    contracts.check_dataset(digits)
    assert len(digits) == 1797
    assert digits.labels == tuple("0123456789")
    assert {sample.image.shape for sample in digits} == {(8, 8)}
    assert set(np.unique(np.asarray(digits.contents)).tolist()) == {
        round(k * 255 / 16) for k in range(17)
    }


def test_digits_are_those_of_scikit_learn() -> None:
    """The bundled digits equal scikit-learn's, and scaling to 256 levels keeps their brightness."""
    bunch, digits = load_digits(), open_dataset("digits")
    images = np.stack([sample.image for sample in digits])
    assert np.array_equal(np.rint(images * (16 / 255)), bunch.images)
    assert np.array_equal(digits.classes, bunch.target)
    values = np.array([to_pixels(image, 8) for image in images[:200]])
    assert np.abs(values - bunch.images[:200] / 16).max() <= 0.5 / 255 + 1e-6
    assert (float(values.min()), float(values.max())) == (0, 1)


def test_halves_of_the_digits() -> None:
    """The halves have the even and the odd images, and no image of one is in the other."""
    digits, train, test = map(open_dataset, ("digits", "digits:train", "digits:test"))
    contracts.check_dataset(test)
    assert np.array_equal(np.asarray(train.contents), np.asarray(digits.contents)[::2])
    assert np.array_equal(np.asarray(test.contents), np.asarray(digits.contents)[1::2])
    assert np.array_equal(test.classes, digits.classes[1::2])
    seen, new = ({sample.image.tobytes() for sample in half} for half in (train, test))
    assert not seen & new


def test_mnist(mnist: str) -> None:
    """The MNIST test set is 10,000 images of 28 x 28 pixels; the first is a 7."""
    dataset = open_dataset(mnist)
    contracts.check_dataset(dataset)
    assert len(dataset) == 10_000
    assert dataset.labels == tuple("0123456789")
    assert (dataset[0].id, dataset[0].label) == ("mnist:test/0", "7")
    assert dataset[9999].image.shape == (28, 28)
    images = np.stack([sample.image for sample in dataset])
    assert (int(images.min()), int(images.max())) == (0, 255)


@pytest.mark.usefixtures("mnist")
def test_mnist_is_what_was_published() -> None:
    """Local MNIST files have the checksums of the published files."""
    for path in find_files("mnist", "test", PUBLISHED_DATASETS["mnist"]):
        if path.suffix == ".gz":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert PUBLISHED_DATASETS["mnist"].checksums[path.name] == f"sha256:{digest}"


@pytest.mark.parametrize("name", sorted(PUBLISHED_DATASETS))
def test_published(name: str) -> None:
    """Every published data set has ten classes, valid mirrors, and four different checksums."""
    published = PUBLISHED_DATASETS[name]
    assert len(set(published.labels)) == 10
    assert all(re.fullmatch(r"https?://[^?#]+/", mirror) for mirror in published.mirrors)
    lengths = {"sha256": 64, "md5": 32}
    found = [checksum.split(":") for checksum in published.checksums.values()]
    assert len({digest for _, digest in found}) == 4
    assert all(re.fullmatch(f"[0-9a-f]{{{lengths[kind]}}}", digest) for kind, digest in found)
    assert sorted(published.checksums) == [
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]


def put_published(folder: Path, numbers: range) -> None:
    """Write `kmnist` files with one image per label into a data folder."""
    images = np.zeros((len(numbers), 2, 2), dtype=np.uint8)
    labels = np.array(numbers, dtype=np.uint8)
    write_pair(folder / "kmnist", idx_bytes(images), idx_bytes(labels), part="t10k")


def test_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published data set is read from ICL_LOOP_DATA, with the names of its classes."""
    monkeypatch.setenv("ICL_LOOP_DATA", str(tmp_path))
    put_published(tmp_path, range(10))
    dataset = open_dataset("kmnist:test")
    assert dataset.labels == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    assert dataset[3].label == "tsu"


def test_another_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open data set is cached until ICL_LOOP_DATA changes."""
    opened = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        put_published(folder, range(10))
        monkeypatch.setenv("ICL_LOOP_DATA", str(folder))
        opened.append(open_dataset("kmnist:test"))
        assert open_dataset("kmnist:test") is opened[-1]
    assert opened[0] is not opened[1]


def test_data_folder_with_other_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published data set without all its labels is rejected, as names would be shifted."""
    monkeypatch.setenv("ICL_LOOP_DATA", str(tmp_path))
    put_published(tmp_path, range(1, 10))
    with pytest.raises(DatasetError, match="kmnist:test should have labels 0 to 9, found 1, 2"):
        open_dataset("kmnist:test")


# ---- names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("digit", "digits"),
        ("mnist", "mnist:test"),
        ("MNIST:TRAIN", "mnist:train"),
        ("mnst:test", "mnist:test"),
        ("fashion_mnist:test", "fashion-mnist:test"),
        ("idx:", "idx:PREFIX"),
        ("foldr:a/path/much/longer/than/any/name/of/a/data/set", "folder:DIR"),
    ],
)
def test_unknown_name(name: str, near: str) -> None:
    """An unknown data set is rejected; the error names the nearest one, even for a long path."""
    with pytest.raises(DatasetError, match=f"unknown data set '{name}': did you mean '{near}'"):
        open_dataset(name)


@pytest.mark.parametrize("name", ["idx:a\0b", "folder:a\0b", "idx:\udcff", "folder:\ud800"])
def test_names_that_are_not_text(name: str) -> None:
    """A name that is not UTF-8 text is rejected with a printable error."""
    with pytest.raises(DatasetError, match="UTF-8") as caught:
        open_dataset(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["idx", "folder"])
def test_name_too_long(kind: str) -> None:
    """A path that is too long for the system is a DatasetError."""
    with pytest.raises(DatasetError, match="too long"):
        open_dataset(f"{kind}:{'x' * 5000}")


# ---- validation ---------------------------------------------------------------------------

GREY = np.zeros((2, 3, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("images", "classes", "labels", "words"),
    [
        (GREY, [0], "ab", "2 images but 1 labels"),
        (GREY, [0, 0], "a", "at least two classes, got 1"),
        (GREY, [0, 2], "ab", "classes must be 0 to 1, got 2"),
        (GREY, [0, -1], "ab", "classes must be 0 to 1, got -1"),
        (GREY, [0, 1], "aa", "two classes are named 'a'"),
        (GREY, [0, 1], "a\udcff", r"class '\\udcff' is not UTF-8"),
        (GREY.astype(np.int8), [0, 1], "ab", "image 0 is int8"),
        (GREY.astype(np.float32), [0, 1], "ab", "image 0 is float32"),
        (GREY[0], [0, 1, 1], "ab", r"image 0 is uint8, \(3,\)"),
        ([GREY[0], GREY[:, :, :0]], [0, 1], "ab", r"image 1 is uint8, \(2, 3, 0\)"),
        ([GREY[0], GREY[0, :0]], [0, 1], "ab", r"image 1 is uint8, \(0, 3\)"),
        (np.zeros((2, 3, 3, 4), dtype=np.uint8), [0, 1], "ab", r"image 0 is uint8, \(3, 3, 4\)"),
    ],
)
def test_invalid_datasets(images: Any, classes: list[int], labels: str, words: str) -> None:  # noqa: ANN401  wrong on purpose
    """A data set whose parts do not match is rejected; the error shows the fault."""
    with pytest.raises(DatasetError, match=f"mine: .*{words}"):
        Dataset("mine", images, np.array(classes), tuple(labels))


@pytest.mark.parametrize("index", [-1, 1797])
def test_index_outside(index: int) -> None:
    """An index out of range is rejected; the error gives the range."""
    with pytest.raises(DatasetError, match=f"digits has samples 0 to 1796, got index {index}"):
        open_dataset("digits")[index]


def test_iteration() -> None:
    """Iteration yields each sample once, in order."""
    ids = [sample.id for sample in synthetic(3, 2)]
    assert ids == [f"synthetic/{index}" for index in range(5)]


@given(
    images=arrays.arrays(np.uint8, (4, 2, 3)),
    classes=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    at=st.integers(0, 3),
)
def test_checksum(images: Bytes, classes: list[int], at: int) -> None:
    """The checksum depends on pixels, classes, shapes, names and order, but not on the storage."""
    brighter = images.copy()
    brighter[at, 1, 2] ^= 1
    other = [*classes]
    other[at] = 1 - other[at]
    numbers = np.array(classes)
    checksums = [
        Dataset("a", images, numbers, ("x", "y")).sha256,
        Dataset("a", brighter, numbers, ("x", "y")).sha256,
        Dataset("a", images, np.array(other), ("x", "y")).sha256,
        Dataset("a", images.reshape(4, 3, 2), numbers, ("x", "y")).sha256,
        Dataset("a", images, numbers, ("y", "x")).sha256,
        Dataset("a", images, numbers, ("x", "z")).sha256,
    ]
    assert len(set(checksums)) == len(checksums)
    assert Dataset("b", list(images), numbers, ("x", "y")).sha256 == checksums[0]


# ---- streams ------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(400,) * 10, (4000, *(400,) * 9)], ids=["even", "uneven"])
def test_labels_of_a_stream_are_uniform(counts: tuple[int, ...]) -> None:
    """Labels are uniform and independent of the previous label, whatever the class sizes."""
    dataset = synthetic(*counts)
    drawn = [dataset.classes[list(dataset.stream(1000, 3, number))] for number in range(10)]
    seen = np.bincount(np.concatenate(drawn), minlength=10)
    assert ((seen - 1000) ** 2 / 1000).sum() < 27.9  # 9 degrees of freedom, one in a thousand
    pairs = Counter((int(a), int(b)) for stream in drawn for a, b in pairwise(stream))
    chi = sum((pairs[a, b] - 99.9) ** 2 / 99.9 for a in range(10) for b in range(10))
    assert chi < 149  # 99 degrees of freedom, one in a thousand


def test_samples_of_a_stream_are_uniform() -> None:
    """Within a class, every sample is equally likely to come first."""
    dataset = synthetic(5, 5)
    first = Counter(dataset.stream(1, 0, number)[0] for number in range(2000))
    assert len(first) == 10
    assert sum((count - 200) ** 2 / 200 for count in first.values()) < 27.9


@given(
    counts=st.lists(st.integers(0, 12), min_size=2, max_size=4),
    seed=st.integers(),
    number=st.integers(0, 100),
)
def test_exhausted_class(counts: list[int], seed: int, number: int) -> None:
    """No sample is repeated; if a class runs out, the error gives the class and the possible turns."""
    dataset = synthetic(*counts)
    with pytest.raises(DatasetError, match="play at most") as caught:
        dataset.stream(sum(counts) + 1, seed, number)
    found = re.search(r"class '(\w)' .* at most (\d+) turns", str(caught.value))
    assert found
    turns = int(found[2])
    drawn = dataset.stream(turns, seed, number)
    assert len(set(drawn)) == turns
    spent = Counter(dataset[index].label for index in drawn)
    assert spent[found[1]] == counts[dataset.labels.index(found[1])]
    with pytest.raises(DatasetError, match=f"at most {turns} turns"):
        dataset.stream(turns + 1, seed, number)


@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    seed=st.integers(),
    number=st.integers(0, 100),
)
def test_natural_draw(counts: list[int], seed: int, number: int) -> None:
    """A natural draw can play the whole data set, begins alike, and leaves the rest for probes."""
    dataset, size = synthetic(*counts), sum(counts)
    drawn = dataset.stream(size, seed, number, "natural")
    assert sorted(drawn) == list(range(size))
    assert dataset.stream(size // 2, seed, number, "natural") == drawn[: size // 2]
    with pytest.raises(DatasetError, match=f"one more sample than there are; play at most {size}"):
        dataset.stream(size + 1, seed, number, "natural")


def test_natural_frequencies() -> None:
    """In a natural draw, every sample is equally likely to come first."""
    dataset = synthetic(9, 1)
    first = Counter(dataset.stream(1, 0, number, "natural")[0] for number in range(2000))
    assert len(first) == 10
    assert sum((count - 200) ** 2 / 200 for count in first.values()) < 27.9


def test_natural_probes() -> None:
    """Probes of a natural draw have the frequencies of the data set and are not in the stream."""
    digits = open_dataset("digits")
    stream = set(digits.stream(700, 0, 1, "natural"))
    probes = digits.probes(1000, 700, 0, 1, "natural")
    assert len(set(probes)) == 1000
    assert not stream & set(probes)
    counts = np.bincount(digits.classes[list(probes)])
    expected = np.bincount(digits.classes) * 1000 / len(digits)
    assert np.abs(counts - expected).max() < 30
    with pytest.raises(DatasetError, match="1200 probes need one more sample than stream 1 leaves"):
        digits.probes(1200, 700, 0, 1, "natural")


def test_unbalanced_data() -> None:
    """If a rare class runs out in a uniform draw, the error offers the natural one."""
    with pytest.raises(DatasetError, match=r"draw = 'natural' .* for up to 1001 turns"):
        synthetic(1000, 1).stream(200, 0, 0)


def test_streams_differ() -> None:
    """Different streams and seeds draw different samples and labels."""
    dataset = open_dataset("digits")
    streams = [dataset.stream(60, seed, number) for seed in range(5) for number in range(5)]
    assert len(set(streams)) == 25
    assert len({tuple(dataset.classes[list(each)].tolist()) for each in streams}) == 25


def test_golden_stream() -> None:
    """The streams of the digits never change, as sessions must stay resumable."""
    drawn = open_dataset("digits").stream(8, seed=20230315, number=0)
    assert drawn == (1222, 1660, 936, 930, 927, 1565, 1246, 706)


# ---- idx files ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path: Path, suffix: str) -> None:
    """An IDX pair is read back as written, plain or gzipped."""
    pack = gzip.compress if suffix else bytes
    pair = pack(idx_bytes(IMAGES)), pack(idx_bytes(LABELS))
    dataset = open_dataset("idx:" + write_pair(tmp_path, *pair, suffix=suffix))
    contracts.check_dataset(dataset)
    assert np.array_equal(np.asarray(dataset.contents), IMAGES)
    assert [sample.label for sample in dataset] == ["7", "3", "7"]
    assert dataset.labels == ("3", "7")


def test_idx_of_either_name(tmp_path: Path) -> None:
    """Compression is detected from the content, not from the file name."""
    pair = gzip.compress(idx_bytes(IMAGES)), gzip.compress(idx_bytes(LABELS))
    open_dataset("idx:" + write_pair(tmp_path / "packed", *pair))
    plain = idx_bytes(IMAGES), idx_bytes(LABELS)
    open_dataset("idx:" + write_pair(tmp_path / "plain", *plain, suffix=".gz"))


def refusal(folder: Path, images: bytes, labels: bytes, guilty: str) -> str:
    """Return the error for an invalid pair, having checked that it names the guilty file."""
    prefix = write_pair(folder, images, labels)
    with pytest.raises(DatasetError) as caught:
        open_dataset(f"idx:{prefix}")
    assert f"{prefix}-{guilty}" in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
@pytest.mark.parametrize("guilty", ["images", "labels"])
def test_idx_cut_anywhere(tmp_path: Path, guilty: str, pack: Any) -> None:  # noqa: ANN401
    """A truncated file is rejected by name, wherever it is cut."""
    whole = {"images": pack(idx_bytes(IMAGES)), "labels": pack(idx_bytes(LABELS))}
    for end in range(len(whole[guilty])):
        refusal(tmp_path, **{**whole, guilty: whole[guilty][:end]}, guilty=guilty)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (b"", "not an IDX file"),
        (b"<!DOCTYPE html>", "not an IDX file of unsigned bytes: it starts with 3c 21 44 4f"),
        (b"\0\0\x0d\3" + idx_bytes(IMAGES)[4:], "not an IDX file of unsigned bytes"),
        (idx_bytes(LABELS), "has labels, not images"),
        (idx_bytes(IMAGES[0]), "has 2-dimensional data, not images"),
        (idx_bytes(IMAGES[:0]), r"impossible header: sizes \(0, 2, 3\)"),
        (idx_bytes(IMAGES) + b"\0", "should have 18 values, found more than 18"),
        (idx_bytes(IMAGES[:2]), "has 2 images but .* has 3 labels"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-8] + bytes(8), "corrupt or truncated"),
        (
            gzip.compress(idx_bytes(IMAGES), mtime=0) + b"tail",
            "corrupt or truncated",
        ),
        (b"\x1f\x8bnot gzipped at all", "corrupt or truncated"),
        (gzip.compress(b"not an IDX file", mtime=0), "not an IDX file"),
    ],
)
def test_idx_corrupt(tmp_path: Path, images: bytes, words: str) -> None:
    """Each kind of invalid image file has its own error."""
    assert re.search(words, refusal(tmp_path, images, idx_bytes(LABELS), "images"))


def test_idx_images_for_labels(tmp_path: Path) -> None:
    """An image file in place of a label file is rejected."""
    words = refusal(tmp_path, idx_bytes(IMAGES), idx_bytes(IMAGES), "labels")
    assert "has images, not labels" in words


@pytest.mark.parametrize("sizes", [(2000, 1000, 1000), (2**32 - 1,) * 3])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_idx_that_claims_billions(tmp_path: Path, sizes: tuple[int, ...], pack: Any) -> None:  # noqa: ANN401
    """A header that claims billions of values is rejected without allocating memory for them."""
    images = pack(b"\0\0\x08\3" + struct.pack(">3I", *sizes) + bytes(100))
    tracemalloc.start()
    try:
        refusal(tmp_path, images, idx_bytes(LABELS), "images")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**24


@given(
    data=st.binary(max_size=40)
    | st.builds(
        lambda at, byte, rest: idx_bytes(IMAGES)[:at] + bytes([byte]) + rest,
        st.integers(0, 33),
        st.integers(0, 255),
        st.binary(max_size=40),
    ),
    pack=st.sampled_from([bytes, gzip.compress]),
    at=st.integers(0, 200),
    byte=st.integers(0, 255),
)
def test_idx_of_any_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    pack: Any,  # noqa: ANN401
    at: int,
    byte: int,
) -> None:
    """Arbitrary bytes are valid images or a DatasetError with the file name."""
    packed = bytearray(pack(data))
    if packed:
        packed[at % len(packed)] ^= byte
    path = tmp_path_factory.mktemp("idx") / "any"
    path.write_bytes(packed)
    with suppress(DatasetError):
        images = idx.load(path, dimensions=3)
        assert images.dtype == np.uint8
        assert images.ndim == 3
        assert images.size
        return
    with pytest.raises(DatasetError, match=re.escape(str(path))):
        idx.load(path, dimensions=3)


def test_idx_missing(tmp_path: Path) -> None:
    """Missing files and folders in place of files are rejected by name."""
    with pytest.raises(DatasetError, match=r"images-idx3-ubyte\.gz does not exist"):
        open_dataset(f"idx:{tmp_path}/none")
    (tmp_path / "odd-images-idx3-ubyte").mkdir()
    with pytest.raises(DatasetError, match="odd-images-idx3-ubyte cannot be read"):
        open_dataset(f"idx:{tmp_path}/odd")


# ---- folders of images --------------------------------------------------------------------

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
SHADES = RNG.integers(0, 256, (4, 6), dtype=np.uint8)


def class_folder(folder: Path, name: str, *images: Bytes) -> Path:
    """Write a class folder with these images; return its path."""
    path = folder / name
    path.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(path / f"{number}.png")
    return path


def test_folder(tmp_path: Path) -> None:
    """Each sub-folder is a class, sorted by name; hidden files are skipped."""
    class_folder(tmp_path, "dog", COLOUR)
    class_folder(tmp_path, "cat", SHADES, SHADES[:2])
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"hidden")
    (tmp_path / ".git").mkdir()
    (tmp_path / "README").write_text("no class")
    dataset = open_dataset(f"folder:{tmp_path}")
    contracts.check_dataset(dataset)
    assert dataset.labels == ("cat", "dog")
    assert [sample.label for sample in dataset] == ["cat", "cat", "dog"]
    assert np.array_equal(dataset[1].image, SHADES[:2])
    assert np.array_equal(dataset[2].image, COLOUR)


def over_white(colour: Bytes, alpha: Bytes) -> NDArray[np.float64]:
    """Return `colour` composed over white."""
    share = alpha / 255
    return colour * share + 255 * (1 - share)


def test_colour_and_grey(tmp_path: Path) -> None:
    """RGB and grey images are read unchanged."""
    Image.fromarray(COLOUR).save(tmp_path / "rgb.png")
    Image.fromarray(SHADES).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "rgb.png"), COLOUR)
    assert np.array_equal(read_image(tmp_path / "grey.png"), SHADES)


def test_palette(tmp_path: Path) -> None:
    """Palette images are converted to the colours of their palette."""
    picture = Image.fromarray(COLOUR).quantize(4)
    picture.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.array(picture.convert("RGB")))


def test_one_bit(tmp_path: Path) -> None:
    """One-bit images become 0 and 255."""
    Image.fromarray(SHADES > 127).save(tmp_path / "bit.png")
    assert np.array_equal(read_image(tmp_path / "bit.png"), np.where(SHADES > 127, 255, 0))


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_sixteen_bits(tmp_path: Path, kind: str) -> None:
    """16-bit grey levels are scaled to 8 bits."""
    values = np.array([[0, 256, 257], [32_768, 65_534, 65_535]], dtype=np.uint16)
    path = tmp_path / f"deep.{kind}"
    if kind == "pgm":
        path.write_bytes(b"P5 3 2 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert read_image(path).tolist() == [[0, 0, 1], [127, 254, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent(tmp_path: Path, mode: str) -> None:
    """Transparent images are composed over white; grey ones stay grey."""
    path = tmp_path / "clear.png"
    if mode == "P":
        picture = Image.fromarray(COLOUR).quantize(8)
        indices, alpha = np.array(picture), np.zeros(256, dtype=np.uint8)
        alpha[1::2] = 255
        picture.save(path, transparency=alpha.tobytes())
        colour, cover = np.array(picture.convert("RGB")), alpha[indices][..., None]
    else:
        colour = COLOUR if mode == "RGBA" else SHADES
        cover = SHADES[..., None] if mode == "RGBA" else COLOUR[..., 0]
        Image.merge(
            mode, [*Image.fromarray(colour).split(), Image.fromarray(np.squeeze(cover))]
        ).save(path)
    read = read_image(path)
    assert read.shape == colour.shape
    assert np.abs(read - over_white(colour, cover)).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, SHADES), (2, SHADES[:, ::-1]), (3, SHADES[::-1, ::-1]), (6, np.rot90(SHADES, -1))],
)
def test_exif_orientation(tmp_path: Path, orientation: int, turned: Bytes) -> None:
    """The EXIF orientation is applied."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SHADES).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "photo.png"), turned)


def test_truncated_exif(tmp_path: Path) -> None:
    """Unreadable EXIF data is ignored without a warning."""
    Image.fromarray(SHADES).save(tmp_path / "photo.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert read_image(tmp_path / "photo.jpg").shape == SHADES.shape


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.fromarray(SHADES.astype(np.float32)), "floats"),
        (Image.fromarray(SHADES.astype(np.int32) - 1000), "16 bits"),
        (Image.fromarray(SHADES.astype(np.int32) + 65_536), "16 bits"),
    ],
)
def test_undefined_white(tmp_path: Path, image: Image.Image, words: str) -> None:
    """Images whose white level is undefined are rejected rather than clipped."""
    image.save(tmp_path / "odd.tiff")
    with pytest.raises(DatasetError, match=f"odd.tiff cannot be read .*{words}"):
        read_image(tmp_path / "odd.tiff")


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file that claims this size and ends before its pixels."""
    chunk = b"IHDR" + struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 100) + b"IDAT"


@pytest.mark.parametrize("size", [(8_001, 8_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_huge_image(tmp_path: Path, size: tuple[int, int]) -> None:
    """An image whose header claims too many pixels is rejected before it is decoded."""
    (tmp_path / "huge.png").write_bytes(png_header(*size))
    with pytest.raises(DatasetError, match=rf"huge.png .*more than {MAX_PIXELS:,}"):
        read_image(tmp_path / "huge.png")


def test_text_called_png(tmp_path: Path) -> None:
    """A text file named .png is rejected by name."""
    class_folder(tmp_path, "a", SHADES)
    (class_folder(tmp_path, "b") / "note.png").write_text("no picture")
    with pytest.raises(DatasetError, match=r"b/note.png is not an image of a known format"):
        open_dataset(f"folder:{tmp_path}")


def in_format(kind: str, picture: Image.Image) -> bytes:
    """Return an image as a file of this format."""
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def test_truncated_png(tmp_path: Path) -> None:
    """A truncated PNG is rejected by name, unless all pixels come before the cut."""
    whole = in_format("PNG", Image.fromarray(COLOUR))
    path = tmp_path / "cut.png"
    refused = 0
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        try:
            assert np.array_equal(read_image(path), COLOUR)
        except DatasetError as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017  either outcome is sound
    assert refused > len(whole) - 40  # the last chunks hold no pixels


FORMATS = {
    kind: in_format(kind, Image.fromarray(COLOUR))
    for kind in ("BMP", "DDS", "GIF", "ICO", "JPEG", "PCX", "PNG", "PPM", "TGA", "TIFF")
}


@given(
    kind=st.sampled_from(sorted(FORMATS)),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    end=st.integers(1, 2000),
)
def test_altered_images(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    changes: list[tuple[int, int]],
    end: int,
) -> None:
    """An altered image of any format is a valid image or rejected by name."""
    data = bytearray(FORMATS[kind])
    for at, byte in changes:
        data[at % len(data)] = byte
    path = tmp_path_factory.mktemp("altered") / "picture"
    path.write_bytes(data[:end])
    with suppress(DatasetError):
        image = read_image(path)
        assert image.dtype == np.uint8
        assert image.size
        assert image.ndim == 2 or image.shape[2:] == (3,)
        return
    with pytest.raises(DatasetError, match=re.escape(str(path))):
        read_image(path)


def test_empty_class(tmp_path: Path) -> None:
    """An empty class folder is rejected by name."""
    class_folder(tmp_path, "full", SHADES)
    empty = class_folder(tmp_path, "empty")
    with pytest.raises(DatasetError, match=f"class folder {empty} is empty"):
        open_dataset(f"folder:{tmp_path}")


def test_invalid_folders(tmp_path: Path) -> None:
    """A missing folder, a file, and a folder with fewer than two classes are rejected by name."""
    file = tmp_path / "file"
    file.write_text("")
    for path, words in (
        (tmp_path / "none", "not a readable folder: No such file"),
        (file, "not a readable folder: Not a directory"),
        (tmp_path, "has no sub-folders"),
    ):
        with pytest.raises(DatasetError, match=f"{path} .*{words}"):
            open_dataset(f"folder:{path}")
    class_folder(tmp_path, "only", SHADES)
    with pytest.raises(DatasetError, match="at least two classes"):
        open_dataset(f"folder:{tmp_path}")


def test_undecodable_names(tmp_path: Path) -> None:
    """Names that are not UTF-8 are rejected with a printable error."""
    class_folder(tmp_path, "a", SHADES)
    odd = os.fsdecode(b"\xff")
    try:
        bad = class_folder(tmp_path, f"b{odd}", SHADES)
    except OSError:
        pytest.skip("this file system takes only names that are UTF-8")
    with pytest.raises(DatasetError, match=r"class 'b\\udcff' is not UTF-8") as of_class:
        open_dataset(f"folder:{tmp_path}")
    (bad / f"{odd}.png").write_text("no picture")
    with pytest.raises(DatasetError, match=r"b\\xff/\\xff.png is not an image") as of_file:
        open_dataset(f"folder:{tmp_path}")
    for caught in (of_class, of_file):
        assert str(caught.value).isprintable()


# ---- downloads ----------------------------------------------------------------------------

FILES = {
    "t10k-images-idx3-ubyte.gz": gzip.compress(idx_bytes(IMAGES), mtime=0),
    "t10k-labels-idx1-ubyte.gz": gzip.compress(idx_bytes(LABELS), mtime=0),
}


class Mirror(ThreadingHTTPServer):
    """A local file server that records requests and withholds the last `missing` bytes."""

    daemon_threads = False  # closing waits for the last answer

    def __init__(self, files: Mapping[str, bytes], missing: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Files)
        self.files, self.missing = files, missing
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        """The base address of the files."""
        return f"http://127.0.0.1:{self.server_port}/"


class _Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Mirror)
        name = self.path.removeprefix("/")
        self.server.asked.append(name)
        body = self.server.files.get(name)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - self.server.missing])

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serving(files: Mapping[str, bytes], missing: int = 0) -> Iterator[Mirror]:
    """Serve `files` within the context."""
    with Mirror(files, missing) as mirror:
        thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            mirror.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache folder of the data set `tiny`."""
    monkeypatch.delenv("ICL_LOOP_DATA", raising=False)
    monkeypatch.setenv("ICL_LOOP_CACHE", str(tmp_path / "cache"))
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    return tmp_path / "cache" / "tiny"


def published_at(*mirrors: str) -> PublishedDataset:
    """Return a published data set of two classes on these mirrors."""
    checksums = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in FILES.items()}
    return PublishedDataset(mirrors, ("three", "seven"), checksums)


def unused_address() -> str:
    """Return a local address on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def kept(cache: Path) -> dict[str, bytes]:
    """Return the files in the cache."""
    return {path.name: path.read_bytes() for path in cache.glob("**/*") if path.is_file()}


def test_downloaded_once(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file is downloaded once and cached, without output if there is no terminal."""
    with serving(FILES) as mirror:
        paths = find_files("tiny", "test", published_at(mirror.address))
        assert find_files("tiny", "test", published_at(mirror.address)) == paths
        assert mirror.asked == list(FILES)
    assert find_files("tiny", "test", published_at(unused_address())) == paths
    images, classes, labels = idx.load_pair(*paths)
    assert np.array_equal(images, IMAGES)
    assert [labels[number] for number in classes] == ["7", "3", "7"]
    assert kept(cache) == FILES
    assert capfd.readouterr() == ("", "")


WRONG = dict.fromkeys(FILES, b"a page that says you must log in")


@pytest.mark.parametrize(
    ("files", "missing", "reason"),
    [({}, 0, "status 404"), (WRONG, 0, "wrong checksum"), (FILES, 3, "download failed")],
    ids=["absent", "wrong", "torn"],
)
def test_second_mirror(cache: Path, files: Mapping[str, bytes], missing: int, reason: str) -> None:
    """If a mirror fails or serves a wrong file, the next one is tried."""
    with serving(files, missing) as bad, serving(FILES) as good:
        with pytest.raises(DatasetError, match=f"{bad.address}: .*{reason}"):
            find_files("tiny", "test", published_at(bad.address))
        assert kept(cache) == {}
        find_files("tiny", "test", published_at(bad.address, good.address))
        assert good.asked == list(FILES)
    assert kept(cache) == FILES


def test_everything_down(cache: Path) -> None:
    """If all mirrors fail, the error gives each reason and says where to put the file."""
    with serving({}) as empty, serving(WRONG) as wrong:
        down = (unused_address(), empty.address, wrong.address)
        with pytest.raises(DatasetError) as caught:
            find_files("tiny", "test", published_at(*down))
    words = str(caught.value)
    assert [f"{down[0]}: no connection" in words, f"{down[1]}: status 404" in words] == [True] * 2
    assert f"{down[2]}: wrong checksum" in words
    assert f"Put t10k-images-idx3-ubyte.gz into {cache}," in words
    assert "set ICL_LOOP_DATA to a folder that contains tiny/t10k-images-idx3-ubyte.gz" in words
    assert kept(cache) == {}


def test_put_by_hand(cache: Path) -> None:
    """A file placed in the cache is used if its checksum is right."""
    cache.mkdir(parents=True)
    for name, data in FILES.items():
        (cache / name).write_bytes(data)
    images, _ = find_files("tiny", "test", published_at(unused_address()))
    images.write_bytes(b"other bytes")
    with pytest.raises(DatasetError, match="the file there has the wrong checksum"):
        find_files("tiny", "test", published_at(unused_address()))


def test_data_folder_comes_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in ICL_LOOP_DATA, gzipped or plain, take precedence over downloads."""
    monkeypatch.setenv("ICL_LOOP_DATA", str(tmp_path))
    (tmp_path / "tiny").mkdir()
    packed = tmp_path / "tiny" / "t10k-images-idx3-ubyte.gz"
    plain = tmp_path / "tiny" / "t10k-labels-idx1-ubyte"
    packed.write_bytes(FILES[packed.name])
    plain.write_bytes(idx_bytes(LABELS))
    assert find_files("tiny", "test", published_at()) == (packed, plain)
    assert kept(cache) == {}


def test_unwritable_cache(cache: Path) -> None:
    """An unwritable cache is reported as such, not as a failed mirror."""
    cache.parent.write_text("a file")
    with (
        serving(FILES) as mirror,
        pytest.raises(DatasetError, match=f"written to {cache}") as caught,
    ):
        find_files("tiny", "test", published_at(mirror.address))
    assert mirror.address not in str(caught.value)
    assert "set ICL_LOOP_CACHE to another folder" in str(caught.value)


def test_progress_on_a_terminal(cache: Path) -> None:
    """On a terminal, a download shows a progress bar."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    with os.fdopen(screen, "rb", 0) as shown, os.fdopen(terminal, "w") as stderr:
        with serving(FILES) as mirror, redirect_stderr(stderr):
            find_files("tiny", "test", published_at(mirror.address))
        assert shown.read(100_000).count(b"100%") == len(FILES)
    assert kept(cache) == FILES
