"""Verification: play saved sessions again from their settings, data and replies, and compare.

A session that does not replay is reported by its first difference: the turn and field with the
expected and the found value, or the settings, data, donor or checksum that differ.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from icl_loop.context.policy import unknown_functions
from icl_loop.context.window import Shown, from_spans
from icl_loop.core.errors import (
    ChecksumMismatch,
    ContextFull,
    DatasetError,
    IclLoopError,
    ReplayMismatch,
    TranscriptError,
)
from icl_loop.core.records import Choice, Event, Note, Probe, Turn
from icl_loop.experiment import Session
from icl_loop.experiment.answer_settings import recorded_rule
from icl_loop.experiment.donors import DonorNotFound, find_donor
from icl_loop.experiment.sessions import Branch
from icl_loop.models import ReplayModel
from icl_loop.replay.rescoring import score_again
from icl_loop.runner.session import play_session
from icl_loop.transcripts import Header, Transcript, read, read_header
from icl_loop.transcripts.checksum import without_checksum
from icl_loop.transcripts.comparison import compare
from icl_loop.transcripts.header import VERSION, identity
from icl_loop.transcripts.reader import shared_lines, whole_lines
from icl_loop.transcripts.schema import turns_before

Cause = Literal["content", "settings", "data", "donor", "checksum", "format"]
"""Which part of a saved session differs."""

_CAUSES: Sequence[tuple[type[IclLoopError], Cause]] = (
    (ReplayMismatch, "content"),
    (DonorNotFound, "donor"),
    (DatasetError, "data"),
    (ChecksumMismatch, "checksum"),
    (TranscriptError, "format"),
    (IclLoopError, "settings"),
)
"""The cause of each error, the most specific error first."""

_PARALLEL_FROM = 40_000
"""Turns from which several processes are faster than one."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between a saved session and its replay.

    Attributes:
        cause: Which part differs: `content` is a recorded turn, note or probe, `format` a line that
            is missing, misplaced or malformed.
        message: The difference as a sentence.
        turn: The turn, or the number of turns before a note or probe, if one is concerned.
        field: The field of the transcript, if one is concerned.
        expected: The value that the replay gives.
        found: The value in the transcript.
    """

    cause: Cause
    message: str
    turn: int | None = None
    field: str | None = None
    expected: object = None
    found: object = None


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of verifying one transcript: its complete turns, and the first difference if any.

    `ended` says whether the transcript has an end line.
    """

    path: Path
    turns: int
    ended: bool
    difference: Difference | None = None

    def fields(self) -> dict[str, Any]:
        """Return the finding as the JSON object that `replay --verify --json` prints."""
        replays = self.difference is None
        return {**asdict(self), "path": str(self.path), "replays": replays}


async def verify(transcript: Transcript) -> int:
    """Replay a saved session, compare every turn, note and probe, and return the number of turns.

    The turns that a branch shares with its parent are replayed under the parent's settings.

    Raises:
        ReplayMismatch: Something differs; names the first turn and field.
        InputError: The settings are not valid here, or the data or the donor differ.
    """
    transcript.header.check_replayable(transcript.path)
    for header, segment in _segments(transcript):
        await _replay(transcript, header, segment)
    end, played = transcript.end, len(transcript.turns)
    if end is not None and end.turns != played:
        raise ReplayMismatch(played, "end.turns", expected=played, found=end.turns)
    return played


async def examine(path: Path) -> Finding:
    """Verify the transcript at `path` and return the finding.

    Raises:
        TranscriptError: The first line is not the header of a transcript.
    """
    header, transcript, difference = read_header(path), None, None
    header.check_replayable(path)
    try:
        transcript = read(path)
        _check_digests(transcript)
        await verify(transcript)
    except IclLoopError as error:
        difference = _difference(error, path, header)
    if transcript is None:
        return Finding(path, 0, ended=False, difference=difference)
    return Finding(path, len(transcript.turns), transcript.end is not None, difference)


def _difference(error: IclLoopError, path: Path, header: Header) -> Difference:
    cause = next(cause for kind, cause in _CAUSES if isinstance(error, kind))
    message = str(error).removeprefix(f"{path}, ")
    version = header.source.icl_loop if header.source else header.icl_loop
    if version != VERSION:
        message += f" (played by icl_loop {version}, verified by {VERSION})"
    if not isinstance(error, ReplayMismatch):
        return Difference(cause, message)
    cause = "settings" if error.turn is None else cause
    return Difference(cause, message, error.turn, error.field, error.expected, error.found)


def _check_digests(transcript: Transcript) -> None:
    """Raise ChecksumMismatch if a header does not match its id, or shared turns their SHA-256."""
    lines = whole_lines(transcript.path)
    header, branch = json.loads(lines[0]), transcript.header.branch
    while header is not None:
        if header.get("id") != identity(header):
            raise ChecksumMismatch(
                f"the header does not match its id: expected {identity(header)},"
                f" found {header.get('id')}"
            )
        header = (header.get("branch") or {}).get("parent")
    if branch is None or transcript.header.source is not None:
        return
    shared = b"".join(map(without_checksum, shared_lines(lines, branch.at)))
    if sha256(shared).hexdigest() != branch.sha256:
        raise ChecksumMismatch(
            f"the {branch.at} turns shared with the parent do not match their SHA-256"
        )


def _segments(transcript: Transcript) -> Iterator[tuple[Header, range]]:
    """Yield each header that a session was played under, the oldest first, with its turns.

    Notes and probes belong to the segment that contains the number of turns before them.
    """
    header: Header | None = transcript.header
    stop, segments = len(transcript.turns) + 1, list[tuple[Header, range]]()
    while header is not None:
        start = header.branch.at if header.branch else 0
        if start < stop or not segments:
            segments.append((header, range(start, stop)))
        stop, header = min(stop, start), header.parent
    return reversed(segments)


async def _replay(transcript: Transcript, header: Header, segment: range) -> None:
    """Play a segment again with the saved replies, and compare it with what was saved."""
    begun = tuple(event for event in transcript.events if turns_before(event) < segment.start)
    entries = (*transcript.probes, *transcript.events)
    saved = [entry for entry in entries if turns_before(entry) in segment]
    saved.sort(key=lambda entry: (turns_before(entry), isinstance(entry, Turn)))  # as played
    session = _session(header, transcript, begun)
    shown: list[Shown] = []
    if own := unknown_functions(session.policy):  # show what was shown, as they cannot be called
        session = replace(session, functions=dict.fromkeys(own, lambda _: shown[0]))
    playing = play_session(session, begun, ReplayModel(saved))
    for _ in begun:
        await anext(playing)
    rule = None
    if transcript.header.source:
        rule = recorded_rule(transcript.header.settings)
    for entry in saved:
        shown[:] = [from_spans(entry.kept)]
        played = await _next_entry(playing, entry)
        if rule is not None and not isinstance(played, Note | Choice):
            played = score_again(played, header, rule)
        compare(entry, played)
        usage = entry.reply.usage
        if min(usage.prompt, usage.cached, usage.completion, usage.reasoning) < 0:
            raise ReplayMismatch(turns_before(entry), "usage", "counts >= 0", usage)
    if transcript.end and transcript.end.status == "complete" and header is transcript.header:
        async for _ in playing:  # raises ReplayMismatch where a saved reply is missing
            pass


async def _next_entry(playing: AsyncIterator[Event | Probe], saved: Event | Probe) -> Event | Probe:
    try:
        return await anext(playing)
    except (StopAsyncIteration, ContextFull) as error:
        status = "context_full" if isinstance(error, ContextFull) else "complete"
        found = type(saved).__name__.lower()
        raise ReplayMismatch(turns_before(saved), "type", f"end ({status})", found) from None


def _session(header: Header, transcript: Transcript, begun: tuple[Event, ...]) -> Session:
    """Return the session of a header; raise ReplayMismatch if its labels or system message differ."""
    branch = Branch(header.branch, (), begun) if header.branch else None
    session = Session.of(header, find_donor(header, transcript.path), branch)
    session.check_dataset(header.dataset)
    replayed = session.header()
    for name in ("labels", "system", "exemplars"):
        found, expected = getattr(header, name), getattr(replayed, name)
        if found != expected:
            raise ReplayMismatch(None, name, expected=expected, found=found)
    return session


def examine_all(
    paths: Sequence[Path],
    on_each: Callable[[Finding], None] = lambda _: None,
    *,
    jobs: int | None = None,
) -> list[Finding]:
    """Verify transcripts, those of one stream in a row because they share cached questions.

    Args:
        paths: The files.
        on_each: Called with each finding, in any order.
        jobs: Number of processes; if None, one for fewer than 40,000 turns, else up to four.

    Raises:
        TranscriptError: The first line of a file is not the header of a transcript.
    """
    headers = {path: read_header(path) for path in paths}
    if jobs is None:
        many = sum(header.turns for header in headers.values()) >= _PARALLEL_FROM
        jobs = min(os.cpu_count() or 1, 4) if many else 1

    def stream(path: Path) -> tuple[str | None, int | None, int]:
        return headers[path].dataset.name, headers[path].seed, headers[path].stream

    findings: dict[Path, Finding] = {}
    with ExitStack() as stack:
        examine_each: Callable[..., Iterator[Finding]] = map
        if jobs > 1:
            pool = stack.enter_context(ProcessPoolExecutor(jobs, get_context("spawn")))
            examine_each = partial(pool.map, chunksize=-(-len(paths) // (4 * jobs)))
        for finding in examine_each(_examine, sorted(paths, key=stream)):
            findings[finding.path] = finding
            on_each(finding)
    return [findings[path] for path in paths]


def _examine(path: Path) -> Finding:
    return asyncio.run(examine(path))
