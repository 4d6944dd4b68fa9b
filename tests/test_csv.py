"""CSV files: parsing, column choice, and errors."""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contracts
from icl_loop.core.errors import DatasetError
from icl_loop.core.records import LARGEST
from icl_loop.tasks.datasets import Dataset, csv_file, open_dataset
from icl_loop.tasks.datasets.dataset import MAX_TEXT
from icl_loop.tasks.datasets.source_file import MAX_BYTES
from icl_loop.tasks.datasets.table import Table


def write(folder: Path, data: str | bytes) -> Path:
    """Write a file; return its path."""
    path = folder / "my.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def opened(folder: Path, data: str | bytes, options: str = "") -> Dataset:
    """Return the data set in a file with this content, uncached."""
    return Dataset("mine", *csv_file.load(f"{write(folder, data)}{options}"))


def table_of(dataset: Dataset) -> Table:
    """Return the table of a data set."""
    assert isinstance(dataset.contents, Table)
    return dataset.contents


# ---- valid files ----------------------------------------------------------------------------


def test_numbers_and_a_label(tmp_path: Path) -> None:
    """The column `label` has the labels; the others are the numbers of a table."""
    path = write(tmp_path, "label, width ,height\nb,1,.5\n a ,-2e3,+3\n\nb,0,4.\n")
    dataset = open_dataset(f"csv:{path}")
    contracts.check_dataset(dataset)
    assert table_of(dataset).names == ("width", "height")
    assert table_of(dataset).values.tolist() == [[1, 0.5], [-2000, 3], [0, 4]]
    assert dataset.labels == ("a", "b")
    assert [sample.label for sample in dataset] == ["b", "a", "b"]
    assert dataset[1].id == f"csv:{path}/1"


def test_the_last_column_is_the_label(tmp_path: Path) -> None:
    """Without a column `label`, the last column has the labels."""
    dataset = opened(tmp_path, "x,y,kind\n1,2,b\n3,4,a\n")
    assert table_of(dataset).names == ("x", "y")
    assert dataset.labels == ("a", "b")


def test_texts_and_a_label(tmp_path: Path) -> None:
    """A column `text` makes a data set of texts; other columns are ignored."""
    data = 'id,text,label\r\n1,"one, two\r\nthree",x\r\n2,"He said ""no"".",y\r\n3,é😀,y\r\n'
    dataset = opened(tmp_path, data)
    contracts.check_dataset(dataset)
    assert dataset.modality == "text"
    assert [sample.content for sample in dataset] == ["one, two\nthree", 'He said "no".', "é😀"]
    assert [sample.label for sample in dataset] == ["x", "y", "y"]


@pytest.mark.parametrize(
    ("options", "modality", "labels"),
    [
        ("?label=kind", "table", ("3", "4")),
        ("?label=x", "table", ("1", "2")),
        ("?text=kind&label=x", "text", ("1", "2")),
        ("?text=a%26b", "text", ("8", "9")),
    ],
)
def test_columns_may_be_named(
    tmp_path: Path, options: str, modality: str, labels: tuple[str, ...]
) -> None:
    """Options after the path choose the columns of label and text."""
    data = "x,kind,a&b,last\n1,3,5,8\n2,4,6,9\n"
    dataset = opened(tmp_path, data, options)
    assert (dataset.modality, dataset.labels) == (modality, labels)


def test_byte_order_mark(tmp_path: Path) -> None:
    """A byte order mark at the start of the file is ignored."""
    data = "x,label\n1,a\n2,b\n"
    plain = opened(tmp_path, data).sha256
    assert opened(tmp_path, b"\xef\xbb\xbf" + data.encode()).sha256 == plain


TABLE = "x,y,label\n1.5,-2,a\n2.5,3e4,b\n"


@pytest.mark.parametrize(
    "data",
    [
        TABLE.encode("utf-16"),
        TABLE.encode("utf-16-le"),
        TABLE.encode("utf-16-be"),
        TABLE.encode("utf-32"),
        TABLE.replace(",", "\t").encode(),
        TABLE.replace(",", ";").encode(),
        TABLE.replace(",", "|").encode(),
        TABLE.replace(",", ";").replace(".", ",").encode(),
        TABLE.replace(",", "\t").replace(".", ",").encode(),
        b"sep=;\r\n" + TABLE.replace(",", ";").replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbfsep=,\n" + TABLE.encode(),
        TABLE.replace("\n", ",,\n").encode() + b",,,,\n\n",
        b",x,y,label\n0,1.5,-2,a\n1,2.5,3e4,b\n",
        b"Unnamed: 0,x,y,label\n5,1.5,-2,a\n3,2.5,3e4,b\n",
        b'"x","y","label"\n"1.5","-2","a"\n"2.5","3e4","b"\n',
        b"y,label,x\n-2,a,1.5\n3e4,b,2.5\n",
    ],
)
def test_the_same_table(tmp_path: Path, data: bytes) -> None:
    """Charset, separator, decimal comma, index and empty columns do not change a table."""
    dataset = opened(tmp_path, data)
    table = table_of(dataset)
    order = [table.names.index(name) for name in "xy"]
    assert table.values[:, order].tolist() == [[1.5, -2], [2.5, 3e4]]
    assert [sample.label for sample in dataset] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "charset", "options"),
    [
        ("Grüße aus Köln", "latin-1", ""),
        ("“Ça coûte 5 €”, dit l’élève naïf", "cp1252", ""),
        ("¿Qué pasó, señor?", "latin-1", ""),
        ("日本語の文章", "shift-jis", "?charset=shift-jis"),
        ("Привет, мир", "cp1251", "?charset=cp1251"),
        ("Zażółć gęślą jaźń", "cp1250", "?charset=cp1250"),
    ],
)
def test_charsets(tmp_path: Path, text: str, charset: str, options: str) -> None:
    """Western texts are read as such; others are an error unless their charset is named."""
    data = f'text,label\n"{text}",a\nhi,b\n'.encode(charset)
    assert opened(tmp_path, data, options)[0].content == text
    if options:
        with pytest.raises(
            DatasetError, match=r"line 2: .* is not utf-8; name the charset.* iconv"
        ):
            opened(tmp_path, data)


@pytest.mark.parametrize(
    ("header", "modality", "label"),
    [
        ("utterance,intent", "text", "x"),
        ("intent,Sentence", "text", "one"),
        ("id,query,label", "text", "x"),
        ("idx,phrase,label", "text", "x"),
        ("phrase,kind", "text", "x"),
        ("label,title,label_text", "text", "x"),
        ("label_text,label,phrase", "text", "one"),
    ],
)
def test_usual_names(tmp_path: Path, header: str, modality: str, label: str) -> None:
    """Columns of texts and labels are found by usual names, or because nothing else is left."""
    cells = {"id": "1", "idx": "1", "label": "7" if "label_text" in header else "x"}
    names = header.split(",")
    first = [
        cells.get(name, "one" if n == 0 or name in ("query", "phrase", "title") else "x")
        for n, name in enumerate(names)
    ]
    dataset = opened(
        tmp_path,
        f"{header}\n{','.join(first)}\n{','.join(c + 'z' if not c.isdigit() else c for c in first)}\n",
    )
    assert (dataset.modality, dataset[0].label) == (modality, label)


@given(
    texts=st.lists(
        st.text(
            st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from('\n\t,"'), max_size=20
        ).filter(str.strip),
        min_size=2,
        max_size=6,
    )
)
def test_round_trip_of_texts(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Texts written by Python's csv module are read back unchanged."""
    file = io.StringIO()
    labels = ["a", "b", *"a" * len(texts)]
    csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=False)])
    dataset = opened(tmp_path_factory.mktemp("csv"), file.getvalue())
    assert [sample.content for sample in dataset] == texts


def test_the_checksum_of_texts(tmp_path: Path) -> None:
    """The checksum depends on every text, every label, and the boundaries between texts."""
    files = ["ab,x\nc,y", "a,x\nbc,y", "ab,y\nc,x", "ab,x\nc,z", "ab,x\nd,y"]
    made = [opened(tmp_path, f"text,label\n{data}\n") for data in files]
    assert len({dataset.sha256 for dataset in made}) == len(files)


# ---- invalid files --------------------------------------------------------------------------

WRONG: Mapping[str, tuple[str | bytes, str]] = {
    "an empty file": ("", "my.csv: the file is empty"),
    "only blank lines": ("\n\n\n", "my.csv: the file is empty"),
    "only names": ("x,label\n", "no rows below"),
    "one column": ("label\na\nb\n", "only the column 'label'"),
    "other separators": ("x/label\n1/a\n2/b\n", "only the column 'x/label'"),
    "a ragged row": ("x,label\n1,a\n2\n", "line 3: 1 cells, but there are 2 columns"),
    "a row too long": ("x,label\n1,a,\n", "line 2: 3 cells, but there are 2 columns"),
    "two names alike": ("x,x,label\n1,2,a\n", "two columns are named 'x'"),
    "no name": (",x,label\nu,1,a\n", "the name of column 1 must be one short line, got ''"),
    "a name of two lines": ('"a\nb",label\n1,a\n', r"name of column 1 .*'a\\nb'"),
    "a missing value": ("x,label\n1,a\n,b\n", "line 3, column 'x': the value is missing"),
    "a word": ("x,label\n1,a\nred,b\n", "line 3, column 'x': 'red' is not a number"),
    "nan": ("x,label\n1,a\nnan,b\n", "line 3, column 'x': 'nan' is not a number; fill it in"),
    "an underscore": ("x,label\n1,a\n1_0,b\n", "line 3, column 'x': '1_0' is not a number"),
    "another script": ("x,label\n1,a\n٣,b\n", "line 3, column 'x': '٣' is not a number"),
    "a number too large": ("x,label\n1e999,a\n", "line 2, column 'x': '1e999' is larger than"),
    "a missing label": ("x,label\n1,a\n2, \n", "line 3, column 'label': the label is missing"),
    "a label of two lines": (
        'x,label\n1,"a\nb"\n',
        r"line 2, column 'label': 'a\\nb' is not a label",
    ),
    "a label with a comma": (
        'x,label\n1,"a, b"\n',
        "line 2, column 'label': 'a, b' is not a label",
    ),
    "one class": ("x,label\n1,a\n2,a\n", "column 'label': 1 different labels"),
    "a long label": (
        f"x,label\n1,{'a' * 201}\n",
        r"line 2, column 'label': 'a+\.\.\.a+' is not a label",
    ),
    "a long name": (f"{'x' * 201},label\n1,a\n", r"name of column 1 .*'x+\.\.\.x+'"),
    "too many labels": (
        "x,label\n" + "".join(f"1,{n}\n" for n in range(1_001)),
        "column 'label': 1,001 different labels",
    ),
    "too many cells": (
        ",".join(map(str, range(1_000))) + "\n" + (",".join("1" * 1_000) + "\n") * 2_001,
        "line 2002: more than 2,000,000 cells",
    ),
    "a blank text": ("text,label\nhi,a\n ,b\n", "line 3, column 'text': the text is blank"),
    "a control": ("text,label\nhi,a\n\x1b[2J,b\n", r"line 3, column 'text': .* '\\x1b'"),
    "a NUL": ("text,label\nhi,a\n\0,b\n", r"line 3, column 'text': .* '\\x00'"),
    "after lines within a cell": ('text,label\n"1\n2\n3",a\n ,b\n', "line 5, column 'text'"),
    "a long cell": (
        f"text,label\n{'x' * (MAX_TEXT + 1)},a\n",
        "line 2, column 'text': the text has 20,001 characters",
    ),
    "a huge cell": (f"text,label\n{'x' * 200_000},a\n", "line 2: .* more than 131,072 characters"),
    "two separators of decimals": (
        "x;label\n1.234;a\n1,5;b\n",
        "line 2, column 'x': '1.234' has a point, but other cells of the column have decimal commas",
    ),
    "thousands": (
        "x\tlabel\n1,234\ta\n1\tb\n",
        "line 2, column 'x': '1,234' may have a decimal comma or group thousands",
    ),
    "a decimal comma in quotes": (
        'x,label\n"1,5",a\n2,b\n',
        "line 2, column 'x': '1,5' is not a number; write numbers with a decimal point",
    ),
    "a text among numbers": (
        "x,y,label\n1,red,a\n2,blue,b\n",
        "line 2, column 'y': 'red' is not a number; if .* the text to classify, add .text=y",
    ),
    "lines after sep=": ("sep=;\nx;label\n1;a\n;b\n", "line 4, column 'x': the value is missing"),
    "not UTF-8": (
        b"x,label\n1,a\n2,\x81\xff\n",
        "line 3: byte 0x81 is not utf-8; name the charset",
    ),
    "half a UTF-16 character": (
        "x,label\n1,a\n".encode("utf-16") + b"\0",
        "byte 0x00 is not utf-16",
    ),
    "an open quote": ('x,label\n1,a\n"2,b\n', "line 3: a quotation mark is missing"),
    "a quote within": ('x,label\n"1"2,a\n', "line 2: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_files(tmp_path: Path, case: str) -> None:
    """An invalid file is one printable error with file, line, column and value."""
    data, words = WRONG[case]
    with pytest.raises(DatasetError, match=words) as caught:
        opened(tmp_path, data)
    assert "my.csv" in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 250
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("?label=lable", "no column 'lable': did you mean 'label'"),
        ("?text=y", "no column 'y': choose one of label, x"),
        ("?labels=x", "unknown option 'labels': did you mean 'label'"),
        ("?charset=utf-9", "unknown charset 'utf-9', such as latin-1"),
        ("?label", "must have the form .label=NAME&text=NAME"),
        ("?text=x&label=x", "'x' is both label and text"),
    ],
)
def test_invalid_options(tmp_path: Path, options: str, words: str) -> None:
    """An unknown option or column is rejected; the error names the nearest one."""
    with pytest.raises(DatasetError, match=words):
        opened(tmp_path, "x,label\n1,a\n2,b\n", options)


def test_unreadable_file(tmp_path: Path) -> None:
    """A missing file, a folder, or a source without a path is one clear error."""
    with pytest.raises(DatasetError, match=r"nothing\.csv cannot be read: No such file"):
        open_dataset(f"csv:{tmp_path}/nothing.csv")
    with pytest.raises(DatasetError, match="cannot be read: Is a directory"):
        open_dataset(f"csv:{tmp_path}")
    with pytest.raises(DatasetError, match="did you mean 'csv:FILE'"):
        open_dataset("csv:")


def test_file_too_large(tmp_path: Path) -> None:
    """A file with too many bytes is rejected before it is parsed."""
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DatasetError, match="larger than 32 MiB"):
        open_dataset(f"csv:{tmp_path}/huge.csv")


@given(
    data=st.binary(max_size=60)
    | st.text('ab,"\n\r 1.5e-', max_size=60).map(str.encode)
    | st.lists(
        st.sampled_from([b"x", b"label", b"text", b",", b"\n", b"1", b"a", b'"', b"\xff"])
    ).map(b"".join)
)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Arbitrary bytes are a valid data set or a DatasetError."""
    with suppress(DatasetError):
        contracts.check_dataset(opened(tmp_path_factory.mktemp("csv"), data))


def _csv_of(values: Sequence[float]) -> str:
    return "x,label\n" + "".join(f"{value!r},{'ab'[n % 2]}\n" for n, value in enumerate(values))


@given(values=st.lists(st.floats(-LARGEST, LARGEST), min_size=2, max_size=9))
def test_round_trip_of_numbers(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    """Numbers written by Python are read back exactly."""
    dataset = opened(tmp_path_factory.mktemp("csv"), _csv_of(values))
    assert np.array_equal(table_of(dataset).values[:, 0], values)
