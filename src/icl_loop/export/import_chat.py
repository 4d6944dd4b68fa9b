"""Sessions in OpenAI's chat format, one per line: `messages`, `targets`, `labels` and `metadata`."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast, get_args

from icl_loop.core.messages import Message
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
from icl_loop.server.request_parser import parse_message
from icl_loop.tasks.datasets.row_files import parsed_json
from icl_loop.tasks.datasets.source_file import read_bytes
from icl_loop.tasks.prompts import DEFAULT
from icl_loop.transcripts.schema import EndStatus

Fields = Mapping[str, Any]


def sessions_in(path: Path, given: Sequence[str]) -> list[ImportedSession]:
    """Return the sessions of a file of chats.

    `targets` has the right label of each reply, or null for one that is no answer, such as a note. The
    labels are those of `--labels`, else `labels` of the line, else all targets of the file. `exemplars`,
    if given, has the label of each of the first replies, which are right answers that were shown.

    Raises:
        ValueError: A line is wrong; the message names line and key.
    """
    chats: list[tuple[str, Fields]] = []
    for number, line in enumerate(read_bytes(path, "jsonl").split(b"\n"), start=1):
        if line.strip():
            chats.append((f"line {number}", _object(line, f"line {number}")))
    if not chats:
        raise ValueError("the file is empty")
    targets = [_targets(fields, place) for place, fields in chats]
    found = [target for each in targets for target in each if target is not None]
    return [
        _session(place, fields, mine, _labels(given, fields, mine, found, place))
        for (place, fields), mine in zip(chats, targets, strict=True)
    ]


def _object(line: bytes, place: str) -> Fields:
    fields = parsed_json(line, f"{place}: ")
    if isinstance(fields, dict) and fields.get("type") == "session":
        raise ValueError("this is a transcript already; name it in analyze, plot or report")
    if not isinstance(fields, dict) or not isinstance(fields.get("messages"), list):
        raise ValueError(f"{place} is not a chat: it has no list of messages")  # noqa: TRY004  found in a file
    return fields


def _targets(fields: Fields, place: str) -> list[str | None]:
    """Return the right label of each reply."""
    replies = sum(
        isinstance(each, dict) and each.get("role") == "assistant" for each in fields["messages"]
    )
    example = 'such as "targets": ["cat", null, "dog"], with null for a reply that is no answer'
    if "targets" not in fields:
        raise ValueError(
            f"{place}, targets: is missing; give the right label of each reply, {example}"
        )
    targets = fields["targets"]
    if not isinstance(targets, list) or not all(
        each is None or (isinstance(each, str) and each) for each in targets
    ):
        raise ValueError(f"{place}, targets: must be a list of labels, {example}")
    if len(targets) != replies:
        raise ValueError(
            f"{place}, targets: has {len(targets)} labels, but there are {replies} replies"
        )
    return targets


def _exemplars(fields: Fields, targets: Sequence[str | None], place: str) -> list[tuple[str, str]]:
    """Return sample and label of each exemplar."""
    given = fields.get("exemplars", [])
    example = 'such as "exemplars": [{"label": "cat"}]'
    if not isinstance(given, list) or not all(
        isinstance(each, dict) and isinstance(each.get("label"), str) for each in given
    ):
        raise ValueError(f"{place}, exemplars: must be a list of tables, {example}")
    first = targets[: len(given)]
    if len(first) < len(given) or any(each is not None for each in first):
        raise ValueError(
            f"{place}, exemplars: the first {len(given)} replies must be those of exemplars, with the"
            " target null"
        )
    return [(str(each.get("sample") or ""), each["label"]) for each in given]


def _labels(
    given: Sequence[str],
    fields: Fields,
    mine: Sequence[str | None],
    found: Sequence[str],
    place: str,
) -> tuple[str, ...]:
    named = fields.get("labels", [])
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise ValueError(f"{place}, labels: must be a list of labels")
    if given or not named:
        return known_labels(given, found, "targets")
    if unknown := [each for each in mine if each is not None and each not in named]:
        raise ValueError(f"{place}, targets: {unknown[0]!r} is not among labels")
    return tuple(named)


def _session(
    place: str, fields: Fields, targets: Sequence[str | None], labels: Sequence[str]
) -> ImportedSession:
    messages = [
        _message(each, f"{place}, message {n}") for n, each in enumerate(fields["messages"], 1)
    ]
    said = fields.get("metadata") or {}
    if not isinstance(said, dict):
        raise ValueError(f"{place}, metadata: must be a table")  # noqa: TRY004  found in a file
    prompts = str(said.get("prompts") or DEFAULT)
    shown = _exemplars(fields, targets, place)
    is_turn = [number < len(shown) or each is not None for number, each in enumerate(targets)]
    try:
        opening, asked = replies_in(messages, is_turn, prompts)
        before = accumulate((each is not None for each in targets), initial=0)
        lines = [
            _line(each, messages, fields["messages"], target, turn, labels, prompts)
            for each, target, turn in list(zip(asked, targets, before, strict=False))[len(shown) :]
        ]
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    turns = sum(each is not None for each in targets)
    planned = _number(said, "planned", place)
    if not turns and not planned:
        raise ValueError(f"{place}: there are no replies")
    status = said.get("status", "complete")
    tables = {
        "task": {"prompts": said.get("prompts"), "dataset": said.get("dataset")},
        "model": {"name": said.get("model")},
        "context": {"policy": said.get("policy")},
        "feedback": {"kind": said.get("feedback")},
    }
    known = {name: {k: v for k, v in table.items() if v} for name, table in tables.items()}
    return ImportedSession(
        key=str(said.get("id") or place),
        place=place,
        labels=labels,
        lines=lines,
        experiment=said.get("experiment"),
        arm=said.get("arm"),
        stream=_number(said, "stream", place),
        repeat=_number(said, "repeat", place) or 0,
        status=cast("EndStatus", status) if status in get_args(EndStatus) else None,
        header={
            "system": opening,
            "exemplars": exemplar_lines(messages, asked, shown),
            "seed": _number(said, "seed", place),
            "turns": planned or turns,
            "dataset": {"name": said.get("dataset")},
            "created": str(said.get("created") or ""),
            "settings": {name: table for name, table in known.items() if table},
        },
    )


def _message(message: object, place: str) -> Message:
    try:
        return parse_message(message)
    except ValueError as error:
        raise ValueError(f"{place} {error}") from None


def _number(said: Fields, key: str, place: str) -> int | None:
    """Return a whole number of the metadata, or None."""
    if (value := said.get(key)) is None or value == "":
        return None
    try:
        return int(str(value))
    except ValueError:
        raise ValueError(f"{place}, metadata.{key}: {value!r} is not a whole number") from None


def _line(
    asked: Asked,
    messages: Sequence[Message],
    written: Sequence[Fields],
    target: str | None,
    turn: int,
    labels: Sequence[str],
    prompts: str,
) -> Fields:
    reply = messages[asked.place].text
    known: dict[str, Any] = {"reply": reply}
    if thought := written[asked.place].get("reasoning_content"):
        known["reasoning_text"] = thought
    if target is None:
        return note_line(turn, {**known, "text": reply})
    parsed = parsed_reply(reply, labels, prompts=prompts)
    return turn_line(
        turn, target, parsed, {**known, **question_fields(asked.question), "told": asked.told}
    )
