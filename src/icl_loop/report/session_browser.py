"""Sessions as the page holds them: columns of turns, and a pool of texts and pictures a stream.

What several arms of a stream share, its questions first of all, stands in its pool once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from icl_loop.core.messages import Image, Message
from icl_loop.core.records import Note, Probe, Turn
from icl_loop.report.branch_history import Part, beginnings, parts_of, place_of
from icl_loop.report.image_data import Drawn, drawn
from icl_loop.report.page_data import packed
from icl_loop.report.probe_questions import held_out
from icl_loop.tasks.question_decoding import QuestionDecoder, recorded_question_decoder
from icl_loop.terminal.formatting import printable
from icl_loop.transcripts import Transcript

Baseline = Mapping[int, bool]
"""Whether the baseline was right, by turn."""


@dataclass(frozen=True, slots=True)
class Named:
    """A session, and the name that its experiment goes by on the page."""

    experiment: str
    transcript: Transcript
    baseline: Baseline

    @property
    def stream(self) -> tuple[str, int]:
        """What it shares samples with others by."""
        return self.experiment, self.transcript.header.stream


@dataclass(slots=True)
class _Pool:
    """Texts and pictures of a stream, each once."""

    texts: dict[str, int] = field(default_factory=dict)
    pictures: dict[Drawn, int] = field(default_factory=dict)
    seen: dict[Message, int | None] = field(default_factory=dict)

    def text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def picture(self, question: Message, see: QuestionDecoder) -> int | None:
        if question not in self.seen:
            pixels = see(question)
            self.seen[question] = (
                None
                if pixels is None
                else self.pictures.setdefault(drawn(pixels), len(self.pictures))
            )
        return self.seen[question]


@dataclass(frozen=True, slots=True)
class Shelf:
    """What the browser of sessions takes from.

    Attributes:
        index: What there is: a row a session, and which blobs hold it.
        blobs: The pools and the sessions, packed, by the ids of their elements.
    """

    index: list[dict[str, Any]]
    blobs: dict[str, str]


def shelve(sessions: Iterable[Named]) -> Shelf:
    """Return sessions as the page holds them; those of one stream are read together."""
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
    return Shelf(index, blobs)


def _entry(session: Named) -> dict[str, Any]:
    header, end = session.transcript.header, session.transcript.end
    return {
        "experiment": printable(session.experiment),
        "arm": printable(header.arm),
        "stream": header.stream,
        "turns": len(session.transcript.turns),
        "planned": header.turns,
        "status": end.status if end else "unfinished",
    }


def _columns(session: Named, pool: _Pool) -> dict[str, Any]:
    """Return the turns of a session, a list for each of their fields; texts by their place."""
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
        **_beside(session.transcript, parts, eyes, pool),
    }


def _beside(
    transcript: Transcript, parts: Sequence[Part], eyes: Sequence[QuestionDecoder], pool: _Pool
) -> dict[str, list[dict[str, Any]]]:
    """Return what a session holds besides its turns: where branches begin, notes, and probes."""
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
    """Yield the probes of a session, checkpoint by checkpoint."""
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
