"""Sessions as stored in the page: columns of turns, with a pool of texts and images per stream.

Texts and images that the arms of a stream share, such as its questions, are stored once.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from icl_loop.core.messages import Image, Message
from icl_loop.core.records import Note, Probe, Turn
from icl_loop.report.branch_history import Part, beginnings, parts_of, place_of
from icl_loop.report.page_data import packed
from icl_loop.report.probe_questions import held_out
from icl_loop.tasks.encodings import Pixels
from icl_loop.tasks.question_decoding import QuestionDecoder, recorded_question_decoder
from icl_loop.terminal.formatting import printable
from icl_loop.transcripts import Transcript

PackedImage = tuple[int, int, str]
"""Rows, columns, and the grey levels as base64, one byte per pixel."""
Baseline = Mapping[int, bool]
"""Whether the baseline was correct, by turn."""


def packed_image(pixels: Pixels) -> PackedImage:
    """Return an image, shape (rows, columns) with values in 0..1, as stored in the page."""
    rows, columns = pixels.shape
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return rows, columns, base64.b64encode(levels.tobytes()).decode()


@dataclass(frozen=True, slots=True)
class NamedSession:
    """A session with the name of its experiment on the page."""

    experiment: str
    transcript: Transcript
    baseline: Baseline

    @property
    def stream(self) -> tuple[str, int]:
        """Experiment and stream; sessions of one stream share their samples."""
        return self.experiment, self.transcript.header.stream


@dataclass(slots=True)
class _Pool:
    """The distinct texts and images of a stream."""

    texts: dict[str, int] = field(default_factory=dict)
    pictures: dict[PackedImage, int] = field(default_factory=dict)
    seen: dict[Message, int | None] = field(default_factory=dict)

    def text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def picture(self, question: Message, see: QuestionDecoder) -> int | None:
        if question not in self.seen:
            pixels = see(question)
            self.seen[question] = (
                None
                if pixels is None
                else self.pictures.setdefault(packed_image(pixels), len(self.pictures))
            )
        return self.seen[question]


@dataclass(frozen=True, slots=True)
class BrowserData:
    """Data of the session browser.

    Attributes:
        index: One row per session, with the ids of its blobs.
        blobs: Packed pools and sessions by element id.
    """

    index: list[dict[str, Any]]
    blobs: dict[str, str]


def browser_data(sessions: Iterable[NamedSession]) -> BrowserData:
    """Return sessions as stored in the page, with one pool per stream."""
    index: list[dict[str, Any]] = []
    blobs: dict[str, str] = {}
    ordered = sorted(sessions, key=lambda each: each.stream)
    for number, (_, group) in enumerate(groupby(ordered, key=lambda each: each.stream)):
        pool = _Pool()
        for each in group:
            blob = f"session-{len(index)}"
            blobs[blob] = packed(_columns(each, pool))
            index.append({**_entry(each), "pool": f"pool-{number}", "blob": blob})
        blobs[f"pool-{number}"] = packed(
            {"texts": list(pool.texts), "pictures": list(pool.pictures)}
        )
    return BrowserData(index, blobs)


def _entry(session: NamedSession) -> dict[str, Any]:
    header, end = session.transcript.header, session.transcript.end
    return {
        "experiment": printable(session.experiment),
        "arm": printable(header.arm),
        "stream": header.stream,
        "turns": len(session.transcript.turns),
        "planned": header.turns,
        "status": end.status if end else "unfinished",
    }


def _columns(session: NamedSession, pool: _Pool) -> dict[str, Any]:
    """Return the turns of a session as one list per field; texts are indices into the pool."""
    turns = session.transcript.turns
    parts = parts_of(session.transcript.header)
    eyes = [recorded_question_decoder(part.header.settings) for part in parts]
    see = [eyes[place_of(parts, turn.index)] for turn in turns]
    return {
        "systems": [pool.text(part.header.system) for part in parts],
        "labels": list(dict.fromkeys(name for part in parts[::-1] for name in part.header.labels)),
        "sample": [turn.sample for turn in turns],
        "label": [turn.label for turn in turns],
        "question": [pool.text(turn.question.text) for turn in turns],
        "seen": [any(isinstance(part, Image) for part in turn.question.parts) for turn in turns],
        "picture": [
            pool.picture(turn.question, each) for turn, each in zip(turns, see, strict=True)
        ],
        "kept": [turn.kept for turn in turns],
        "reply": [pool.text(turn.reply.text) for turn in turns],
        "echo": [None if turn.echo is None else pool.text(turn.echo) for turn in turns],
        "told": [pool.text(turn.feedback.told) for turn in turns],
        "answer": [turn.answer for turn in turns],
        "outcome": [turn.outcome for turn in turns],
        "correct": [int(turn.feedback.correct) for turn in turns],
        "baseline": _baseline(session.baseline, turns),
        "usage": [_usage(turn) for turn in turns],
        "seconds": [turn.reply.latency_s for turn in turns],
        **_between_turns(session.transcript, parts, eyes, pool),
    }


def _between_turns(
    transcript: Transcript, parts: Sequence[Part], eyes: Sequence[QuestionDecoder], pool: _Pool
) -> dict[str, list[dict[str, Any]]]:
    """Return what a session contains besides turns: starts of branches, notes and probes."""
    found = {
        "begins": list(beginnings(parts)),
        "notes": [_note(note, pool) for note in transcript.notes],
        "probes": list(_checkpoints(transcript.probes, parts, eyes, pool)),
    }
    return {name: value for name, value in found.items() if value}


def _note(note: Note, pool: _Pool) -> dict[str, Any]:
    return {
        "after": note.after_turn,
        "kept": note.kept,
        "text": pool.text(note.text),
        "reply": None if note.reply.text.strip() == note.text else pool.text(note.reply.text),
        "usage": _usage(note),
        "counted": note.counted,
        "seconds": note.reply.latency_s,
    }


def _checkpoints(
    probes: Sequence[Probe], parts: Sequence[Part], eyes: Sequence[QuestionDecoder], pool: _Pool
) -> Iterator[dict[str, Any]]:
    """Yield the probes of a session by checkpoint."""
    places = {place_of(parts, probe.after_turn) for probe in probes}
    questions = {place: held_out(parts[place].header) for place in places}
    for after, group in groupby(probes, key=lambda probe: probe.after_turn):
        asked, place = list(group), place_of(parts, after)
        shown = [questions[place].get(probe.sample) for probe in asked]
        yield {
            "after": after,
            "sample": [probe.sample for probe in asked],
            "picture": [each and pool.picture(each, eyes[place]) for each in shown],
            "reply": [pool.text(probe.reply.text) for probe in asked],
            "answer": [probe.answer for probe in asked],
            "outcome": [probe.outcome for probe in asked],
            "label": [probe.label for probe in asked],
            "correct": [int(probe.correct) for probe in asked],
        }


def _baseline(baseline: Baseline, turns: Sequence[Turn]) -> list[int] | None:
    return [int(baseline[turn.index]) for turn in turns] if baseline else None


def _usage(turn: Turn | Note) -> list[int]:
    used = turn.reply.usage
    return [used.prompt, used.cached, used.completion, used.reasoning]
