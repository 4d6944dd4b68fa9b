"""Numbers that no field can hold, in transcripts, in replies of servers and in experiment files."""

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fuzzing import Kind
from hostile_names import save_renamed
from icl_loop.analysis import frame, measure, notes, probes, sessions, summarise
from icl_loop.analysis.graded_learning import graded_arms, graded_turns
from icl_loop.analysis.spending import spending
from icl_loop.core.errors import IclLoopError
from icl_loop.core.messages import Reply
from icl_loop.experiment import load
from icl_loop.export import export
from icl_loop.models.openai.response_parser import InvalidResponse, parse_completion
from icl_loop.tasks.answers import parse_answer
from icl_loop.transcripts import read
from icl_loop.transcripts.checksum import with_checksum, without_checksum
from icl_loop.transcripts.schema import line_fields

NUMBERS = (
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" + "0" * 40),
    *("9" * 4_299, "9" * 5_000, "-" + "9" * 5_000, "-1", "0", "-0.0", "1.5", "3.0", "1e308"),
    *("-1e308", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1e-320", "true", "false"),
    *("null", '"5"', '"NaN"', '""', "[]", "{}", "281474976710657"),
)
"""JSON values in place of a number."""
_TOML = (*("inf", "-inf", "nan", "+nan"), *(n for n in NUMBERS if re.fullmatch(r"-?[\d.e-]+", n)))
_NUMBER = re.compile(r"(?<=[:\[,])-?\d[\d.e+-]*(?=[,}\]])")
_LABELS = ("0", "1", "2", "3")
_BODY: dict[str, Any] = {
    "created": 1,
    "model": "tiny",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Answer: 3"},
            "finish_reason": "stop",
            "logprobs": {
                "content": [
                    {"token": "Answer", "logprob": -0.1, "top_logprobs": []},
                    {"token": ": ", "logprob": -0.1, "top_logprobs": []},
                    {
                        "token": "3",
                        "logprob": -0.1,
                        "top_logprobs": [{"token": "2", "logprob": -3.0}],
                    },
                ]
            },
        }
    ],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 1},
        "cache_read_input_tokens": 4,
    },
    "timings": {"prompt_n": 3, "cache_n": 4, "predicted_n": 5},
}


def other_numbers(data: bytes, dice: random.Random) -> bytes:
    """Return JSON with one to three numbers replaced."""
    text = data.decode()
    for _ in range(dice.randint(1, 3)):
        if not (places := [*_NUMBER.finditer(text)]):
            break
        place = dice.choice(places)
        text = text[: place.start()] + dice.choice(NUMBERS) + text[place.end() :]
    return text.encode()


def other_numbers_in_toml(data: bytes, dice: random.Random) -> bytes:
    """Return an experiment file with one to three numbers replaced."""
    text = data.decode()
    for _ in range(dice.randint(1, 3)):
        place = dice.choice([*re.finditer(r"(?<== )\d[\d.]*$", text, re.MULTILINE)])
        text = text[: place.start()] + dice.choice(_TOML) + text[place.end() :]
    return text.encode()


def readers(path: Path) -> Iterator[Callable[[], object]]:
    """Yield the functions by which commands read a transcript."""
    yield lambda: read(path)
    yield lambda: [reader([path]) for reader in (frame, sessions, probes, notes)]
    yield lambda: [
        reader(frame([path])) for reader in (summarise, spending, lambda turns: measure(turns, {}))
    ]
    yield lambda: _graded(path)
    place = path.with_suffix(".parquet")
    yield lambda: export([path], "parquet", place, force=True)
    yield lambda: frame([place]) if place.exists() else None


def _graded(path: Path) -> None:
    graded = graded_turns(frame([path]), [path])
    if graded is not None:
        graded_arms(graded)


def _read_transcript(path: Path) -> None:
    """Read a transcript in every way; raise the error of the first, after trying the others."""
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"".join(with_checksum(line) + b"\n" for line in lines))
    errors: list[IclLoopError] = []
    for reader in readers(path):
        try:
            reader()
        except IclLoopError as error:
            errors.append(error)
    path.with_suffix(".parquet").unlink(missing_ok=True)
    for each in errors:
        assert re.search(r"line \d|damaged", str(each)), each
    if errors:
        raise errors[0]


def reply_of(body: bytes) -> Reply | None:
    """Return the reply in the body of a response, None if there is none."""
    with suppress(InvalidResponse):
        return parse_completion(body, _LABELS, parse_answer_of)
    return None


def parse_answer_of(text: str, **given: Any) -> Any:  # noqa: ANN401  as the parser of a task
    """Parse a reply."""
    return parse_answer(text, _LABELS, **given)


def saved_reply(reply: Reply, saved: Path, place: Path) -> None:
    """Write a transcript in which the first turn has this reply."""
    lines = saved.read_bytes().splitlines()
    turn = read(saved).turns[0]
    number = next(at for at, line in enumerate(lines) if line.startswith(b'{"type":"turn"'))
    fields = line_fields(replace(turn, reply=replace(reply, at=turn.reply.at, latency_s=0.1)))
    lines[number] = with_checksum(
        json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    )
    place.write_bytes(b"".join(line + b"\n" for line in lines))


def kinds(folder: Path) -> list[Kind]:
    """Return the kinds of input with odd numbers; sessions are played into `folder`."""
    save_renamed([], folder / "renamed", folder / "played")
    saved = folder / "renamed" / "0.jsonl"

    def read_reply(path: Path) -> None:
        reply = reply_of(path.read_bytes())
        if reply is None:
            raise IclLoopError("no reply")
        place = path.with_suffix(".jsonl")
        saved_reply(reply, saved, place)
        for reader in readers(place):
            try:
                reader()
            except IclLoopError as error:
                raise AssertionError(f"what was written is not readable: {error}") from error
        place.with_suffix(".parquet").unlink()

    def read_experiment(path: Path) -> None:
        for settings in load(path).arms.values():
            json.dumps(settings.recorded(), allow_nan=False)

    transcript = b"".join(
        without_checksum(line) + b"\n" for line in saved.read_bytes().splitlines()
    )
    shipped = Path(__file__).parent.parent / "experiments"
    files = [path.read_bytes() for path in sorted(shipped.glob("*.toml"))]
    return [
        Kind("numbers, transcript", ".jsonl", [transcript], (), _read_transcript, other_numbers),
        Kind(
            "numbers, reply",
            ".json",
            [json.dumps(_BODY, separators=(",", ":")).encode()],
            (),
            read_reply,
            other_numbers,
        ),
        Kind("numbers, TOML", ".toml", files, (), read_experiment, other_numbers_in_toml),
    ]
