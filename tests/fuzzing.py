"""Hostile inputs: valid ones of every kind, mutated, and the code that reads them.

For any mutant of a seed, the reader must return or raise an `IclLoopError`, without hanging and
without using unbounded memory.
"""

import asyncio
import csv
import gzip
import io
import json
import math
import random
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from icl_loop.analysis import frame, probes, sessions
from icl_loop.core.errors import IclLoopError
from icl_loop.core.messages import user
from icl_loop.experiment import load, parse
from icl_loop.models.openai import OpenAIModel
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run
from icl_loop.tasks.datasets import csv_file, idx
from icl_loop.tasks.datasets.folder import read_image
from icl_loop.tasks.prompts import open_prompt_set
from icl_loop.transcripts import read
from icl_loop.transcripts.checksum import with_checksum, without_checksum

Read = Callable[[Path], object]
NAMES = (
    "experiment TOML",
    "prompt set TOML",
    "transcript",
    "transcript, checksums renewed",
    "transcript, fields",
    "CSV",
    "IDX",
    "IDX, gzip",
    "picture",
    "reply",
)
_ANY = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\n",
    b"\r\n",
    b"\\u0000",
    b"-1",
    b"1e999",
    b"9" * 400,
)
_DEEP = (b"[" * 20_000, b"{" * 5_000, b'{"a":' * 3_000, b"a=" + b"[" * 5_000, b"a." * 3_000)


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        name: Its name in `NAMES`.
        suffix: Ending of its files.
        seeds: Valid inputs.
        pieces: Bytes to splice into them.
        read: Reads a file of the kind.
        mutate: Returns a mutant of a seed; by default, bytes are changed.
    """

    name: str
    suffix: str
    seeds: Sequence[bytes]
    pieces: Sequence[bytes]
    read: Read
    mutate: "Callable[[bytes, random.Random], bytes] | None" = None


def mutated(kind: Kind, dice: random.Random) -> bytes:
    """Return a seed of `kind` with one to four changes."""
    seed = dice.choice(kind.seeds)
    if kind.mutate:
        return kind.mutate(seed, dice)
    for _ in range(dice.randint(1, 4)):
        seed = _changed(seed, kind.pieces, dice)[: 2**20]
    return seed


def _changed(data: bytes, pieces: Sequence[bytes], dice: random.Random) -> bytes:
    """Flip a bit, delete, repeat, cut off or splice in some bytes."""
    first, last = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    match dice.randrange(8):
        case 0 if first < len(data):
            return data[:first] + bytes([data[first] ^ 1 << dice.randrange(8)]) + data[first + 1 :]
        case 1:
            return data[:first] + data[min(last, first + dice.choice((1, 8, 10**6))) :]
        case 2:
            return data[:first] + data[first:last] * dice.choice((2, 3, 31)) + data[last:]
        case 3 if dice.randrange(4) == 0:
            return data[:first]
        case 4:
            return data[:first] + dice.randbytes(1) + data[first + 1 :]
        case _:
            return data[:first] + dice.choice(pieces) + data[first + dice.choice((0, 0, 1, 8)) :]


def outcome(kind: Kind, path: Path) -> str:
    """Return the error for the file at `path`, or an empty string if it is read."""
    try:
        kind.read(path)
    except IclLoopError as error:
        return str(error) or "no message"
    return ""


# ---- files -------------------------------------------------------------------------------


def _read_experiment(path: Path) -> None:
    made = load(path)
    for session in islice(made.sessions(), 2):
        session.task.question(0)


def _read_transcript(path: Path) -> None:
    """Read a transcript for the analysis, then verify it."""
    for reader in (frame, sessions, probes):
        with suppress(IclLoopError):
            reader([path])
    asyncio.run(verify(read(path)))


def _renew_checksums(path: Path) -> None:
    """Read a transcript after renewing the checksums of its lines."""
    lines = path.read_bytes().split(b"\n")
    renewed = [with_checksum(without_checksum(line)) if line else line for line in lines]
    path.write_bytes(b"\n".join(renewed))
    _read_transcript(path)


_NUMBERS = (None, True, 0, -1, 2**31, 10**18, 10**40, 1e308, math.inf, math.nan)
_TEXTS = ("", "\0", "\ud800", "x" * 10**5, "digits")
_SPANS = ([[0, 10**9]], [[0, 10**18]], [[-3, 0]], [[1, 0]], [[0, 1], [0, 1]])
ODD_VALUES: Sequence[object] = (*_NUMBERS, *_TEXTS, *_SPANS, [], {}, [[]], {"a": {}})


def _other_field(data: bytes, dice: random.Random) -> bytes:
    """Return a transcript with one field, at any depth, deleted or replaced by another value."""
    lines = data.splitlines()
    number = dice.choice((0, dice.randrange(len(lines))))
    fields: Any = json.loads(without_checksum(lines[number]))
    table = fields
    while True:
        key = dice.choice(list(table) if isinstance(table, dict) else range(len(table)))
        if not (isinstance(table[key], dict | list) and table[key] and dice.random() < 0.8):
            break
        table = table[key]
    if isinstance(table, dict) and dice.random() < 0.1:
        del table[key]
    else:
        table[key] = dice.choice(ODD_VALUES)
    lines[number] = json.dumps(fields).encode()
    return b"".join(line + b"\n" for line in lines)


def _read_pair(path: Path) -> None:
    """Read the bytes before `_BETWEEN` as labels and those after it as images."""
    labels, _, images = path.read_bytes().partition(_BETWEEN)
    parts = [path.with_suffix(".labels"), path.with_suffix(".images")]
    for part, data in zip(parts, (labels, images), strict=True):
        part.write_bytes(data)
    idx.load_pair(parts[1], parts[0])


_BETWEEN = b"<<>>"


def _idx(values: bytes, *sizes: int) -> bytes:
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + values


def _experiments() -> list[bytes]:
    folder = Path(__file__).parent.parent / "experiments"
    return [
        path.read_bytes().replace(b"mnist:test", b"digits")
        for path in sorted(folder.glob("*.toml"))
    ]


def _transcripts(folder: Path) -> list[bytes]:
    """Return a transcript with text questions and one with pictures, both with probes."""
    seeds: list[bytes] = []
    for name, task in (("text", {"encoding": "binary"}), ("png", {"encoding": "png"})):
        made = parse(
            {
                "name": name,
                "turns": 4,
                "streams": 1,
                "task": {**task, "size": 4},
                "probes": {"at": [0, 2], "count": 2},
            }
        )
        result = asyncio.run(Run(made, folder).play())
        seeds += [path.read_bytes() for path in result.paths]
    return seeds


def _tables() -> list[bytes]:
    rows = io.StringIO()
    writer = csv.writer(rows)
    writer.writerow(["width", "height", "label"])
    writer.writerows([[n / 7, -n * 1e5, "ab"[n % 2]] for n in range(20)])
    return [rows.getvalue().encode(), b'text,label\n"one,\ntwo",a\nthree,b\n']


def _pictures() -> list[bytes]:
    seeds = []
    grey = Image.new("L", (9, 7), 100)
    for name in ("png", "gif", "jpeg", "bmp", "tiff", "webp", "ppm"):
        file = io.BytesIO()
        grey.save(file, name)
        seeds.append(file.getvalue())
    return seeds


def files(folder: Path) -> list[Kind]:
    """Return the kinds that are files; the transcripts are played into `folder`."""
    labels, images = _idx(bytes(range(6)), 6), _idx(bytes(6 * 4), 6, 2, 2)
    pairs = [labels + _BETWEEN + images, gzip.compress(labels) + _BETWEEN + gzip.compress(images)]
    huge = struct.pack(">I", 2**32 - 1)
    json_pieces = (b"null", b"[]", b"{}", b"NaN", b'"\\ud800"', b"true", b'{"type":"end"}\n')
    toml_pieces = (b"inf", b"nan", b"1979-05-27", b"'''", b'"""', b"[[arms]]\n", b"= 0\n", b"{x=1}")
    csv_pieces = (b'"', b",", b"1e400", b"nan", b"x" * 30_000, b",,,,", b'"\n"')
    record = _transcripts(folder)
    return [
        Kind(
            "experiment TOML", ".toml", _experiments(), _ANY + _DEEP + toml_pieces, _read_experiment
        ),
        Kind(
            "prompt set TOML",
            ".toml",
            [
                (resources.files("icl_loop.tasks.prompts") / f"{name}.toml").read_bytes()
                for name in ("plain", "plain-ja")
            ],
            _ANY + _DEEP + toml_pieces + (b"{label}", b"{", b"}"),
            lambda path: open_prompt_set(str(path)),
        ),
        Kind("transcript", ".jsonl", record, _ANY + _DEEP + json_pieces, _read_transcript),
        Kind(NAMES[3], ".jsonl", record, _ANY + _DEEP + json_pieces, _renew_checksums),
        Kind("transcript, fields", ".jsonl", record, (), _renew_checksums, _other_field),
        Kind("CSV", ".csv", _tables(), _ANY + csv_pieces, lambda path: csv_file.load(str(path))),
        Kind("IDX", ".idx", pairs[:1], (*_ANY, huge, b"\x1f\x8b"), _read_pair),
        Kind("IDX, gzip", ".idx", pairs[1:], (*_ANY, huge), _read_pair),
        Kind("picture", ".png", _pictures(), (*_ANY, huge), read_image),
    ]


# ---- replies -----------------------------------------------------------------------------

_BODY = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Answer: 3"},
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "3", "logprob": -0.1, "top_logprobs": []}]},
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}


def _replies() -> list[bytes]:
    body = json.dumps(_BODY).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    half = len(body) // 2
    return [
        head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        head
        + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n"
        % (half, body[:half], len(body) - half, body[half:]),
        head
        + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(body))
        + gzip.compress(body),
        (
            b"HTTP/1.1 429 Too Many\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
            b'x-ratelimit-reset-tokens: 6m0s\r\nContent-Length: 26\r\n\r\n{"error":{"message":"no"}}'
        ),
        b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\n{}",
    ]


class Wire:
    """An endpoint that sends arbitrary bytes as its reply.

    Attributes:
        reply: The bytes.
        base_url: The address of the endpoint.
    """

    def __init__(self) -> None:
        self.reply = b""
        self._server = socketserver.TCPServer(
            ("127.0.0.1", 0),
            self._answer,  # type: ignore[arg-type]  # any callable serves as a handler
        )
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def _answer(self, connection: socket.socket, *_: object) -> None:
        with suppress(OSError):  # the client may close the connection early
            connection.settimeout(5)
            connection.recv(2**16)
            connection.sendall(self.reply)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def wire() -> Iterator[Kind]:
    """Yield the kind of replies, which are sent over real HTTP."""
    endpoint = Wire()

    async def ask() -> None:
        model = OpenAIModel("tiny", base_url=endpoint.base_url, timeout_s=5)
        try:
            await model.complete([user("which?")])
        finally:
            await model.aclose()

    def answered(path: Path) -> None:
        endpoint.reply = path.read_bytes()
        asyncio.run(ask())

    pieces = (
        b"\r\n",
        b"\r\n\r\n",
        b"Content-Length: 99999999999\r\n",
        b"Retry-After: 1e9\r\n",
        b"Retry-After: Fri, 31 Dec 9999 23:59:59 -9999\r\n",
        b"x-ratelimit-reset-requests: 99999999999999999h\r\n",
        b"Location: http://127.0.0.1:1/\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Type: text/html; charset=nonsense\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"ffffffffff\r\n",
        b"null",
        b"[" * 20_000,
        b'"\\ud800"',
        b'"tool_calls":[{}],',
    )
    try:
        yield Kind("reply", ".http", _replies(), _ANY + pieces, answered)
    finally:
        endpoint.close()
