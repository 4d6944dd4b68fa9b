"""Rescoring: parse and score saved replies under another answer rule, without any request."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Reply
from icl_loop.core.names import check_file_name
from icl_loop.core.records import Feedback, Probe, Turn
from icl_loop.core.validation_messages import shown_value
from icl_loop.experiment import Settings
from icl_loop.experiment.answer_settings import AnswerSettings, recorded_rule
from icl_loop.experiment.experiment_file import override
from icl_loop.experiment.validation import validated
from icl_loop.tasks.answers import AnswerRule, ParsedAnswer, parse_answer
from icl_loop.tasks.prompts import DEFAULT, open_prompt_set
from icl_loop.transcripts import Header, read, read_header
from icl_loop.transcripts.checksum import without_checksum
from icl_loop.transcripts.header import VERSION, SourceIdentity
from icl_loop.transcripts.reader import has_whole_line, whole_lines
from icl_loop.transcripts.schema import line_of
from icl_loop.transcripts.writer import begin


@dataclass(frozen=True, slots=True)
class Rescored:
    """A rescored session: the old and new transcript, and how many answers changed and are right."""

    source: Path
    path: Path
    arm: str
    turns: int
    changed: int
    right_before: int
    right_after: int


def score_again(entry: Turn | Probe, header: Header, rule: AnswerRule) -> Turn | Probe:
    """Return a turn or probe with its reply parsed and scored by `rule`; the told text stays."""
    parsed = _parse(entry.reply, header, rule)
    entry = replace(entry, answer=parsed.answer, outcome=parsed.outcome)
    correct = parsed.answer == entry.label
    if isinstance(entry, Probe):
        return replace(entry, correct=correct)
    return replace(entry, feedback=Feedback(correct, entry.feedback.told))


def _parse(reply: Reply, header: Header, rule: AnswerRule) -> ParsedAnswer:
    prompts = open_prompt_set(header.settings.get("task", {}).get("prompts", DEFAULT))
    feedback = header.settings.get("feedback", {})
    openings = prompts.openings(feedback.get("form", "plain"), feedback.get("every", 1))
    return parse_answer(reply.text, header.labels, reply.finish, prompts.answer, rule, openings)


def rescore(path: Path, changes: Sequence[str], out: Path | None = None) -> Rescored:
    """Rescore the transcript at `path` and write the result as a new transcript.

    The new experiment is named like the source's with `-rescored-` and a digest of the rule.

    Args:
        path: The source; it is not changed.
        changes: `answers.KEY=VALUE` overrides of the source's settings.
        out: The folder for the new experiment's folder; by default, where the source's is.

    Raises:
        InputError: The source is itself rescored, a change is invalid, or the new path holds a
            different transcript.
        StoppedShort: The new transcript cannot be written.
    """
    source, lines = read(path), whole_lines(path)
    source.header.check_replayable(path)
    if source.header.source is not None:
        raise InputError(
            f"{path} is already rescored; rescore its source instead, in"
            f" {source.header.source.experiment}"
        )
    header: Header | None = source.header
    while header is not None:
        validated(Settings, header.settings, f"{path}, line 1, settings")
        header = header.parent
    for each in changes:
        if "=" not in each:
            raise InputError(
                f"--set takes answers.KEY=VALUE such as answers.rule=last, got {each!r}"
            )
        if not each.strip().startswith("answers."):
            raise InputError(
                f"--set {each.partition('=')[0]}: rescoring can change answers.KEY only, because the requests have"
                " been made already"
            )
    given = override(source.header.settings, changes)
    answers = validated(Settings, {"answers": given.get("answers", {})}, "--set").answers
    digest = sha256(b"".join(map(without_checksum, lines))).hexdigest()
    header = _header(source.header, answers, digest)
    rule = recorded_rule(header.settings)
    parse_answer("", header.labels, rule=rule)  # raises InputError for an unknown label
    rescored = [_rescored_line(line, header, rule) for line in lines[1:]]
    name = check_file_name(
        header.experiment, f"{path}, line 1, experiment = {shown_value(source.header.experiment)}: "
    )
    target = (out or path.resolve().parent.parent) / name / path.name
    _write(target, header, rescored)
    pairs = list(zip(source.turns, read(target).turns, strict=True))
    return Rescored(
        source=path,
        path=target,
        arm=header.arm,
        turns=len(pairs),
        changed=sum(before.answer != after.answer for before, after in pairs),
        right_before=sum(before.feedback.correct for before, _ in pairs),
        right_after=sum(after.feedback.correct for _, after in pairs),
    )


def _header(source: Header, settings: AnswerSettings, digest: str) -> Header:
    rule = sha256(settings.model_dump_json().encode()).hexdigest()[:6]
    return source.model_copy(
        update={
            "experiment": f"{source.experiment}-rescored-{rule}",
            "settings": {**source.settings, "answers": settings.model_dump(mode="json")},
            "source": SourceIdentity(
                id=source.id,
                sha256=digest,
                experiment=source.experiment,
                settings=source.settings,
                icl_loop=source.icl_loop,
            ),
            "icl_loop": VERSION,
        }
    )


def _rescored_line(line: bytes, header: Header, rule: AnswerRule) -> bytes:
    """Return the line of a turn or probe rescored, and any other line unchanged."""
    fields = json.loads(without_checksum(line))
    if fields["type"] not in ("turn", "probe"):
        return line
    turn = fields["turn" if fields["type"] == "turn" else "after_turn"]
    reply = Reply(fields["reply"], finish=fields.get("finish", "stop"))
    parsed = _parse(reply, header.at(turn), rule)
    score = {"answer": parsed.answer, "correct": parsed.answer == fields["label"]}
    return line_of({**fields, **score, "outcome": parsed.outcome})


def _write(path: Path, header: Header, lines: Sequence[bytes]) -> None:
    if not has_whole_line(path):
        begin(path, header, lines)
        return
    existing = [without_checksum(line) for line in whole_lines(path)[1:]]
    if read_header(path).id != header.born().id or existing != [*map(without_checksum, lines)]:
        raise InputError(
            f"{path} already holds a different rescored transcript; move it away, or choose another"
            " --out"
        )
