"""Sessions in a log of Inspect, one per sample.

Import this module only to read logs: `inspect_ai` is an optional dependency.
"""

import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any, cast, get_args
from zipfile import BadZipFile, ZipFile, is_zipfile

from inspect_ai.event import ModelEvent
from inspect_ai.log import EvalLog, EvalSample, read_eval_log
from inspect_ai.model import ChatMessage, ContentImage, ContentReasoning, ModelUsage
from zstandard import ZstdError

from icl_loop.context.window import to_spans
from icl_loop.core.messages import Finish, Message, fingerprint
from icl_loop.core.records import Outcome
from icl_loop.core.regular_files import open_regular
from icl_loop.export.imported_session import (
    Asked,
    ImportedSession,
    exemplar_lines,
    known_labels,
    note_line,
    parsed_reply,
    question_fields,
    replies_in,
    turn_line,
)
from icl_loop.export.inspect_sample import STOP_REASONS
from icl_loop.server.request_parser import parse_message
from icl_loop.tasks.answers import ParsedAnswer
from icl_loop.transcripts.schema import EndStatus

Fields = Mapping[str, Any]
MAX_BYTES, MAX_UNPACKED = 2**26, 2**27
"""Most bytes of a log, and of the members of one that is a zip file."""
_CHUNK = 4_096
"""Bytes of a member that are read at once; zstandard may unpack as many to 130 MB."""
_PARSER_ERRORS = (
    *(AttributeError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError),
    *(TypeError, ValueError, BadZipFile, ZstdError, lzma.LZMAError, zlib.error),
)
"""What Inspect and the parsers below it raise for damaged logs.

`OSError` and `ZstdError` were found by altering the bytes and fields of 3,736 logs at random; not
each of the others was seen.
"""
_FINISHES = {name: finish for finish, name in STOP_REASONS.items()}


def sessions_in(path: Path, given: Sequence[str]) -> list[ImportedSession]:
    """Return the sessions of a log.

    A sample with several replies is a session, and its target has the right label of each. Samples
    with one reply each are the turns of one session, which showed no past turns. Further epochs are
    repeats of these sessions.

    Raises:
        ValueError: The log cannot be read, or a sample is wrong; the message names the sample.
    """
    with open_regular(path, MAX_BYTES) as file:
        log = _log(file)
    samples = log.samples or []
    if not samples:
        raise ValueError("the log has no samples")
    targets = [target for sample in samples for target in _targets(sample)]
    named = (log.eval.metadata or {}).get("labels")
    labels = tuple(named) if named and not given else known_labels(given, targets, "target")
    if not _is_own(log) and all(len(_replies(sample)) == 1 for sample in samples):
        return list(_epochs(log, samples, labels))
    streams = list(dict.fromkeys(sample.id for sample in samples))
    return [_session(log, sample, labels, streams.index(sample.id)) for sample in samples]


def _log(file: IO[bytes]) -> EvalLog:
    """Return the log in a file: a zip file or JSON."""
    try:
        stream = _unpacked(file) if is_zipfile(file) else file
        stream.seek(0)
        return read_eval_log(stream, resolve_attachments=True)
    except _PARSER_ERRORS as error:
        if isinstance(error, _TooLarge):
            raise
        raise ValueError("this is not a log of Inspect, or it is damaged") from None


class _TooLarge(ValueError):
    """The members of a zip file are too large together."""


def _unpacked(file: IO[bytes]) -> BytesIO:
    """Return a zip file of the same members that is not compressed, so that no size can be a lie."""
    plain, left = BytesIO(), MAX_UNPACKED
    with ZipFile(file) as packed, ZipFile(plain, "w") as out:
        for member in packed.infolist():
            data = BytesIO()
            with packed.open(member) as stream:
                while chunk := stream.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise _TooLarge(f"it unpacks to more than {MAX_UNPACKED // 2**20} MiB")
                    data.write(chunk)
            out.writestr(member.filename, data.getvalue())
    return plain


def _is_own(log: EvalLog) -> bool:
    """Return whether this program wrote a log."""
    return "icl-loop" in (log.eval.packages or {})


def _targets(sample: EvalSample) -> list[str]:
    return [sample.target] if isinstance(sample.target, str) else list(sample.target)


def _replies(sample: EvalSample) -> list[ChatMessage]:
    return [message for message in sample.messages if message.role == "assistant"]


def _message(message: ChatMessage) -> Message:
    """Return a message without its reasoning; raise ValueError if it has other parts than texts and PNG images."""
    if isinstance(message.content, str):
        return parse_message({"role": message.role, "content": message.content})
    parts: list[object] = [
        {"type": "image_url", "image_url": {"url": part.image}}
        if isinstance(part, ContentImage)
        else part.model_dump()
        for part in message.content
        if not isinstance(part, ContentReasoning)
    ]
    return parse_message({"role": message.role, "content": parts or ""})


def _messages(messages: Sequence[ChatMessage]) -> list[Message]:
    found = []
    for number, message in enumerate(messages, start=1):
        try:
            found.append(_message(message))
        except ValueError as error:
            raise ValueError(f"message {number} {error}") from None
    return found


# ---- a sample as a session ---------------------------------------------------------------


def _session(
    log: EvalLog, sample: EvalSample, labels: Sequence[str], stream: int
) -> ImportedSession:
    place, replies, own = f"sample {sample.id}", _replies(sample), _is_own(log)
    targets, said = _targets(sample), sample.metadata if own else {}
    is_turn = [not own or "turn" in (reply.metadata or {}) for reply in replies]
    shown = [
        (str(about["sample"]), str(about["label"]))
        for about in (reply.metadata or {} for reply in replies)
        if own and {"exemplar", "sample", "label"} <= about.keys()
    ]
    if len(targets) != sum(is_turn):
        raise ValueError(
            f"{place}: its target has {len(targets)} labels, but there are {sum(is_turn)} replies;"
            " each reply needs its right label"
        )
    settings = _nested(log.eval.task_args) if own else {}
    settings = settings or {"model": {"name": log.eval.model}}
    task = settings.get("task", {})
    prompts = task.get("prompts") if isinstance(task, dict) else None
    try:
        messages, first = _messages(sample.messages), len(shown)
        opening, asked = replies_in(messages, [True] * first + is_turn[first:], prompts)
        lines = list(_lines(sample, asked[first:], is_turn[first:], labels, prompts))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    facts = log.eval.metadata or {}
    known = {"donor": said.get("donor"), "analysis": facts.get("analysis")} if own else {}
    status = said.get("status", "stopped" if sample.limit or sample.error else "complete")
    return ImportedSession(
        key=str(said.get("id") or f"{sample.id}, epoch {sample.epoch}"),
        place=place,
        labels=labels,
        lines=lines,
        experiment=log.eval.task,
        arm=next(iter(log.eval.tags or ()), None) if own else log.eval.model,
        stream=said.get("stream", stream),
        repeat=said.get("repeat") or (0 if own else sample.epoch - 1),
        status=cast("EndStatus", status) if status in get_args(EndStatus) else None,
        ended=sample.completed_at,
        header={
            "system": opening,
            "exemplars": exemplar_lines(messages, asked, shown),
            "seed": facts.get("seed") if own else None,
            "turns": said.get("planned") or sum(is_turn),
            "dataset": {
                "name": log.eval.dataset.name,
                "sha256": facts.get("dataset_sha256"),
                "size": facts.get("dataset_size"),
            },
            "settings": settings,
            "created": sample.started_at or "",
            **{key: value for key, value in known.items() if value is not None},
        },
    )


def _nested(table: Fields) -> dict[str, Any]:
    """Return tables with dotted keys as nested tables; the inverse of `comparison.flat`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        *tables, last = key.split(".")
        place = found
        for name in tables:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ValueError(f"task_args.{key}: {name} must be a table")  # noqa: TRY004  as for all values
        place[last] = value
    return found


def _lines(
    sample: EvalSample,
    asked: Sequence[Asked],
    is_turn: Sequence[bool],
    labels: Sequence[str],
    prompts: str | None,
) -> Iterator[Fields]:
    """Yield the turns and notes of a sample."""
    events = [event for event in sample.events if isinstance(event, ModelEvent)]
    known = events if len(events) == len(asked) else [None] * len(asked)
    questions = [_question_id(sample.messages, each.place) for each in asked]
    turn_ids = [each for each, turn in zip(questions, is_turn, strict=True) if turn]
    targets, before = _targets(sample), accumulate(is_turn, initial=0)
    shown = dict(pair for event in events for pair in _shown_replies(event))
    for number, (each, event, turn, kind) in enumerate(
        zip(asked, known, before, is_turn, strict=False)
    ):
        message = sample.messages[each.place]
        said = message.metadata or {}
        reply = _message(message).text
        fields: dict[str, Any] = {"reply": reply, **_reasoning(message)}
        if event is not None:
            fields |= _request(event, turn_ids[:turn])
        if not kind:
            note = (event.metadata or {}).get("notes") if event else None
            yield note_line(turn, {**fields, "text": reply if note is None else note})
            continue
        if "outcome" in said:
            outcome = cast("Outcome", said["outcome"])
            parsed = ParsedAnswer(said.get("answer"), outcome)
        else:
            finish: Finish = fields.get("finish", "stop")
            parsed = parsed_reply(reply, labels, finish, prompts or "plain")
        question = sample.messages[each.place - 1].metadata or {}
        fields |= {**question_fields(each.question), "told": each.told}
        if shown.get(questions[number], reply) != reply:
            fields["echo"] = shown[questions[number]]
        yield turn_line(turn, targets[turn], parsed, {**fields, "sample": question.get("sample")})


def _shown_replies(event: ModelEvent) -> Iterator[tuple[str | None, str]]:
    """Yield the replies that a request showed, after the ids of their questions."""
    for question, reply in pairwise(event.input):
        if reply.role == "assistant":
            yield question.id, reply.text


def _question_id(messages: Sequence[ChatMessage], reply: int) -> str | None:
    return messages[reply - 1].id if reply else None


def _reasoning(message: ChatMessage) -> dict[str, str]:
    if isinstance(message.content, str):
        return {}
    thoughts = [part.reasoning for part in message.content if isinstance(part, ContentReasoning)]
    return {"reasoning_text": "\n".join(thoughts)} if thoughts else {}


def _request(event: ModelEvent, past: Sequence[str | None]) -> dict[str, Any]:
    """Return what a model event says about a request: past turns shown, tokens and times."""
    said, output = event.metadata or {}, event.output
    found: dict[str, Any] = {
        "finish": _FINISHES.get(output.stop_reason if output.choices else "unknown", "unknown"),
        "overflows": said.get("overflows", 0),
        "latency_s": output.time if output.time is not None else event.working_time,
        "attempts": (event.retries or 0) + 1,
        "at": event.completed.isoformat(timespec="milliseconds") if event.completed else None,
        "usage": _usage(output.usage),
    }
    if output.model and output.model != event.model:
        found["served"] = {"model": output.model}
    shown = {message.id for message in event.input}
    if shown and None not in past:
        kept = [turn for turn, question in enumerate(past) if question in shown]
        found["kept"] = [list(span) for span in to_spans(kept)]
        try:
            found["request"] = said.get("request") or fingerprint(map(_message, event.input))
        except ValueError:  # parts that a transcript cannot hold
            found["kept"] = None
    return found


def _usage(usage: ModelUsage | None) -> dict[str, int] | None:
    if usage is None:
        return None
    cached = usage.input_tokens_cache_read or 0
    return {
        "prompt": usage.input_tokens + cached,
        "cached": cached,
        "completion": usage.output_tokens,
        "reasoning": usage.reasoning_tokens or 0,
    }


# ---- single questions as a session -------------------------------------------------------


def _epochs(
    log: EvalLog, samples: Sequence[EvalSample], labels: Sequence[str]
) -> Iterator[ImportedSession]:
    """Yield a session whose turns are samples that were asked on their own; epochs are its repeats."""
    for epoch in sorted({sample.epoch for sample in samples}):
        lines, opening = list[Fields](), None
        mine = [sample for sample in samples if sample.epoch == epoch]
        for turn, sample in enumerate(mine):
            alone = _session(log, sample, labels, 0)
            [line] = alone.lines
            opening = alone.header["system"]
            lines.append({**line, "turn": turn, "sample": str(sample.id), "kept": []})
        yield ImportedSession(
            key=f"epoch {epoch}",
            place=f"epoch {epoch}",
            labels=labels,
            lines=lines,
            experiment=log.eval.task,
            arm=log.eval.model,
            stream=0,
            repeat=epoch - 1,
            header={**alone.header, "system": opening, "turns": len(mine)},
        )
