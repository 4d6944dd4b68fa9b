"""Verification: a saved session derived again from its settings, the data and the recorded replies.

What differs first is named, and why: what the file says of itself is held against itself, then
against this version, these data and these settings.
"""

import asyncio
import json
import os
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from icl_loop.context.window import TokenTotals, Window, shown_in
from icl_loop.core.errors import (
    ContextFull,
    DatasetError,
    IclLoopError,
    InputError,
    ReplayMismatch,
    TranscriptError,
)
from icl_loop.core.messages import Message, system, user
from icl_loop.core.records import Event, Feedback, Note, Probe, Turn
from icl_loop.experiment import DonorNotFound, Session, donor_of
from icl_loop.loop import events, hear, history_of, probe, recall
from icl_loop.models import ReplayModel
from icl_loop.replay.rescoring import prompts_of, read_again, rule_of
from icl_loop.tasks.answers import AnswerRule
from icl_loop.tasks.prompts import open_prompt_set, shipped
from icl_loop.transcripts import (
    VERSION,
    Header,
    Transcript,
    compare,
    identity,
    read,
    read_header,
    shared_lines,
    turns_before,
    whole_lines,
)
from icl_loop.transcripts.checksum import without_checksum

Cause = Literal["settings", "data", "donor", "version", "edited"]
"""Why a session does not replay."""

IN_WORDS: Mapping[Cause, str] = {
    "settings": "other settings",
    "data": "other data",
    "donor": "another donor",
    "version": "another version",
    "edited": "edited by hand",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in which a saved session is not what is derived again.

    Attributes:
        turn: The turn, or None where it is no turn's.
        what: What was saved, and what it is now.
        cause: Why.
        since: What tells so.
    """

    turn: int | None
    what: str
    cause: Cause
    since: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of verifying a transcript.

    Attributes:
        path: The file.
        turns: Whole turns in it.
        ended: Whether it says how it ended.
        difference: The first difference, None if it replays.
    """

    path: Path
    turns: int
    ended: bool
    difference: Difference | None = None

    def fields(self) -> dict[str, Any]:
        """Return it as the stable JSON of `replay --verify --json`."""
        found = self.difference
        return {
            "path": str(self.path),
            "turns": self.turns,
            "ended": self.ended,
            "replays": found is None,
            "difference": found
            and {
                "turn": found.turn,
                "what": found.what,
                "cause": found.cause,
                "since": found.since,
            },
        }


async def verify(transcript: Transcript) -> int:
    """Derive every turn of a saved session again and return how many there are.

    Requests, questions, readings, judgements and told words are rebuilt from the recorded
    settings, the data and the recorded replies; those that a branch shares, from the settings of
    the session that they were played in.

    Raises:
        ReplayMismatch: Something differs; names the first turn and the field.
        InputError: The settings cannot be followed, or the data are not the same.
    """
    for header, part in _parts(transcript):
        await _derive(transcript, header, part)
    end, played = transcript.end, len(transcript.turns)
    if end is not None and end.turns != played:
        raise ReplayMismatch(
            end.turns, f"the end line counts {end.turns} turns, there are {played}"
        )
    if end is not None and end.status == "complete" and played < transcript.header.turns:
        raise ReplayMismatch(
            played,
            f"it is said to be complete, but has {played} of {transcript.header.turns} turns",
        )
    return played


async def examine(path: Path) -> Finding:
    """Verify the transcript at `path`, and find out why it does not replay if it does not.

    Raises:
        TranscriptError: The file does not begin as a transcript does.
    """
    read_header(path)
    try:
        transcript = read(path)
    except TranscriptError as error:
        what = str(error).removeprefix(f"{path}, ")
        since = "lines are only ever appended, each whole and in its order"
        return Finding(path, 0, False, Difference(None, what, "edited", since))
    difference = _misnamed(transcript) or await _difference(transcript)
    return Finding(path, len(transcript.turns), transcript.end is not None, difference)


async def _difference(transcript: Transcript) -> Difference | None:
    try:
        await verify(transcript)
    except ReplayMismatch as error:
        return _explained(transcript, error)
    except IclLoopError as error:
        return _unfollowed(transcript, error)
    return None


# ---- deriving again ----------------------------------------------------------------------


def _parts(transcript: Transcript) -> Iterator[tuple[Header, range]]:
    """Yield the headers under which a session was played, the earliest first, each with its part.

    A part is of numbers of turns played: whatever was asked after so many was asked under its header.
    """
    headers = [transcript.header]
    while (parent := headers[-1].parent) is not None:
        headers.append(parent)
    starts = [header.branch.at if header.branch else 0 for header in headers]
    for place in reversed(range(len(headers))):
        stop = min([len(transcript.turns) + 1, *starts[:place]])
        if starts[place] < stop or place == 0:
            yield headers[place], range(starts[place], stop)


async def _derive(transcript: Transcript, header: Header, part: range) -> None:
    """Derive the turns, notes and probes that were played under a header."""
    session = _session_of(header, transcript)
    begun = [event for event in transcript.events if turns_before(event) < part.start]
    mine = [event for event in transcript.events if turns_before(event) in part]
    playing = events(session.task, ReplayModel(mine), session.policy, session.window, begun=begun)
    rule = _new_rule(transcript.header)
    for saved in mine:
        played = await _next_of(playing, saved)
        compare(saved, played if rule is None else _turn_again(played, header, rule))
        _check_usage(saved)
    await _derive_probes(transcript, header, part, session)


def _check_usage(saved: Event) -> None:
    """Raise ReplayMismatch if less than nothing was used; more cannot be known here."""
    usage = saved.reply.usage
    if min(usage.prompt, usage.cached, usage.completion, usage.reasoning) < 0:
        raise ReplayMismatch(turns_before(saved), f"usage is {usage}", "usage")


async def _next_of(playing: AsyncIterator[Event], saved: Event) -> Event:
    """Return what is played next, which was saved."""
    try:
        return await anext(playing)
    except StopAsyncIteration:
        raise ReplayMismatch(turns_before(saved), "the session is over before it") from None
    except ContextFull as error:
        raise ReplayMismatch(turns_before(saved), f"now {error}") from None


async def _derive_probes(
    transcript: Transcript, header: Header, part: range, session: Session
) -> None:
    """Derive the probes that were asked under a header, and see that none that was due is missing."""
    mine = [each for each in transcript.probes if each.after_turn in part]
    rule = _new_rule(transcript.header)
    history = history_of(session.task, session.policy, session.window)
    coming = deque(transcript.events)
    for saved in sorted(mine, key=lambda each: each.after_turn):
        (sample,) = [each for each in session.task.probes if each.id == saved.sample] or (None,)
        if sample is None:
            raise ReplayMismatch(saved.after_turn, f"{saved.sample} is no probe of this session")
        while coming and turns_before(coming[0]) < saved.after_turn:
            hear(history, session.policy, coming.popleft())
        replay = ReplayModel([saved])
        again = await probe(session.task, replay, session.policy, history, sample, session.window)
        if (again if rule is None else _probe_again(again, header, rule)) != saved:
            what = f"the probe {saved.sample} is judged otherwise now"
            raise ReplayMismatch(saved.after_turn, what, "probe")
    _miss_none(session, transcript, part, {(each.after_turn, each.sample) for each in mine})


def _miss_none(
    session: Session, transcript: Transcript, part: range, asked: set[tuple[int, str]]
) -> None:
    """Raise ReplayMismatch if a probe was not asked though the session went on after it.

    Where the window is full at last, it may be a probe that it has no room for.
    """
    is_whole = transcript.end is not None and transcript.end.status == "complete"
    due = part if is_whole else part[: len(transcript.turns) - part.start]
    for after in session.task.checkpoints:
        if after in due:
            for sample in session.task.probes:
                if (after, sample.id) not in asked:
                    raise ReplayMismatch(after, f"the probe {sample.id} is missing", "probe")


def _session_of(header: Header, transcript: Transcript) -> Session:
    """Return the session that a header describes, whose frame must be what it says.

    A transcript whose replies were read again was played under the settings of its source.
    """
    source = header.source
    played = header if source is None else header.model_copy(update={"settings": source.settings})
    session = Session.of(played, donor_of(header, transcript.path))
    rebuilt = replace(session, branch=None).header()
    for name in ("labels", "system"):
        was, now = getattr(header, name), getattr(rebuilt, name)
        if was != now:
            raise ReplayMismatch(0, f"{name} was {was!r}, is now {now!r}", name)
    return session


# ---- replies that were read again --------------------------------------------------------


def _new_rule(header: Header) -> AnswerRule | None:
    """Return the rule by which saved replies were read again, None if they were not."""
    return None if header.source is None else rule_of(header.settings)


def _turn_again(event: Event, header: Header, rule: AnswerRule) -> Event:
    """Return a turn with its reply read by another rule; what was told stays as it was."""
    if isinstance(event, Note):
        return event
    reading = read_again(event.reply, header, rule)
    judged = Feedback(reading.answer == event.label, event.feedback.told)
    return replace(event, answer=reading.answer, outcome=reading.outcome, feedback=judged)


def _probe_again(asked: Probe, header: Header, rule: AnswerRule) -> Probe:
    reading = read_again(asked.reply, header, rule)
    right = reading.answer == asked.label
    return replace(asked, answer=reading.answer, outcome=reading.outcome, correct=right)


# ---- what the file says of itself --------------------------------------------------------


def _misnamed(transcript: Transcript) -> Difference | None:
    """Return the first difference between the first line and the digests that it holds."""
    lines = whole_lines(transcript.path)
    said, shared = json.loads(lines[0]), transcript.header.branch
    while said is not None:
        was, now = said.get("id"), identity(said)
        if was != now:
            since = "an id is the digest of what the first line says"
            return Difference(None, f"the id was {was}, is now {now}", "edited", since)
        said = (said.get("branch") or {}).get("parent")
    if shared is None or transcript.header.source is not None:
        return None
    digest = sha256(b"".join(map(without_checksum, shared_lines(lines, shared.at)))).hexdigest()
    if digest == shared.sha256:
        return None
    what = f"the {shared.at} turns shared with the parent are not those that it shared"
    return Difference(None, what, "edited", "their SHA-256 is another")


def _contradictions(transcript: Transcript) -> Iterator[str]:
    """Yield in words where the file contradicts itself, whatever this version would play."""
    for turn in transcript.turns:
        if turn.feedback.correct != (turn.answer == turn.label):
            yield (
                f"turn {turn.index} has the label {turn.label!r} and the answer {turn.answer!r},"
                f" and correct is {turn.feedback.correct}"
            )
    yield from _other_requests(transcript)
    if transcript.header.branch is None:
        yield from _other_calibrations(transcript.turns)


def _other_requests(transcript: Transcript) -> Iterator[str]:
    """Yield the turns whose fingerprint is not that of the texts their requests showed."""
    vouched: set[int] = set()
    for turn, notes in _with_notes(transcript):
        header = transcript.header.at(turn.index)
        if any(not 0 <= first <= last < turn.index for first, last in turn.kept):
            yield f"the request of turn {turn.index} shows turns that were not played before it"
            return
        opening, shown = _opening(header, notes), shown_in(turn.kept)
        if opening is None:
            continue
        frame = system(header.system)
        request = recall(frame, transcript.turns, shown, turn.question, opening)
        if request.fingerprint != turn.request:
            fresh = sorted(set(shown) - vouched)
            among = (
                f"; of what it showed, none before vouches for turn {fresh[-1]}" if fresh else ""
            )
            yield (
                f"the request of turn {turn.index} has another fingerprint than the texts that the"
                f" file says it showed{among}"
            )
            return
        vouched.update(shown)


def _with_notes(transcript: Transcript) -> Iterator[tuple[Turn, list[Note]]]:
    """Yield each turn with the notes that were taken before it."""
    notes: list[Note] = []
    for event in transcript.events:
        if isinstance(event, Note):
            notes.append(event)
        else:
            yield event, notes


def _opening(header: Header, notes: Sequence[Note]) -> tuple[Message, ...] | None:
    """Return how requests show the latest note, None if another version may do it otherwise."""
    if not notes or not notes[-1].text.strip():
        return ()
    if header.icl_loop != VERSION:
        return None
    try:
        words = open_prompt_set(prompts_of(header)).notes
    except InputError:
        return None
    return None if words is None else (user(words.show(notes[-1].text)),)


def _other_calibrations(turns: Sequence[Turn]) -> Iterator[str]:
    """Yield the turn whose calibration does not follow from the tokens of the turns before it."""
    tally = TokenTotals(Window(), 0)
    for turn in turns:
        if turn.counted is None:
            return
        if turn.calibration != tally.calibration:
            yield f"the calibration of turn {turn.index} does not follow from the tokens before it"
            return
        if turn.reply.usage.prompt:
            tally.ratios.append(turn.reply.usage.prompt / turn.counted)


# ---- why ---------------------------------------------------------------------------------

_TEXTS = frozenset({"question", "reply", "told", "echo", "text"})
"""Fields whose texts are shown by requests."""


def _explained(transcript: Transcript, found: ReplayMismatch) -> Difference:
    """Return the difference with its cause: what the file says of itself is heard first."""
    turn = None if found.field in ("labels", "system") else found.turn

    def difference(cause: Cause, since: str) -> Difference:
        return Difference(turn, found.what, cause, since)

    header = transcript.header.at(found.turn)
    contradiction = next(_contradictions(transcript), None)
    if contradiction is not None:
        return difference("edited", contradiction)
    version = _version(header)
    if version != VERSION:
        since = f"it was played by icl_loop {version}, this is {VERSION}, and the file does not contradict itself"
        return difference("version", since)
    prompts = prompts_of(header)
    vouched = found.field in ("labels", "system", "request") or _is_vouched_for(transcript, found)
    if vouched and prompts not in shipped():
        return difference(
            "settings", f"the fingerprints agree, and {prompts} is a file that can change"
        )
    if found.field in ("labels", "system"):
        return difference("settings", "the settings that were recorded give another frame now")
    if vouched:
        since = (
            f"the fingerprints agree, and so does the version, {VERSION}: the program, or a library"
            " it stands on, was changed"
        )
        return difference("version", since)
    since = (
        "version, data and settings are those it was played with, and no fingerprint vouches for it"
    )
    return difference("edited", since)


def _version(header: Header) -> str:
    return header.icl_loop if header.source is None else header.source.icl_loop


def _is_vouched_for(transcript: Transcript, found: ReplayMismatch) -> bool:
    """Whether the field that differs is a text that a request showed, its own or a later one."""
    if found.field == "question":
        return True
    later = transcript.turns[found.turn + 1 :]
    shows = (first <= found.turn <= last for each in later for first, last in each.kept)
    return found.field in _TEXTS and any(shows)


def _unfollowed(transcript: Transcript, error: IclLoopError) -> Difference:
    """Return why a session cannot be derived again at all."""
    contradiction = next(_contradictions(transcript), None)
    if contradiction is not None:
        return Difference(None, contradiction, "edited", "the file contradicts itself")
    version = _version(transcript.header)
    played_by = "this version" if version == VERSION else f"icl_loop {version}"
    if isinstance(error, DonorNotFound):
        since = "a yoked session is told what its donor was told"
        return Difference(None, str(error), "donor", since)
    if isinstance(error, DatasetError):
        return Difference(None, str(error), "data", "the samples are not in the transcript")
    if isinstance(error, InputError):
        since = f"it was played by {played_by}; this is {VERSION}"
        return Difference(None, str(error), "settings", since)
    return Difference(None, str(error), "version", "the file does not contradict itself")


# ---- many sessions -----------------------------------------------------------------------

MANY = 40_000
"""Turns from which on several processes take less time than one."""


def examine_all(
    paths: Sequence[Path],
    on_each: Callable[[Finding], None] = lambda _: None,
    *,
    jobs: int | None = None,
) -> list[Finding]:
    """Verify the transcripts at `paths`, in several processes where that is worth it.

    Those of one stream are verified one after another, since they ask the same questions.

    Args:
        paths: The files.
        on_each: Called with each finding, in no order that matters.
        jobs: Processes; as many as there are cores, up to four, for `MANY` turns, if None.

    Raises:
        TranscriptError: A file does not begin as a transcript does.
    """
    headers = {path: read_header(path) for path in paths}
    groups = defaultdict(list)
    for path, header in headers.items():
        groups[header.dataset.name, header.seed, header.stream].append(path)
    if jobs is None:
        many = sum(header.turns for header in headers.values()) >= MANY
        jobs = min(os.cpu_count() or 1, len(groups), 4) if many else 1
    found: dict[Path, Finding] = {}

    def take(findings: Iterable[Finding]) -> None:
        for finding in findings:
            found[finding.path] = finding
            on_each(finding)

    if jobs == 1:
        for group in groups.values():
            take(map(_examined, group))
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for findings in pool.map(_examined_group, groups.values()):
                take(findings)
    return [found[path] for path in paths]


def _examined(path: Path) -> Finding:
    return asyncio.run(examine(path))


def _examined_group(paths: Sequence[Path]) -> list[Finding]:
    return [_examined(path) for path in paths]
