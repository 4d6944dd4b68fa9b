"""Parquet, JSON Lines and Hugging Face data sets, and files of the wrong kind."""

import gzip
import io
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contracts
from icl_loop.core.errors import DatasetError
from icl_loop.tasks.datasets import Dataset, modality_of, open_dataset, row_files
from icl_loop.tasks.datasets.hugging_face import HUB_DATASETS
from icl_loop.tasks.datasets.table import Table

Row = Mapping[str, Any]
TEXTS: Sequence[Row] = [
    {"text": "hi there", "label": 1, "label_text": "greeting"},
    {"text": "bye, all", "label": 0, "label_text": "farewell"},
    {"text": "see you", "label": 0, "label_text": "farewell"},
]
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["farewell", "greeting"], "_type": "ClassLabel"},
}
"""What `datasets` writes about two columns into the metadata of a Parquet file."""


def jsonl(rows: Sequence[Row]) -> bytes:
    """Return a file with a JSON object per line."""
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def parquet(rows: Sequence[Row], features: Mapping[str, Any] | None = None) -> bytes:
    """Return a Parquet file, with or without the metadata of `datasets`."""
    file = io.BytesIO()
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    pl.DataFrame(rows).write_parquet(file, metadata=metadata)
    return file.getvalue()


def opened(folder: Path, kind: str, data: bytes, options: str = "") -> Dataset:
    """Return the data set in a file with this content."""
    path = folder / f"my.{kind}"
    path.write_bytes(data)
    return open_dataset(f"{kind}:{path}{options}")


# ---- valid files ----------------------------------------------------------------------------


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_names_beside_numbers(tmp_path: Path, write: Any) -> None:  # noqa: ANN401
    """The names in `label_text` are the labels, not the numbers in `label` beside it."""
    dataset = opened(tmp_path, write.__name__, write(TEXTS))
    contracts.check_dataset(dataset)
    assert dataset.labels == ("farewell", "greeting")
    assert [sample.content for sample in dataset] == ["hi there", "bye, all", "see you"]
    assert dataset[0].label == "greeting"
    assert dataset.origin == "texts in 'text', labels in 'label_text'"


def test_names_in_the_metadata(tmp_path: Path) -> None:
    """Numbers of classes get the names that `datasets` writes into a Parquet file."""
    rows = [{key: row[key] for key in FEATURES} for row in TEXTS]
    dataset = opened(tmp_path, "parquet", parquet(rows, FEATURES))
    assert [sample.label for sample in dataset] == ["greeting", "farewell", "farewell"]
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    with pytest.raises(DatasetError, match=r"row 1, column 'label': the class -1 has no name"):
        opened(hidden, "parquet", parquet([{**rows[0], "label": -1}, *rows], FEATURES))


@pytest.mark.parametrize("metadata", ["", "[]", "{}", '{"info": {"features": {"label": 3}}}'])
def test_other_metadata(tmp_path: Path, metadata: str) -> None:
    """Metadata of another form are ignored."""
    file = io.BytesIO()
    pl.DataFrame({"text": ["a", "b"], "label": [3, 4]}).write_parquet(
        file, metadata={"huggingface": metadata}
    )
    assert opened(tmp_path, "parquet", file.getvalue()).labels == ("3", "4")


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_numbers(tmp_path: Path, write: Any) -> None:  # noqa: ANN401
    """Without texts, the numbers of all columns but the labels and pandas' index are a table."""
    rows = [
        {
            "__index_level_0__": 4,
            "x": 1.5,
            "big": 10**12,
            "on": True,
            "label": 0,
            "label_text": "a",
        },
        {"__index_level_0__": 7, "x": -2e-9, "big": 3, "on": False, "label": 1, "label_text": "b"},
    ]
    dataset = opened(tmp_path, write.__name__, write(rows))
    assert isinstance(dataset.contents, Table)
    assert dataset.contents.names == ("x", "big", "on")
    assert np.array_equal(dataset.contents.values, [[1.5, 1e12, 1], [-2e-9, 3, 0]])


def test_an_array_of_objects(tmp_path: Path) -> None:
    """One JSON array of objects is read like a line for each object."""
    lines = opened(tmp_path, "jsonl", jsonl(TEXTS))
    (tmp_path / "array").mkdir()
    array = opened(tmp_path / "array", "jsonl", json.dumps(TEXTS, indent=1).encode())
    assert array.sha256 == lines.sha256


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cc", "Cs"])).filter(str.strip),
        min_size=2,
        max_size=5,
    )
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Texts are read back unchanged, and equal from both formats."""
    rows = [{"utterance": text, "intent": "ab"[n % 2]} for n, text in enumerate(texts)]
    folder = tmp_path_factory.mktemp("rows")
    one, other = opened(folder, "jsonl", jsonl(rows)), opened(folder, "parquet", parquet(rows))
    assert [sample.content for sample in one] == texts
    assert one.sha256 == other.sha256


# ---- invalid files --------------------------------------------------------------------------


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    return file.getvalue()


WRONG: Mapping[str, tuple[str, bytes, str]] = {
    "an Excel workbook": ("csv", _zip(), "is an Excel workbook.* save the sheet as CSV UTF-8"),
    "an old workbook": ("csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old Excel workbook"),
    "a gzipped file": ("csv", gzip.compress(b"x,label"), "is gzipped; unpack it with gunzip"),
    "a web page": ("csv", b"<!DOCTYPE html><html>", "is a web page, not data"),
    "a pointer": ("parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "Parquet as CSV": ("csv", parquet(TEXTS), r"is a Parquet file; write parquet:\S+my\.csv"),
    "Parquet as JSON": ("jsonl", parquet(TEXTS), r"is a Parquet file; write parquet:"),
    "JSON as CSV": ("csv", jsonl(TEXTS), r"has JSON objects; write jsonl:\S+my\.csv"),
    "JSON as Parquet": ("parquet", jsonl(TEXTS), "has JSON objects; write jsonl:"),
    "CSV as JSON": ("jsonl", b"text,label\nhi,a\n", "line 1: this is not valid JSON"),
    "CSV as Parquet": (
        "parquet",
        b"text,label\nhi,a\n",
        "this is not a Parquet file, or it is damaged",
    ),
    "a truncated file": (
        "parquet",
        parquet(TEXTS)[:-9],
        "this is not a Parquet file, or it is damaged",
    ),
    "an empty file": ("parquet", b"", "this is not a Parquet file, or it is damaged"),
    "no lines": ("jsonl", b"\n \n", "there are no rows"),
    "no objects": ("jsonl", b"[]", "there are no rows"),
    "no rows": ("parquet", parquet(TEXTS[:0], FEATURES), "there are no rows"),
    "a broken line": ("jsonl", jsonl(TEXTS) + b'{"text": "a', "line 4: this is not valid JSON"),
    "a number": ("jsonl", jsonl(TEXTS) + b"\n7\n", "line 5: this is not an object such as"),
    "a wrong entry": ("jsonl", b'[{"text": "a"}, 3]', "entry 2: this is not an object"),
    "UTF-16": ("jsonl", '{"a": 1}'.encode("utf-16"), "line 1: byte 0xff is not UTF-8.* iconv"),
    "deep nesting": ("jsonl", b"[" * 100_000, "this is not valid JSON"),
    "a missing text": (
        "jsonl",
        jsonl([*TEXTS, {"label_text": "farewell"}]),
        "row 4, column 'text': the text is missing",
    ),
    "a missing label": (
        "parquet",
        parquet([*TEXTS, {"text": "a", "label": 0, "label_text": None}]),
        "row 4, column 'label_text': the label is missing",
    ),
    "a nested text": (
        "jsonl",
        jsonl([{"text": ["a"], "label": "x"}, {"text": ["b"], "label": "y"}]),
        r"row 1, column 'text': \['a'\] is not a text",
    ),
    "a label that is a list": (
        "jsonl",
        jsonl([{"text": "a", "label": ["x"]}, {"text": "b", "label": ["y"]}]),
        "row 1, column 'label': .*, not a label",
    ),
    "a fractional label": (
        "parquet",
        parquet([{"text": "a", "label": 0.5}, {"text": "b", "label": 1.5}]),
        "row 1, column 'label': '0.5' is not a label",
    ),
    "not a number": (
        "jsonl",
        b'{"x": NaN, "label": "a"}\n{"x": 1, "label": "b"}',
        "row 1, column 'x': 'nan' is not a number",
    ),
    "a huge number": (
        "jsonl",
        b'{"x": %s, "label": "a"}\n{"x": 1, "label": "b"}' % (b"9" * 400),
        "row 1, column 'x': .* is larger than",
    ),
    "every label differs": (
        "jsonl",
        jsonl([{"text": f"a{n}", "kind": n % 2, "note": f"b{n}"} for n in range(30)]),
        "column 'note': 30 different labels in 30 rows.* choose the column .*label=NAME",
    ),
    "too many cells": (
        "parquet",
        parquet([{f"x{n}": 1 for n in range(2_000)}] * 1_001),
        "1,001 rows of 2000 columns, more than 2,000,000 cells",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_files(tmp_path: Path, case: str) -> None:
    """A file of the wrong kind or with a wrong row is one printable error with a remedy."""
    kind, data, words = WRONG[case]
    with pytest.raises(DatasetError, match=words) as caught:
        opened(tmp_path, kind, data)
    assert f"my.{kind}" in str(caught.value)
    assert len(str(caught.value)) < 2 * len(str(tmp_path)) + 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@given(data=st.binary(max_size=40), start=st.integers(0, 600), length=st.integers(0, 600))
def test_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: bytes, start: int, length: int
) -> None:
    """A file with altered bytes is a valid data set or a DatasetError."""
    whole = jsonl(TEXTS) if kind == "jsonl" else parquet(TEXTS, FEATURES)
    path = tmp_path_factory.mktemp("rows") / "altered"
    path.write_bytes(whole[:start] + data + whole[start + length :])
    load = row_files.load_jsonl if kind == "jsonl" else row_files.load_parquet
    with suppress(DatasetError):
        contracts.check_dataset(Dataset("altered", *load(str(path))))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my.csv", "did you mean 'csv:my.csv'"),
        ("some/my.TSV", "did you mean 'csv:some/my.TSV'"),
        ("my.json", "did you mean 'jsonl:my.json'"),
        ("my.parquet?label=a", r"did you mean 'parquet:my.parquet\?label=a'"),
        ("banking77", "did you mean 'banking77:t"),
        ("trec:tset", "did you mean 'trec:test'"),
        ("hf:mine", "write hf:NAME:SPLIT, as in hf:mine:train"),
        ("hf::train", "has no split; write hf:NAME:SPLIT"),
        ("jsonl:none.jsonl", r"none\.jsonl cannot be read: No such file"),
        ("parquet:my.parquet?text", "the options must have the form"),
    ],
)
def test_names(name: str, words: str) -> None:
    """A file name without its kind, and a name without a split, are answered with the right name."""
    with pytest.raises(DatasetError, match=words):
        open_dataset(name)


# ---- Hugging Face ---------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two splits as the Hub has them, and an empty cache; no network is used."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "banking77"
    (folder / "data").mkdir(parents=True)
    features = datasets.Features.from_dict(FEATURES)
    rows = [{key: row[key] for key in FEATURES} for row in TEXTS]
    for split, part in (("train", rows), ("test", rows[::-1])):
        made = datasets.Dataset.from_list(part, features=features)
        made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_local_folder(hub: Path) -> None:
    """A folder as the Hub has it is read by split, with the names of its classes."""
    train, test = open_dataset(f"hf:{hub}:train"), open_dataset(f"hf:{hub}:test")
    contracts.check_dataset(train)
    assert train.labels == ("farewell", "greeting")
    assert [sample.content for sample in test] == ["see you", "bye, all", "hi there"]
    assert len(open_dataset(f"hf:{hub}:train[:2]?text=text&label=label")) == 2
    file = next(hub.glob("data/train*"))
    assert open_dataset(f"parquet:{file}").sha256 == train.sha256


def test_sets_of_the_literature(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named data set is read from the data folder, under its own name."""
    monkeypatch.setenv("ICL_LOOP_DATA", str(hub.parent))
    dataset = open_dataset("banking77:test")
    assert (dataset[2].id, dataset[2].label) == ("banking77:test/2", "greeting")


@pytest.mark.parametrize("name", HUB_DATASETS)
def test_sets_that_are_missing(hub: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without a network, the error says where a named data set can be put; it is known to be text."""
    monkeypatch.delenv("ICL_LOOP_DATA", raising=False)
    full = f"{name}:{HUB_DATASETS[name].splits[0]}"
    assert modality_of(full) == "text"
    with pytest.raises(
        DatasetError, match=r"be reached; .* put the files of .* into a folder"
    ) as caught:
        open_dataset(full)
    assert str(caught.value).isprintable()
    assert hub.exists()


@pytest.mark.parametrize(
    "endpoint", ["", "127.0.0.1:8121", "http://", "ftp://a.b/c", "http://127.0.0.1:99999"]
)
def test_a_wrong_address_of_the_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """A mirror's address that is none is an error that names the variable and its value."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.delenv("ICL_LOOP_DATA", raising=False)
    with pytest.raises(DatasetError, match="HF_ENDPOINT") as caught:
        open_dataset("banking77:train")
    assert repr(endpoint) in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", f"ftp://me:password@{endpoint}")
    with pytest.raises(DatasetError) as caught:
        open_dataset("hf:some/name:train")
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("tset", r"Unknown split .tset.*\['test', 'train'\]|Unknown split .tset.*train"),
        ("train?config=plus", "BuilderConfig 'plus' not found.*config=NAME"),
        ("train?label=intent", "there is no column 'intent': did you mean 'text'"),
        ("train?lable=x", "unknown option 'lable': did you mean 'label'"),
    ],
)
def test_wrong_parts(hub: Path, options: str, words: str) -> None:
    """A wrong split, configuration or column is one error with the choices."""
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(f"hf:{hub}:{options}")
    assert f"hf:{hub}" in str(caught.value)


def test_nothing_to_read(hub: Path) -> None:
    """An empty folder, and a data set of nested columns only, are one error each."""
    empty, nested = hub.parent / "empty", hub.parent / "nested"
    empty.mkdir()
    nested.mkdir()
    (nested / "train.parquet").write_bytes(parquet([{"a": ["b"]}, {"a": ["c"]}]))
    with pytest.raises(DatasetError, match=r"hf:.*empty:train"):
        open_dataset(f"hf:{empty}:train")
    with pytest.raises(DatasetError, match="there is no column of texts or numbers"):
        open_dataset(f"hf:{nested}:train")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the optional library, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatasetError, match=r"needs the library datasets; .*icl-loop\[hf\]"):
        open_dataset("hf:some/set:train")
