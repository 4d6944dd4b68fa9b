"""Sessions as stored in the page: columns of turns, with a pool of texts and images per stream.

Texts and images that the arms of a stream share, such as its questions, are stored once.
"""

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from icl_loop.analysis.session_settings import table_in
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Image, Message
from icl_loop.core.names import printable
from icl_loop.core.records import Choice, Exemplar, Note, Turn
from icl_loop.experiment import Session
from icl_loop.report.session_headers import Lineage, changed, lineage, place_of
from icl_loop.tasks.datasets import is_available_locally
from icl_loop.tasks.encodings import ENCODINGS, Pixels
from icl_loop.tasks.question_decoding import QuestionDecoder, recorded_question_decoder
from icl_loop.transcripts import Header, Transcript

PackedImage = tuple[int, int, str]
"""Rows, columns, and the grey levels as base64, one byte per pixel."""


def packed(value: object) -> str:
    """Return `value` as gzipped JSON in base64, which is safe anywhere in HTML."""
    data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def packed_image(pixels: Pixels) -> PackedImage:
    """Return an image, shape (rows, columns) with values in 0..1, as stored in the page."""
    rows, columns = pixels.shape
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return rows, columns, base64.b64encode(levels.tobytes()).decode()


@dataclass(frozen=True, slots=True)
class NamedSession:
    """A session, the name of its experiment on the page, and whether the baseline was right, by turn."""

    experiment: str
    transcript: Transcript
    baseline: Mapping[int, bool]


@dataclass(frozen=True, slots=True)
class BrowserData:
    """Data of the session browser.

    Attributes:
        index: One row per session, with the ids of its blobs.
        blobs: Packed pools and sessions by element id.
    """

    index: list[dict[str, Any]]
    blobs: dict[str, str]


@dataclass(slots=True)
class _Pool:
    """The distinct texts and images of a stream."""

    texts: dict[str, int] = field(default_factory=dict)
    images: dict[PackedImage, int] = field(default_factory=dict)
    decoded: dict[Message, int | None] = field(default_factory=dict)

    def text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def text_or_none(self, text: str | None) -> int | None:
        return None if text is None else self.text(text)

    def image(self, question: Message, decode: QuestionDecoder) -> int | None:
        if question not in self.decoded:
            pixels = decode(question)
            self.decoded[question] = (
                None
                if pixels is None
                else self.images.setdefault(packed_image(pixels), len(self.images))
            )
        return self.decoded[question]


def browser_data(number: int, sessions: Iterable[NamedSession]) -> BrowserData:
    """Return the sessions of one stream as stored in the page.

    Args:
        number: Number of the stream on the page, part of the ids.
        sessions: Its sessions, one per arm.
    """
    pool, data = _Pool(), BrowserData([], {})
    for place, session in enumerate(sessions):
        blob = f"session-{number}-{place}"
        data.blobs[blob] = packed(_columns(session, pool))
        data.index.append({**_entry(session), "pool": f"pool-{number}", "blob": blob})
    data.blobs[f"pool-{number}"] = packed({"texts": [*pool.texts], "images": [*pool.images]})
    return data


def _entry(session: NamedSession) -> dict[str, Any]:
    header, end = session.transcript.header, session.transcript.end
    return {
        "experiment": printable(session.experiment),
        "arm": printable(header.arm) + (f", repeat {header.repeat}" if header.repeat else ""),
        "stream": header.stream,
        "turns": len(session.transcript.turns),
        "planned": header.turns,
        "status": end.status if end else "unfinished",
    }


def _columns(session: NamedSession, pool: _Pool) -> dict[str, Any]:
    """Return the turns of a session as one list per field; texts are indices into the pool."""
    turns, baseline = session.transcript.turns, session.baseline
    parts = lineage(session.transcript.header)
    decoders = [recorded_question_decoder(header.settings) for _, header in parts]
    return {
        "systems": [pool.text(header.system or "") for _, header in parts],
        "exemplars": [
            [_exemplar(line.exemplar, decode, pool) for line in header.exemplars]
            for (_, header), decode in zip(parts, decoders, strict=True)
        ],
        "labels": list(dict.fromkeys(name for _, header in parts[::-1] for name in header.labels)),
        "sample": [turn.sample for turn in turns],
        "label": [turn.label for turn in turns],
        "question": [pool.text(turn.question.text) for turn in turns],
        "png": [any(isinstance(part, Image) for part in turn.question.parts) for turn in turns],
        "image": [
            pool.image(turn.question, decoders[place_of(parts, turn.index)]) for turn in turns
        ],
        "kept": [turn.kept if turn.request else None for turn in turns],
        "reply": [pool.text(turn.reply.text) for turn in turns],
        "reasoning": [pool.text_or_none(turn.reply.reasoning_text) for turn in turns],
        "echo": [pool.text_or_none(turn.echo) for turn in turns],
        "told": [pool.text(turn.feedback.told) for turn in turns],
        "answer": [turn.answer for turn in turns],
        "outcome": [turn.outcome for turn in turns],
        "correct": [int(turn.feedback.correct) for turn in turns],
        "chosen": session.transcript.header.chosen_every,
        "baseline": [int(baseline[turn.index]) for turn in turns] if baseline else None,
        "usage": [_usage(turn) for turn in turns],
        "seconds": [turn.reply.latency_s for turn in turns],
        "branches": list(_branches(parts)),
        "notes": [_note(note, pool) for note in session.transcript.notes],
        "choices": [_choice(choice, pool) for choice in session.transcript.choices],
        "checkpoints": list(_checkpoints(session.transcript, parts, decoders, pool)),
    }


def _exemplar(shown: Exemplar, decode: QuestionDecoder, pool: _Pool) -> dict[str, Any]:
    return {
        "sample": shown.sample,
        "label": shown.label,
        "image": pool.image(shown.question, decode),
        "question": pool.text(shown.question.text),
        "reply": pool.text(shown.reply),
        "told": pool.text(shown.told),
    }


def _usage(turn: Turn | Note | Choice) -> list[int]:
    used = turn.reply.usage
    return [used.prompt, used.cached, used.completion, used.reasoning]


def _branches(parts: Lineage) -> Iterator[dict[str, Any]]:
    """Yield the start, parent arm and changed settings of each branch."""
    for start, header in parts:
        if (parent := header.parent) is not None:
            settings = [printable(each) for each in changed(parent, header)]
            yield {"at": start, "of": printable(parent.arm), "changed": settings}


def _note(note: Note, pool: _Pool) -> dict[str, Any]:
    return {
        "after": note.after_turn,
        "kept": note.kept if note.request else None,
        "text": pool.text(note.text),
        "reply": None if note.reply.text.strip() == note.text else pool.text(note.reply.text),
        "usage": _usage(note),
        "counted": note.counted,
        "seconds": note.reply.latency_s,
    }


def _choice(choice: Choice, pool: _Pool) -> dict[str, Any]:
    return {
        "after": choice.after_turn,
        "kept": choice.kept if choice.request else None,
        "candidates": choice.candidates,
        "sample": choice.sample,
        "outcome": "chosen" if choice.number else choice.outcome,
        "reply": pool.text(choice.reply.text),
        "usage": _usage(choice),
        "counted": choice.counted,
        "seconds": choice.reply.latency_s,
    }


def _checkpoints(
    transcript: Transcript, parts: Lineage, decoders: Sequence[QuestionDecoder], pool: _Pool
) -> Iterator[dict[str, Any]]:
    """Yield the probes of a session by checkpoint and verdicts."""
    by_verdicts = groupby(transcript.probes, key=lambda probe: (probe.after_turn, probe.verdicts))
    for (after, verdicts), group in by_verdicts:
        probes, place = list(group), place_of(parts, after)
        questions = probe_questions(parts[place][1])
        shown = [questions.get(probe.sample) for probe in probes]
        yield {
            "after": after,
            "verdicts": verdicts,
            "sample": [probe.sample for probe in probes],
            "image": [each and pool.image(each, decoders[place]) for each in shown],
            "reply": [pool.text(probe.reply.text) for probe in probes],
            "answer": [probe.answer for probe in probes],
            "outcome": [probe.outcome for probe in probes],
            "label": [probe.label for probe in probes],
            "correct": [int(probe.correct) for probe in probes],
        }


def probe_questions(header: Header) -> Mapping[str, Message]:
    """Return the probe questions of a session on images, by sample id.

    Transcripts do not store them, so they are rebuilt from the data set. Empty if it has changed or
    would have to be downloaded.
    """
    task = table_in(header.settings, "task")
    encoding = ENCODINGS.get(str(task.get("encoding")))
    if encoding is None or encoding.modality != "picture":
        return {}
    try:
        if not is_available_locally(str(task.get("dataset"))):
            return {}
        session = Session.of(header)
        session.check_dataset(header.dataset)
        played = session.task
    except InputError:
        return {}  # the page shows these probes without images
    return {sample.id: played.question_about(sample) for sample in played.probes}
