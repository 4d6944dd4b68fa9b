"""Saved replies read again by another rule, without any request; the source is never touched."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Reply
from icl_loop.experiment import AnswerSettings, answering
from icl_loop.tasks.answers import AnswerRule, ParsedAnswer, parse_answer
from icl_loop.tasks.prompts import open_prompt_set
from icl_loop.transcripts import (
    VERSION,
    Header,
    SourceIdentity,
    Transcript,
    begin,
    has_whole_line,
    line_of,
    read,
    read_header,
    whole_lines,
)
from icl_loop.transcripts.checksum import without_checksum


@dataclass(frozen=True, slots=True)
class Rescored:
    """A session whose replies were read again.

    Attributes:
        source: The transcript that was read.
        path: The transcript that was written, or was there already.
        arm: Name of the arm.
        turns: How many turns there are.
        changed: How many turns have another answer now.
        right_before: How many were right in the source.
        right_now: How many are right now.
    """

    source: Path
    path: Path
    arm: str
    turns: int
    changed: int
    right_before: int
    right_now: int


def read_again(reply: Reply, header: Header, rule: AnswerRule) -> ParsedAnswer:
    """Return what `rule` reads in a reply to a question asked under `header`."""
    form = open_prompt_set(prompts_of(header)).answer
    return parse_answer(reply.text, header.labels, reply.finish, form, rule)


def prompts_of(header: Header) -> str:
    """Return the name or file of the prompt set of a session."""
    return str(header.settings.get("task", {}).get("prompts", "en"))


def rule_of(settings: Mapping[str, Any]) -> AnswerRule:
    """Return the rule by which replies are read under recorded settings."""
    return AnswerSettings.model_validate(settings.get("answers", {})).as_rule()


def rescore(path: Path, changes: Sequence[str], out: Path | None = None) -> Rescored:
    """Read the replies in the transcript at `path` again, into a transcript of its own.

    It stands in the folder of an experiment that is called like the source's, with a digest of the
    rule, beside the source's folder or in `out`.

    Args:
        path: The source.
        changes: `answers.KEY=VALUE` laid over the settings it was read by.
        out: The folder that holds the experiments' own folders.

    Raises:
        InputError: The source cannot be read again, a change is wrong, or another transcript is in
            the place of this one.
        StoppedShort: It cannot be written.
    """
    source, lines = read(path), whole_lines(path)
    if source.header.source is not None:
        raise InputError(
            f"{path} holds replies that were read again already; read those of its source again,"
            f" in {source.header.source.experiment}"
        )
    settings = answering(source.header.settings, changes)
    header = _header(
        source.header, settings, sha256(b"".join(map(without_checksum, lines))).hexdigest()
    )
    rule = settings.as_rule()
    parse_answer("", header.labels, rule=rule)  # refuses names for what is no label
    judged = [_judged(line, header, rule) for line in lines[1:]]
    place = (out or path.resolve().parent.parent) / header.experiment / path.name
    _write(place, header, judged)
    return _compared(source, read(place))


def _header(source: Header, settings: AnswerSettings, digest: str) -> Header:
    """Return the header of a source's replies read again."""
    named = SourceIdentity(
        id=source.id,
        sha256=digest,
        experiment=source.experiment,
        settings=source.settings,
        icl_loop=source.icl_loop,
    )
    rule = sha256(settings.model_dump_json().encode()).hexdigest()[:6]
    return source.model_copy(
        update={
            "experiment": f"{source.experiment}-rescored-{rule}",
            "settings": {**source.settings, "answers": settings.model_dump(mode="json")},
            "source": named,
            "icl_loop": VERSION,
        }
    )


def _judged(line: bytes, header: Header, rule: AnswerRule) -> bytes:
    """Return the line of a turn or probe with its reply read again; other lines as they are."""
    said = json.loads(without_checksum(line))
    if said["type"] not in ("turn", "probe"):
        return line
    asked_under = header.at(said["turn" if said["type"] == "turn" else "after_turn"])
    reply = Reply(said["reply"], finish=said.get("finish", "stop"))
    reading = read_again(reply, asked_under, rule)
    right = reading.answer == said["label"]
    return line_of({**said, "answer": reading.answer, "outcome": reading.outcome, "correct": right})


def _write(place: Path, header: Header, lines: Sequence[bytes]) -> None:
    """Write the transcript, unless it is there already."""
    if not has_whole_line(place):
        begin(place, header, lines)
    elif read_header(place).id != header.born().id or [
        *map(without_checksum, whole_lines(place)[1:])
    ] != [*map(without_checksum, lines)]:
        raise InputError(
            f"{place} holds another transcript: its source was another, or went on since; choose"
            " another --out, or move it away"
        )


def _compared(source: Transcript, now: Transcript) -> Rescored:
    pairs = list(zip(source.turns, now.turns, strict=True))
    return Rescored(
        source=source.path,
        path=now.path,
        arm=now.header.arm,
        turns=len(pairs),
        changed=sum(before.answer != after.answer for before, after in pairs),
        right_before=sum(before.feedback.correct for before, _ in pairs),
        right_now=sum(after.feedback.correct for _, after in pairs),
    )
