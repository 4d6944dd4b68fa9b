"""Hypothesis strategies for whole sessions, with any texts, and their transcripts."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from hypothesis import strategies as st

from icl_loop.core.messages import Image, Message, Reply, Served, Text, Usage, user
from icl_loop.core.records import (
    Choice,
    Exemplar,
    Feedback,
    Note,
    Outcome,
    Probe,
    Span,
    Turn,
    Verdicts,
)
from icl_loop.transcripts import End, Header, Transcript
from icl_loop.transcripts.checksum import with_checksum
from icl_loop.transcripts.header import DatasetIdentity, ExemplarLine
from icl_loop.transcripts.schema import EndStatus, line_fields

LABELS = ("3", "cat", "き")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
TIME = "2026-01-02T03:04:05.678+00:00"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.integers(0, 2**40)
usages = st.builds(
    lambda prompt, cached, completion, reasoning: Usage(
        prompt + cached, cached, completion, reasoning
    ),
    *[counts] * 4,
)
replies = st.builds(
    Reply,
    text=texts,
    usage=usages,
    finish=st.sampled_from(["stop", "length", "content_filter", "unknown"]),
    served=st.none() | st.builds(Served, st.none() | texts, st.none() | texts),
    label_logprobs=st.none() | st.dictionaries(texts, st.floats(-100, 0)),
    reasoning_text=st.none() | texts,
    attempts=st.integers(1, 9),
    latency_s=st.floats(0, 1e4),
    at=st.just(TIME),
)
answers = st.none() | st.sampled_from(LABELS)
questions = st.builds(user, texts) | st.builds(
    lambda text: Message("user", (*([Text(text)] if text else []), Image(PNG))), texts
)

exemplars = st.builds(Exemplar, texts, st.sampled_from(LABELS), questions, texts, texts)


@st.composite
def turns_of(draw: st.DrawFn) -> tuple[Turn, ...]:
    """Draw the turns of a session, which show any turns before them."""
    return tuple(draw(_turn(index)) for index in range(draw(st.integers(0, 4))))


def _turn(index: int) -> st.SearchStrategy[Turn]:
    def made(label: str, answer: str | None, told: str, kept: Sequence[Span], **more: Any) -> Turn:  # noqa: ANN401  fields of a turn
        feedback = Feedback(answer == label, told)
        outcome: Outcome = "unreadable" if answer is None else "ok"
        return Turn(
            index, label=label, answer=answer, outcome=outcome, feedback=feedback,
            kept=tuple(kept), **more,
        )  # fmt: skip

    spans = [] if not index else [[(0, index - 1)], [(index - 1, index - 1)], [(0, 0)]]
    return st.builds(
        made,
        label=st.sampled_from(LABELS),
        answer=answers,
        told=texts,
        kept=st.sampled_from([[], *spans]),
        sample=texts,
        question=questions,
        request=texts,
        reply=replies,
        overflows=st.integers(0, 3),
        calibration=st.floats(0.5, 2),
        echo=st.none() | texts,
        counted=st.none() | counts,
        prefix=st.none() | counts,
    )


@st.composite
def transcripts(draw: st.DrawFn, stream: int = 0) -> Transcript:
    """Draw a session: any texts, perhaps with probes, notes or choices, perhaps without an end."""
    turns = draw(turns_of())
    after = [
        Probe(
            len(turns),
            "p",
            label,
            answer,
            "ok",
            answer == label,
            draw(st.sampled_from(get_args(Verdicts))),
            kept=(),
            request="",
            reply=draw(replies),
        )
        for label, answer in draw(st.lists(st.tuples(st.sampled_from(LABELS), answers), max_size=2))
    ]
    notes = [
        Note(
            after,
            draw(texts),
            kept=((0, after - 1),),
            request="",
            reply=draw(replies),
            overflows=1,
            counted=draw(counts),
        )
        for after in range(1, len(turns))
        if draw(st.booleans())
    ]
    chosen = range(1, len(turns), 2) if draw(st.sampled_from([False, False, True])) else ()
    choices = [draw(_choice(index)) for index in chosen]
    samples = {each.after_turn: each.sample for each in choices}
    turns = tuple(replace(each, sample=samples.get(each.index, each.sample)) for each in turns)
    header = Header(
        experiment=draw(texts),
        arm=draw(st.sampled_from(["label", "none"])),
        stream=stream,
        seed=draw(st.integers(0, 9)),
        turns=draw(st.integers(1, 5)),
        settings={
            "model": {"name": draw(texts), "merge_roles": draw(st.booleans())},
            "probes": {"at": [len(turns)]},
            "task": {"prompts": "plain", **({"choice": {"every": 2}} if chosen else {})},
            "context": {"policy": "notes(every=1, tokens=60)"},
        },
        labels=list(LABELS),
        system=draw(texts),
        exemplars=tuple(map(ExemplarLine.of, draw(st.lists(exemplars, max_size=2)))),
        dataset=DatasetIdentity(name=draw(texts), sha256="", size=3),
    ).born()
    status = draw(st.none() | st.sampled_from(get_args(EndStatus)))
    end = None if status is None else End(status=status, turns=len(turns), at=TIME)
    return Transcript(Path(), header, turns, end, 0, tuple(after), tuple(notes), tuple(choices))


@st.composite
def _choice(draw: st.DrawFn, after: int) -> Choice:
    candidates = draw(st.lists(texts, min_size=2, max_size=3))
    number = draw(st.none() | st.integers(1, len(candidates)))
    taken = draw(st.sampled_from(candidates)) if number is None else candidates[number - 1]
    return Choice(
        after,
        tuple(candidates),
        number,
        "unreadable" if number is None else "ok",
        taken,
        kept=((0, after - 1),),
        request="",
        reply=draw(replies),
        counted=draw(counts),
    )


@st.composite
def several(draw: st.DrawFn) -> list[Transcript]:
    """Draw a few sessions of one experiment."""
    drawn = [draw(transcripts(stream)) for stream in range(draw(st.integers(1, 3)))]
    shared = {"experiment": drawn[0].header.experiment}
    return [replace(each, header=each.header.model_copy(update=shared)) for each in drawn]


def save(drawn: Sequence[Transcript], folder: Path, torn: str = "") -> Path:
    """Write sessions to a folder as the recorder writes them; the first may end torn."""
    folder.mkdir()
    for number, each in enumerate(drawn):
        lines: list[Mapping[str, Any]] = [each.header.fields()]
        lines += [line_fields(event) for event in each.events]
        lines += [line_fields(probe) for probe in each.probes]
        lines += [each.end.model_dump(mode="json")] if each.end else []
        data = b"".join(map(_line, lines))
        (folder / f"{number}.jsonl").write_bytes(data + (torn if not number else "").encode())
    return folder


def _line(fields: Mapping[str, Any]) -> bytes:
    return (
        with_checksum(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode())
        + b"\n"
    )
