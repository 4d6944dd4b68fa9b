"""Any input is read or rejected with a clear error, without hanging or using unbounded memory."""

import gzip
import io
import os
import random
import socket
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile_headers
import hostile_names
import hostile_numbers
from builders import without_checksum
from endpoint import completion, serving
from fuzzing import NAMES, Kind, Wire, files, mutated, outcome, wire
from hostile_headers import HEADER_NAMES
from icl_loop.analysis import frame
from icl_loop.context.policy_parser import context_policy
from icl_loop.core import parquet_size
from icl_loop.core.errors import DatasetError, InputError, ModelError, ModelUnavailable
from icl_loop.core.messages import user
from icl_loop.core.regular_files import read_regular
from icl_loop.experiment import load
from icl_loop.export import export, importing
from icl_loop.models.openai import MAX_PAUSE_S, MAX_RESPONSE_BYTES, OpenAIModel
from icl_loop.tasks.datasets import csv_file, folder, idx, row_files
from icl_loop.tasks.prompts import open_prompt_set
from icl_loop.transcripts import read, read_header
from icl_loop.transcripts.files import MAX_LINE

MIB = 2**20
SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample" / "label-0.jsonl"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Kind]]:
    """The kinds of input by name."""
    with ExitStack() as stack:
        played = tmp_path_factory.mktemp("played")
        all_kinds = [
            *files(played),
            *hostile_headers.kinds(played / "headers"),
            stack.enter_context(wire()),
        ]
        yield {kind.name: kind for kind in all_kinds}


@pytest.mark.parametrize("name", NAMES + HEADER_NAMES)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_mutants_are_read_or_rejected(
    kinds: Mapping[str, Kind],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    seed: int,
) -> None:
    """A mutated input is read, or rejected with an `IclLoopError`, within seconds."""
    kind = kinds[name]
    path = tmp_path_factory.mktemp("mutant") / f"mutant{kind.suffix}"
    path.write_bytes(mutated(kind, random.Random(seed)))  # noqa: S311  mutants, no secrets
    start = time.monotonic()
    why = outcome(kind, path)
    assert time.monotonic() - start < 20
    assert "Traceback" not in why


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Kind]:
    """The kinds of input with odd names or numbers, by name."""
    folder = tmp_path_factory.mktemp("odd")
    made = (*hostile_names.kinds(folder / "names"), *hostile_numbers.kinds(folder / "numbers"))
    return {kind.name: kind for kind in made}


@pytest.mark.parametrize(
    "name",
    ["names, files", "numbers, transcript", "numbers, reply", "numbers, TOML"],
)
def test_odd_names_and_numbers(odd: Mapping[str, Kind], tmp_path: Path, name: str) -> None:
    """Files have names that every system takes; saved figures can be read by every command.

    Numbers out of range in a reply are not saved; in a file, they are one error, with a line number.
    """
    kind, path = odd[name], tmp_path / f"mutant{odd[name].suffix}"
    for seed in range(5 if name == "numbers, reply" else 20):
        path.write_bytes(mutated(kind, random.Random(seed)))  # noqa: S311  mutants, no secrets
        assert "Traceback" not in outcome(kind, path)
    for data in kind.seeds:
        path.write_bytes(data)
        assert outcome(kind, path) == ""


@pytest.mark.parametrize("name", NAMES + HEADER_NAMES)
def test_seeds_are_read(kinds: Mapping[str, Kind], tmp_path: Path, name: str) -> None:
    """The inputs that are mutated are valid, except for the replies that are errors."""
    kind = kinds[name]
    path = tmp_path / f"sound{kind.suffix}"
    for number, data in enumerate(kind.seeds):
        path.write_bytes(data)
        why = outcome(kind, path)
        assert why == "" or (name == "reply" and number > 2), why


@contextmanager
def using_at_most(mib: float) -> Iterator[None]:
    """Fail if the code within ever uses more than `mib` MiB."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()
    assert peak <= mib, f"{peak:.0f} MiB were used"


# ---- what is no regular file -------------------------------------------------------------


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)


SPECIAL: Mapping[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "dead link": lambda path: path.symlink_to("nowhere"),
}
OPENED: Mapping[str, Callable[[Path], object]] = {
    "experiment.toml": load,
    "prompts.toml": lambda path: open_prompt_set(str(path)),
    "table.csv": lambda path: csv_file.load(str(path)),
    "table.parquet": lambda path: row_files.load_parquet(str(path)),
    "lines.jsonl": lambda path: row_files.load_jsonl(str(path)),
    "images": lambda path: idx.load(path, 3),
    "image.png": folder.read_image,
    "class/image.png": lambda path: folder.load(path.parent.parent),
    "read.jsonl": read,
    "header.jsonl": read_header,
    "folder/analysed.jsonl": lambda path: frame(path.parent),
    "exported.jsonl": lambda path: export([path], "parquet", path.with_suffix(".parquet")),
    "turns.sessions.parquet": lambda path: frame(path.with_name("turns.parquet")),
    "chats.jsonl": lambda path: importing.import_files([path], path.parent),
    "turns.csv": lambda path: importing.import_files([path], path.parent),
    "log.eval": lambda path: importing.import_files([path], path.parent),
    "log.json": lambda path: importing.import_files([path], path.parent),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A pipe, a socket, a device or a dead link is refused by name, and never waited for."""
    for name, reader in OPENED.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        monkeypatch.chdir(path.parent)  # the address of a socket must be short
        (tmp_path / "turns.parquet").touch()
        SPECIAL[kind](path)
        with using_at_most(100), pytest.raises(InputError, match=path.stem) as refused:
            reader(path)
        if "not installed" not in str(refused.value) and kind != "dead link":
            assert f"is a {kind}, not a regular file" in str(refused.value), name
        path.unlink()


def test_a_file_that_reports_no_size_is_limited() -> None:
    """A file is read up to the limit even if its size says less, as under /proc."""
    endless = Path("/proc/self/maps")
    if not endless.exists():
        pytest.skip("there is no /proc")
    assert endless.stat().st_size == 0
    with pytest.raises(OSError, match="larger than 0 MiB"):
        read_regular(endless, 10)


# ---- files that are larger than they look ------------------------------------------------


HEADER = without_checksum(SAMPLE.read_text("utf-8")).partition("\n")[0].encode() + b"\n"
"""The first line of a transcript without its checksum, after which no line needs one."""


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (HEADER + b'{"type":"turn","question":"' + b"x" * MAX_LINE, "line 2 is longer than 32 MiB"),
        (HEADER + b"\n" * 10**6, "line 2 is empty"),
        (SAMPLE.read_bytes() + b"\r\n" * 10**6, "is empty"),
        (b"\n" * 10**6, "line 1: not valid JSON"),
        (bytes(64 * MIB), "line 1: not valid JSON"),
        (HEADER + b"{}\n" * 10**6, "line 2, the whole line: must have a type"),
    ],
    ids=["long line", "empty lines", "empty end", "nothing", "zeros", "short lines"],
)
def test_a_strange_transcript_takes_little_memory(tmp_path: Path, lines: bytes, says: str) -> None:
    """What cannot be a transcript is refused without reading all of it."""
    path = tmp_path / "strange.jsonl"
    path.write_bytes(lines)
    for reader in (read, frame):
        with using_at_most(2 * MAX_LINE / MIB + 60), pytest.raises(InputError, match=says):
            reader(path)


def _parquet(**columns: object) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(columns).write_parquet(file)
    return file.getvalue()


@given(rows=st.integers(1, 2_000), length=st.integers(1, 2_000), more=st.integers(0, 9))
def test_the_unpacked_size_of_a_parquet_file_is_known(rows: int, length: int, more: int) -> None:
    """A limit below the bytes or values in the pages refuses the file, and one above them does not."""
    texts = [f"{number:0{length}}" for number in range(rows)]
    data = _parquet(text=texts, number=range(rows), same=["x"] * rows)
    size = rows * max(length, len(str(rows - 1)))
    parquet_size.check_unpacked_size(data, 2 * size + 100 * rows + 1_000, 3 * rows + more)
    for limits in ((size - 1, 3 * rows), (2**30, 3 * rows - 1)):
        with pytest.raises(ValueError, match="more than"):
            parquet_size.check_unpacked_size(data, *limits)


def test_a_damaged_export_is_one_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever byte of a table is changed, it is read or refused by name, and nothing else is printed."""
    place, refused = tmp_path / "x.parquet", 0
    export([SAMPLE], "parquet", place)
    whole, dice = place.read_bytes(), random.Random(5)  # noqa: S311  no secret
    capfd.readouterr()
    for _ in range(30):
        changed = bytearray(whole)
        for _ in range(8):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        place.write_bytes(changed)
        try:
            frame(place)
        except InputError as error:
            assert "x.parquet" in str(error)  # noqa: PT017  it may also be read
            refused += 1
    assert refused > 5
    assert capfd.readouterr().err == ""


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A log of Inspect is unpacked up to a limit, whatever sizes it claims."""
    pytest.importorskip("inspect_ai")
    path = tmp_path / "bomb.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("header.json", bytes(150 * MIB))
    size = (150 * MIB).to_bytes(4, "little")
    for claimed in (size, (1_000).to_bytes(4, "little")):
        path.write_bytes(path.read_bytes().replace(size, claimed))
        with using_at_most(400), pytest.raises(InputError, match=r"unpacks to more|is damaged"):
            importing.import_files([path], tmp_path)


def _idx(*sizes: int, values: bytes) -> bytes:
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + values


@pytest.mark.parametrize("sizes", [(2**32 - 1, 28, 28), (2**31, 1, 1), (2**16, 2**16, 2**16)])
def test_an_absurd_header_takes_no_memory(tmp_path: Path, sizes: tuple[int, int, int]) -> None:
    """An IDX file whose header claims billions of values is rejected without allocating them."""
    path = tmp_path / "images"
    path.write_bytes(_idx(*sizes, values=bytes(100)))
    with using_at_most(4), pytest.raises(DatasetError, match=r"impossible header|found 100"):
        idx.load(path, 3)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A gzipped IDX file is unpacked only up to the size in its header."""
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(_idx(2, 2, 2, values=bytes(200 * MIB)), 1))
    with using_at_most(4), pytest.raises(DatasetError, match="should have 8 values"):
        idx.load(path, 3)


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    ends = chunk(b"IHDR", header), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + ends[0] + chunk(b"IDAT", data) + ends[1]


@pytest.mark.parametrize(
    "size", [(100_000, 100_000), (2**31 - 1, 2), (9_000, 9_000), (4_000, 4_001)]
)
def test_a_picture_of_too_many_pixels_is_rejected(tmp_path: Path, size: tuple[int, int]) -> None:
    """A picture with too many pixels is rejected by its header."""
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(*size, zlib.compress(bytes(MIB))))
    with using_at_most(8), pytest.raises(DatasetError, match="pixels"):
        folder.read_image(path)


def test_no_program_is_started_for_a_picture(tmp_path: Path) -> None:
    """PostScript, which Pillow gives to Ghostscript, is not an image."""
    path = tmp_path / "page.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(DatasetError, match="not an image of a known format"):
        folder.read_image(path)


def test_a_folder_of_too_many_pixels_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that are too large together are rejected."""
    monkeypatch.setattr(folder, "MAX_BYTES", 1000)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(2):
            rows = zlib.compress(bytes(20 * 21))
            (tmp_path / name / f"{number}.png").write_bytes(_png(20, 20, rows))
    with pytest.raises(DatasetError, match="take more than 0 MiB"):
        folder.load(tmp_path)


@pytest.mark.parametrize("ending", ["npy", "npz", "pkl", "png"])
def test_nothing_is_unpickled(tmp_path: Path, ending: str) -> None:
    """A NumPy file or a pickle among pictures is rejected and never executed."""

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]  # what a forger would give

    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
    with (tmp_path / "data" / "a" / f"one.{ending}").open("wb") as file:
        np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match=rf"one\.{ending} is not an image"):
        folder.load(tmp_path / "data")
    with pytest.raises(DatasetError, match="is not an IDX file"):
        idx.load(tmp_path / "data" / "a" / f"one.{ending}", 3)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'text,label\n"' + b"x" * 3 * MIB + b'",a\n', "field larger|characters"),
        (b"text,label\n" + b"x" * 33 * MIB, "larger than 32 MiB"),
        (b"a,b,c,d,e,f,g,h,i,label\n" + b"1,1,1,1,1,1,1,1,1,x\n" * 200_001, "2,000,000 cells"),
    ],
    ids=["cell", "file", "cells"],
)
def test_a_giant_table_is_rejected(tmp_path: Path, text: bytes, says: str) -> None:
    """A CSV file that is too large is rejected, and the error says in what way."""
    path = tmp_path / "giant.csv"
    path.write_bytes(text)
    with using_at_most(160), pytest.raises(DatasetError, match=says):
        csv_file.load(str(path))


@pytest.mark.parametrize("opening", ["[", "{a=", "a."])
def test_deep_nesting_is_rejected(tmp_path: Path, opening: str) -> None:
    """A TOML file nested thousands deep is rejected as an experiment and as a prompt set."""
    path = tmp_path / "deep.toml"
    path.write_text(f"name = {opening * 20_000}" if opening != "a." else opening * 20_000 + "a = 1")
    for reader in (load, lambda file: open_prompt_set(str(file))):
        with pytest.raises(InputError, match=r"deep\.toml"):
            reader(path)


@pytest.mark.parametrize(
    "text", ["(" * 5_000, "last(1)|" * 5_000 + "last(1)", "last(" + "-" * 9_999]
)
def test_a_deep_policy_is_rejected(text: str) -> None:
    """A context policy nested thousands deep is rejected."""
    with pytest.raises(InputError, match="is malformed"):
        context_policy(text)


@pytest.mark.parametrize("key", ["turns", "streams"])
def test_an_absurd_number_of_turns_is_rejected(tmp_path: Path, key: str) -> None:
    """A billion turns or streams are rejected before any is created."""
    path = tmp_path / "long.toml"
    path.write_text(f'name = "long"\n{key} = 1000000001\n')
    with pytest.raises(InputError, match=f"{key} = 1000000001"):
        load(path)


# ---- replies that are too long -----------------------------------------------------------


async def asked(base_url: str, timeout_s: float = 20.0) -> str:
    """Make one request and return the error."""
    async with aclosing(OpenAIModel("tiny", base_url=base_url, timeout_s=timeout_s)) as model:
        with pytest.raises(ModelError) as refused:
            await model.complete([user("which?")])
    return str(refused.value)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNK = b"10000\r\n" + b" " * 2**16 + b"\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        HEAD + b"Content-Length: %d\r\n\r\n" % (100 * MIB) + bytes(100 * MIB),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 1_600,
        HEAD + b"\r\n" + b" " * 100 * MIB,
    ],
    ids=["length", "chunked", "until closed"],
)
async def test_a_reply_of_100_mib_is_rejected(reply: bytes) -> None:
    """A reply that is far too long is read only up to the limit."""
    endpoint = Wire()
    endpoint.reply = reply
    try:
        with using_at_most(2.5 * MAX_RESPONSE_BYTES / MIB):
            assert f"more than {MAX_RESPONSE_BYTES} bytes" in await asked(endpoint.base_url)
    finally:
        endpoint.close()


async def test_a_reply_that_unpacks_to_far_more_is_rejected() -> None:
    """The limit holds for the unpacked size of a compressed reply."""
    packed = gzip.compress(bytes(100 * MIB), 1)
    endpoint = Wire()
    endpoint.reply = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    endpoint.reply += packed
    try:
        with using_at_most(4 * MAX_RESPONSE_BYTES / MIB):
            assert f"more than {MAX_RESPONSE_BYTES} bytes" in await asked(endpoint.base_url)
    finally:
        endpoint.close()


async def test_a_rate_limit_reset_in_years_is_not_awaited() -> None:
    """An endpoint whose rate limit resets in years is tried again within minutes."""
    nothing = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "99999d"}
    with serving([completion("3", headers=nothing)]) as endpoint:
        async with aclosing(OpenAIModel("tiny", base_url=endpoint.base_url)) as model:
            await model.complete([user("which?")])
            assert model._not_before - time.monotonic() <= MAX_PAUSE_S


async def test_retry_after_uses_the_clock_of_the_endpoint() -> None:
    """A date in `Retry-After` is compared with the `Date` of the reply, not with the local clock."""
    dates = {
        "Date": "Sun, 06 Nov 1994 08:49:37 GMT",
        "Retry-After": "Sun, 06 Nov 1994 08:49:40 GMT",
    }
    endpoint = Wire()
    told = "".join(f"{name}: {date}\r\n" for name, date in dates.items())
    endpoint.reply = f"HTTP/1.1 429 Later\r\n{told}Content-Length: 2\r\n\r\n{{}}".encode()
    async with aclosing(OpenAIModel("tiny", base_url=endpoint.base_url)) as model:
        with pytest.raises(ModelUnavailable) as limited:
            await model.complete([user("which?")])
    endpoint.close()
    assert limited.value.retry_after_s == 3
