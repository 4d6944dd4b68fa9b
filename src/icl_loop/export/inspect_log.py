"""Evaluation logs that Inspect reads: a log for each arm, a sample for each session.

The session is the unit of analysis, and its messages are one conversation; so it is the sample, its
stream is the sample's id, and the metrics of a log are over sessions. Each turn is an event of the
model and an event of an intermediate score; notes are events of the model between them. What a request showed is kept as ranges of the
conversation, as in the transcript, so that a log grows linearly.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Image, Message, Reply, Text, Usage, assistant
from icl_loop.core.records import Event as Played
from icl_loop.core.records import Note, Turn
from icl_loop.export import note_messages
from icl_loop.export.selection import Saved
from icl_loop.transcripts import VERSION, Header, Transcript, read

if TYPE_CHECKING:
    from inspect_ai.event import Event
    from inspect_ai.log import EvalLog, EvalResults, EvalSample, EvalSpec
    from inspect_ai.model import ChatMessage, ModelOutput, ModelUsage
    from inspect_ai.scorer import Score

ENDINGS = (".eval", ".json")
_MEASURES = ("late", "accuracy", "early")
"""Scores of a session, the one that is compared first."""
_STOP: Mapping[str, Any] = {
    "stop": "stop",
    "length": "max_tokens",
    "content_filter": "content_filter",
}
_ENDED = frozenset({"complete", "context_full"})
"""How a session ends that was played as far as it could be."""


def write(saved: Saved, place: Path) -> None:
    """Write a log for each arm into the folder `place`, or the log of one arm to a file.

    Raises:
        InputError: Inspect is not installed, or `place` is a file and there are several arms.
    """
    write_eval_log = _writer()
    arms = list(_arms(saved))
    if place.suffix in ENDINGS and len(arms) > 1:
        names = ", ".join(arm.arm for arm in arms)
        raise InputError(f"a log holds one arm, there are {len(arms)}: {names}; name a folder")
    for arm in arms:
        file = place if place.suffix in ENDINGS else place / f"{arm.file_name}.eval"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_eval_log(_log(arm, saved), file)


def _writer() -> Any:  # noqa: ANN401  a function of an extra that may not be there
    try:
        from inspect_ai.log import write_eval_log  # noqa: PLC0415  an extra
    except ImportError:
        raise InputError(
            "inspect_ai is not installed: pip install 'icl-loop[inspect]', or inspect-ai itself"
        ) from None
    return write_eval_log


@dataclass(frozen=True, slots=True)
class Arm:
    """The sessions of an arm of an experiment.

    Attributes:
        experiment: As `analysis.sessions` names it.
        arm: Name of the arm.
        files: Its transcripts.
    """

    experiment: str
    arm: str
    files: tuple[Path, ...]

    @property
    def file_name(self) -> str:
        """A file name that no two arms share."""
        return "_".join(_plain(name) for name in (self.experiment, self.arm))


def _plain(name: str) -> str:
    """Return a name as a part of a file name, with a digest where that takes marks away."""
    plain = "".join(mark if mark.isalnum() or mark in ".-" else "-" for mark in name)[:80]
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return plain if plain == name else f"{plain.strip('.')}-{digest}"


def _arms(saved: Saved) -> Iterator[Arm]:
    for (experiment, arm), part in saved.sessions.group_by(
        "experiment", "arm", maintain_order=True
    ):
        yield Arm(str(experiment), str(arm), tuple(map(Path, part["path"])))


def _log(arm: Arm, saved: Saved) -> "EvalLog":
    from inspect_ai.log import EvalLog, EvalStats  # noqa: PLC0415  an extra

    samples, headers, ended, seen = [], [], [], Counter[int]()
    for file in arm.files:
        transcript = read(file)
        seen[transcript.header.stream] += 1
        samples.append(_sample(transcript, file, seen[transcript.header.stream]))
        headers.append(transcript.header)
        ended.append(transcript.end is not None and transcript.end.status in _ENDED)
        saved.went(1)
    return EvalLog(
        status="success" if all(ended) else "cancelled",
        eval=_spec(arm, headers),
        results=_results(samples),
        stats=EvalStats(
            started_at=min((sample.started_at or "" for sample in samples), default=""),
            completed_at=max((sample.completed_at or "" for sample in samples), default=""),
            model_usage=_summed(samples),
        ),
        samples=samples,
    )


def _spec(arm: Arm, headers: Sequence[Header]) -> "EvalSpec":
    from inspect_ai.log import EvalConfig, EvalDataset, EvalSpec  # noqa: PLC0415  an extra

    first = headers[0]
    name = f"{arm.experiment} / {arm.arm}"
    return EvalSpec(
        eval_id=_key("eval", name, *(header.id for header in headers)),
        run_id=_key("run", arm.experiment, str(first.seed)),
        created=_iso(min(header.created for header in headers)) or _EPOCH,
        task=arm.experiment,
        task_id=_key("task", name),
        task_display_name=name,
        task_args=dict(_flat(first.settings)),
        dataset=EvalDataset(
            name=first.dataset.name,
            samples=len(headers),
            sample_ids=[header.stream for header in headers],
            shuffled=True,
        ),
        model=_model(first),
        config=EvalConfig(epochs=1),
        tags=[arm.arm],
        packages={"icl-loop": VERSION},
        metadata={
            "arm": arm.arm,
            "seed": first.seed,
            "turns": first.turns,
            "labels": first.labels,
            "chance": 1 / len(first.labels) if first.labels else None,
            "dataset_sha256": first.dataset.sha256,
            "dataset_size": first.dataset.size,
            "analysis": first.analysis.model_dump(mode="json"),
        },
    )


def _sample(transcript: Transcript, file: Path, epoch: int) -> "EvalSample":
    from inspect_ai.log import EvalSample, EventsData  # noqa: PLC0415  an extra
    from inspect_ai.model import ModelOutput  # noqa: PLC0415  an extra

    header, turns, model = transcript.header, transcript.turns, _model(transcript.header)
    uuid = _key("sample", str(file), header.id, header.created)
    said = _Said.of(transcript, model)
    said.name(uuid)
    times = [time for time in (_time(event.reply.at) for event in transcript.events) if time]
    began = _time(header.created) or min(times, default=None)
    took = sum(event.reply.latency_s or 0.0 for event in transcript.events)
    return EvalSample(
        id=header.stream,
        epoch=epoch,
        input=said.messages[:2],
        target=[turn.label for turn in turns],
        messages=said.messages,
        output=said.calls[-1].output if said.calls else ModelOutput(),
        scores=dict(_scores(header, turns)),
        metadata={
            "arm": header.arm,
            "stream": header.stream,
            "id": header.id,
            "transcript": file.name,
            "status": transcript.end.status if transcript.end else "unfinished",
            "planned": header.turns,
            "donor": header.donor and header.donor.model_dump(mode="json"),
        },
        events=list(_events(said.calls, model, uuid)),
        events_data=EventsData(messages=said.pool, calls=[]),
        model_usage={model: _usage(_total(transcript.events))},
        started_at=began.isoformat() if began else None,
        completed_at=max(times).isoformat() if times else None,
        total_time=(max(times) - began).total_seconds() if times and began else None,
        working_time=took,
        turn_count=len(turns),
        uuid=uuid,
        limit=_limit(transcript),
    )


Ranges = Sequence[tuple[int, int]]
"""Which messages of the pool a request is made of."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of the model, what came back, and what it was for."""

    event: Played
    showed: Ranges
    output: "ModelOutput"


@dataclass(frozen=True, slots=True)
class _Said:
    """What was said in a session.

    Attributes:
        messages: The conversation, in order, with the requests for notes where they were made.
        pool: The messages that requests are made of: the frame, three for each turn, those about notes.
        calls: The requests, in order.
    """

    messages: "list[ChatMessage]"
    pool: "list[ChatMessage]"
    calls: list[Call]

    @classmethod
    def of(cls, transcript: Transcript, model: str) -> "_Said":
        """Return what was said in the session of this transcript."""
        opening = _chat(Message("system", (Text(transcript.header.system),)), "system")
        said = cls([opening], [opening], [])
        spoken = [_spoken(turn) for turn in transcript.turns]
        for turn, (asked, reply, told) in zip(transcript.turns, spoken, strict=True):
            said.pool.extend((asked, _shown(turn, reply), told))
        standing: Ranges = ()
        for event in transcript.events:
            if isinstance(event, Turn):
                said.messages.extend(spoken[event.index])
                place, reply = 1 + 3 * event.index, spoken[event.index][1]
                asking: Ranges = [(place, place + 1)]
            else:
                asking, reply = said.ask(transcript, event)
            showed = [(0, 1), *standing, *_past(event), *asking]
            said.calls.append(Call(event, showed, _output(event.reply, model, reply)))
            if isinstance(event, Note):
                standing = said.take(_key_of(event), note_messages.shown(transcript, event))
        return said

    def name(self, session: str) -> None:
        """Give every message an id that no other session's message has."""
        for message in {id(each): each for each in (*self.pool, *self.messages)}.values():
            message.id = f"{session}-{message.id}"

    def ask(self, transcript: Transcript, note: Note) -> "tuple[Ranges, ChatMessage]":
        """Add the request for notes and its reply to the conversation, and return them."""
        asking = self.take(f"{_key_of(note)}-question", note_messages.question(transcript))
        reply = _chat(assistant(note.reply.text), f"{_key_of(note)}-reply")
        self.messages.extend((*(self.pool[place] for place, _ in asking), reply))
        return asking, reply

    def take(self, key: str, messages: Sequence[Message]) -> Ranges:
        """Add messages about notes to the pool, and return where they are."""
        start = len(self.pool)
        self.pool.extend(_chat(message, key) for message in messages)
        return [(place, place + 1) for place in range(start, len(self.pool))]


def _past(event: Played) -> Ranges:
    """Return where the past turns are that a request showed."""
    return [(1 + 3 * first, 4 + 3 * last) for first, last in event.kept]


def _spoken(turn: Turn) -> "list[ChatMessage]":
    """Return question, reply and what was told."""
    about = {"turn": turn.index, "sample": turn.sample, "label": turn.label}
    how = {"answer": turn.answer, "outcome": turn.outcome, "correct": turn.feedback.correct}
    question, _, told = turn.messages
    return [
        _chat(question, f"{turn.index}-question", about),
        _chat(assistant(turn.reply.text), f"{turn.index}-reply", {"turn": turn.index, **how}),
        _chat(told, f"{turn.index}-told", {"turn": turn.index}),
    ]


def _shown(turn: Turn, reply: "ChatMessage") -> "ChatMessage":
    """Return the reply as later requests show it."""
    if turn.echo is None:
        return reply
    return _chat(assistant(turn.echo), f"{turn.index}-echo", {"turn": turn.index})


def _chat(message: Message, key: str, about: dict[str, Any] | None = None) -> "ChatMessage":
    from inspect_ai.model import (  # noqa: PLC0415  an extra
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
    )

    kinds = {
        "system": ChatMessageSystem,
        "user": ChatMessageUser,
        "assistant": ChatMessageAssistant,
    }
    content = [_content(part) for part in message.parts] if message.is_seen else message.text
    made: ChatMessage = kinds[message.role](id=key, content=content, metadata=about)
    return made


def _content(part: Text | Image) -> Any:  # noqa: ANN401  a class of an extra
    from inspect_ai.model import ContentImage, ContentText  # noqa: PLC0415  an extra

    if isinstance(part, Text):
        return ContentText(text=part.text)
    return ContentImage(image="data:image/png;base64," + base64.b64encode(part.png).decode())


def _output(given: Reply, model: str, reply: "ChatMessage") -> "ModelOutput":
    from inspect_ai.model import ChatCompletionChoice, ModelOutput  # noqa: PLC0415  an extra

    served = given.served
    return ModelOutput(
        model=(served and served.model) or model,
        choices=[ChatCompletionChoice(message=reply, stop_reason=_STOP[given.finish])],
        usage=_usage(given.usage),
        time=given.latency_s,
    )


def _events(calls: Iterable[Call], model: str, session: str) -> "Iterator[Event]":
    """Yield for each turn the call of the model and the judgement, for notes the call alone."""
    from inspect_ai.event import ModelEvent, ScoreEvent  # noqa: PLC0415  an extra
    from inspect_ai.model import GenerateConfig  # noqa: PLC0415  an extra

    worked = 0.0
    for call in calls:
        event, reply = call.event, call.event.reply
        took, key = reply.latency_s or 0.0, f"{session}-{_key_of(event)}"
        done = _time(reply.at) or datetime.fromisoformat(_EPOCH)
        yield ModelEvent(
            uuid=f"{key}-model",
            timestamp=done - timedelta(seconds=took),
            working_start=worked,
            working_time=took,
            completed=done,
            model=model,
            input=[],
            input_refs=list(call.showed),
            tools=[],
            tool_choice="auto",
            config=GenerateConfig(),
            output=call.output,
            retries=reply.attempts - 1,
            metadata={**_about(event), "request": event.request, "overflows": event.overflows},
        )
        worked += took
        if isinstance(event, Turn):
            yield ScoreEvent(
                uuid=f"{key}-score",
                timestamp=done,
                working_start=worked,
                score=_judgement(event),
                target=event.label,
                intermediate=True,
                scorer="turn",
            )


def _key_of(event: Played) -> str:
    return str(event.index) if isinstance(event, Turn) else f"{event.after_turn}-notes"


def _about(event: Played) -> dict[str, Any]:
    """Return which turn it was, or after which of them the notes were written, and what was kept."""
    if isinstance(event, Turn):
        return {"turn": event.index}
    return {"notes_after_turn": event.after_turn, "notes": event.text}


def _judgement(turn: Turn) -> "Score":
    from inspect_ai.scorer import CORRECT, INCORRECT, Score  # noqa: PLC0415  an extra

    return Score(
        value=CORRECT if turn.feedback.correct else INCORRECT,
        answer=turn.answer,
        explanation=turn.feedback.told,
        reason=None if turn.outcome == "ok" else turn.outcome,
        metadata={"turn": turn.index, "outcome": turn.outcome},
    )


def _scores(header: Header, turns: Sequence[Turn]) -> "Iterator[tuple[str, Score]]":
    """Yield the accuracies of a session by name; without a turn there is none."""
    from inspect_ai.scorer import Score  # noqa: PLC0415  an extra

    early = min(max(header.turns // 10, 1), 20)
    parts = {"late": turns[header.turns // 2 :], "accuracy": turns, "early": turns[:early]}
    answered = ", ".join(turn.answer or "–" for turn in turns)
    by_turn = {
        "correct": [turn.feedback.correct for turn in turns],
        "answer": [turn.answer for turn in turns],
        "outcome": [turn.outcome for turn in turns],
    }
    for name in _MEASURES:
        right = [turn.feedback.correct for turn in parts[name]]
        score = Score(
            value=fmean(right) if right else math.nan,
            answer=answered,
            explanation=f"{sum(right)} of {len(right)} turns right",
            metadata=by_turn if name == "accuracy" else None,
        )
        yield name, score


def _results(samples: Sequence["EvalSample"]) -> "EvalResults":
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore  # noqa: PLC0415  an extra

    scores = []
    for name in _MEASURES:
        values = [sample.scores[name].as_float() for sample in samples if sample.scores]
        known = [value for value in values if not math.isnan(value)]
        metrics = {"mean": fmean(known)} if known else {}
        if len(known) > 1:
            metrics["stderr"] = stdev(known) / math.sqrt(len(known))
        scores.append(
            EvalScore(
                name=name,
                scorer=name,
                scored_samples=len(known),
                unscored_samples=len(values) - len(known),
                metrics={key: EvalMetric(name=key, value=value) for key, value in metrics.items()},
            )
        )
    return EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=scores)


def _limit(transcript: Transcript) -> Any:  # noqa: ANN401  a class of an extra, or None
    from inspect_ai.log import EvalSampleLimit  # noqa: PLC0415  an extra

    status = transcript.end.status if transcript.end else None
    kinds: Mapping[str | None, Any] = {
        "context_full": "context",
        "budget": "token",
        "stopped": "operator",
    }
    if status not in kinds:
        return None
    return EvalSampleLimit(type=kinds[status], limit=len(transcript.turns), reason=status)


def _total(events: Iterable[Played]) -> Usage:
    usages = [event.reply.usage for event in events]
    return Usage(
        prompt=sum(usage.prompt for usage in usages),
        cached=sum(usage.cached for usage in usages),
        completion=sum(usage.completion for usage in usages),
        reasoning=sum(usage.reasoning for usage in usages),
    )


def _usage(usage: Usage) -> "ModelUsage":
    """Return token counts; what came from the cache is counted apart from the input."""
    from inspect_ai.model import ModelUsage  # noqa: PLC0415  an extra

    return ModelUsage(
        input_tokens=usage.prompt - usage.cached,
        output_tokens=usage.completion,
        total_tokens=usage.prompt + usage.completion,
        input_tokens_cache_read=usage.cached,
        reasoning_tokens=usage.reasoning,
    )


def _summed(samples: Iterable["EvalSample"]) -> "dict[str, ModelUsage]":
    summed: dict[str, ModelUsage] = {}
    for sample in samples:
        for model, usage in sample.model_usage.items():
            summed[model] = summed[model] + usage if model in summed else usage
    return summed


def _model(header: Header) -> str:
    """Return the name of the model."""
    found = header.settings.get("model")
    name = found.get("name") if isinstance(found, dict) else None
    return name if isinstance(name, str) and name else "unknown"


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings by the keys that `--set` knows them by."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _key(*said: str) -> str:
    """Return 22 marks that stand for what is said: the same whenever it is exported."""
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:22]


_EPOCH = "1970-01-01T00:00:00+00:00"
"""Stands where a transcript does not say when."""


def _time(text: str | None) -> datetime | None:
    """Return a time, None where the text is none."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _iso(text: str | None) -> str | None:
    time = _time(text)
    return time.isoformat() if time else None
