"""Full, removed, damaged and killed: saved turns are kept, and damage is reported."""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment, session, transcripts_of, without_checksum
from icl_loop.analysis import frame
from icl_loop.core.errors import IclLoopError, StoppedShort, TranscriptError
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment, Session
from icl_loop.loop import play
from icl_loop.models import ReplayModel
from icl_loop.models.callable_model import CallableModel
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run
from icl_loop.transcripts import Transcript, TranscriptWriter, read
from icl_loop.transcripts.checksum import verified, with_checksum
from icl_loop.transcripts.durable_append import DurableAppender
from icl_loop.transcripts.files import MAX_LINE

T = TypeVar("T")

# ---- disks that refuse -------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """A folder with little space, which can be enlarged."""

    folder: Path
    grow: Callable[[], object]


def mounted(folder: Path, options: str) -> bool:
    """Mount or remount a disk in memory; return whether that is permitted."""
    command = shutil.which("mount")
    if command is None:
        return False
    kind = [command, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(kind, check=False, capture_output=True).returncode == 0


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Disk]:
    """Provide a disk of `size` bytes, or limit the size of files if none may be mounted."""
    folder.mkdir()
    if mounted(folder, f"size={size}"):
        try:
            yield Disk(folder, lambda: mounted(folder, "remount,size=64m"))
        finally:
            subprocess.run([str(shutil.which("umount")), str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    quiet = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 4, before[1]))
    try:
        yield Disk(folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, quiet)


def chance(**changes: object) -> Experiment:
    """Return an experiment of three short sessions of a guessing model."""
    return experiment(streams=3, turns=12, model={"name": "simulated/chance"}, **changes)


async def whole(folder: Path) -> dict[str, bytes]:
    """Return the transcripts of an undisturbed run."""
    return transcripts_of((await Run(chance(), folder).play()).folder)


@pytest.mark.parametrize("pages", [1, 4, 7, 9])
async def test_a_full_disk_keeps_what_was_saved(tmp_path: Path, pages: int) -> None:
    """A run stops with an error on a full disk; with more space it resumes as if undisturbed."""
    with small_disk(tmp_path / "disk", pages * 4096) as disk:
        stopped = await Run(chance(), disk.folder).play()
        assert stopped.stopped
        assert all("cannot be written" in str(stop.reason) for stop in stopped.stopped)
        assert all("run again to resume" in str(stop.reason) for stop in stopped.stopped)
        disk.grow()
        assert (await Run(chance(), disk.folder).play()).complete
        assert transcripts_of(disk.folder / "small") == await whole(tmp_path / "whole")


async def test_a_read_only_disk_is_an_error(tmp_path: Path) -> None:
    """On a read-only disk a run fails before the first request, and analysis works."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=4m"):
        pytest.skip("no disk may be mounted here")
    try:
        await Run(experiment(streams=2), folder).play()
        before = transcripts_of(folder / "small")
        assert mounted(folder, "remount,ro")
        with pytest.raises(StoppedShort, match=r"cannot write to .*: Read-only file system"):
            await Run(experiment(streams=3), folder).play()
        assert frame([folder]).height == 24
        assert transcripts_of(folder / "small") == before
    finally:
        subprocess.run([str(shutil.which("umount")), str(folder)], check=True)


async def test_a_folder_removed_during_a_run(tmp_path: Path) -> None:
    """If its folder is removed, every session of a run stops and says that its turns are lost."""
    seen: list[int] = []

    def remove(_: Session, turn: Turn) -> None:
        seen.append(turn.index)
        if len(seen) == 8:
            shutil.rmtree(tmp_path / "small")

    result = await Run(chance(), tmp_path, on_turn=remove, concurrency=2).play()
    said = {stop.session.stream: str(stop.reason) for stop in result.stopped}
    assert said.keys() == {0, 1, 2}
    assert all("was removed while" in reason for reason in said.values())
    assert not (tmp_path / "small").exists()
    assert transcripts_of((await Run(chance(), tmp_path).play()).folder) == await whole(
        tmp_path / "whole"
    )


async def test_a_folder_in_place_of_a_transcript_is_an_error(tmp_path: Path) -> None:
    """A folder in place of a transcript is an error that names it, in a run and in analysis."""
    (tmp_path / "small" / "feedback-1.jsonl").mkdir(parents=True)
    with pytest.raises(TranscriptError, match=r"feedback-1\.jsonl cannot be read: Is a directory"):
        await Run(experiment(), tmp_path).play()
    with pytest.raises(TranscriptError, match=r"feedback-1\.jsonl cannot be read: Is a directory"):
        frame([tmp_path])


def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    """A transcript that is a broken link is an error that names it."""
    (tmp_path / "lost.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(TranscriptError, match=r"lost\.jsonl cannot be read: No such file"):
        frame([tmp_path])


# ---- cuts --------------------------------------------------------------------------------

SHORT = session(2, encoding="binary", size=4)
"""A session short enough to try every byte."""


async def saved(chosen: Session, path: Path) -> Transcript:
    """Play or resume `chosen` in `path` and return its transcript."""
    with (
        DurableAppender() as appender,
        TranscriptWriter(path, chosen.header(), appender) as recorder,
    ):
        replay = ReplayModel(recorder.saved, then=chosen.open_model())
        turns = play(chosen.task, replay, chosen.policy, chosen.window)
        async for _ in recorder.record(turns):
            pass
        recorder.finish("complete", len(chosen.task))
    return read(path)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if possible, because thousands of files are written to it."""
    place = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
    if not os.access(place, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transcript of `SHORT`."""
    path = tmp_path_factory.mktemp("short") / "session.jsonl"
    asyncio.run(saved(SHORT, path))
    return path


async def test_a_line_that_no_command_would_read_is_not_written(tmp_path: Path) -> None:
    """A session whose turn would make a line over the limit stops, and its transcript stays readable."""
    chosen, path = session(2, encoding="binary", size=4), tmp_path / "session.jsonl"
    with TranscriptWriter(path, chosen.header()) as recorder:
        turns = play(
            chosen.task, CallableModel(lambda _: "x" * MAX_LINE), chosen.policy, chosen.window
        )
        with pytest.raises(StoppedShort, match="more than 32 MiB"):
            async for _ in recorder.record(turns):
                pass
    assert read(path).turns == ()


async def test_truncation_loses_no_complete_line(short: Path, memory: Path) -> None:
    """Truncated at any byte, a transcript reads as its complete lines and resumes as if uninterrupted."""
    data = short.read_bytes()
    before = read(short)
    expected = transcripts_of(short.parent)
    path = memory / "session.jsonl"
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        lines = data[:cut].count(b"\n")
        if lines:
            kept = read(path)
            assert kept.header == before.header
            assert kept.turns == before.turns[: lines - 1]
        else:
            with pytest.raises(TranscriptError, match="has no complete line"):
                read(path)
        if cut % (3 if lines else 16) and data[cut - 1 : cut] != b"\n":
            continue  # all cuts within a line are equivalent: the torn part is dropped
        again = await saved(SHORT, path)
        assert transcripts_of(memory) == expected, cut
    assert await verify(again) == 2


# ---- flips -------------------------------------------------------------------------------


def read_by(reader: Callable[[Path], T], path: Path) -> T | str:
    """Return the result of a reader, or the message of its error."""
    try:
        return reader(path)
    except IclLoopError as error:
        return str(error)


def counted(path: Path) -> str:
    """Return the frame of a transcript as text."""
    return frame([path]).drop("path").write_ndjson()


def test_flipped_bits_are_detected(short: Path, memory: Path) -> None:
    """A transcript with a flipped bit reads as if it were intact, or is an error that names the line."""
    data, before, analysed = short.read_bytes(), read(short), counted(short)
    path = memory / "session.jsonl"
    header, unseen = data.index(b"\n"), set()
    for place, bit in product(range(len(data)), range(8)):
        if (bit != place % 8) if place < header - 20 else (place + bit) % 2:
            continue  # one bit of each byte of the first line, every other bit of the rest
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        after, line = read_by(read, path), data.count(b"\n", 0, place) + 1
        if isinstance(after, str):
            assert f"session.jsonl, line {line}" in after, place
            assert f"session.jsonl, line {line}" in read_by(counted, path)
        else:
            unseen.add(place)
            assert replace(after, path=short) == before
            assert read_by(counted, path) == analysed
    assert unseen <= set(range(header - 20, header)), "the checksum of the first line only"


async def test_a_damaged_transcript_is_not_resumed(short: Path, tmp_path: Path) -> None:
    """Resuming a damaged transcript is an error with advice, and leaves the file unchanged."""
    path = tmp_path / "session.jsonl"
    damaged = short.read_bytes().replace(b'"outcome":"ok"', b'"outcome":"oj"', 1)
    path.write_bytes(damaged)
    with pytest.raises(TranscriptError, match="keep only the 1 intact lines") as refused:
        await saved(SHORT, path)
    assert "run again to replay the rest" in str(refused.value)
    assert path.read_bytes() == damaged


def test_a_transcript_without_checksums_is_read(short: Path, tmp_path: Path) -> None:
    """A transcript without any checksum can be read; a single missing checksum is an error."""
    text = short.read_text()
    path = tmp_path / "session.jsonl"
    path.write_text(without_checksum(text))
    assert read(path).turns == read(short).turns
    lines = text.splitlines(keepends=True)
    path.write_text(lines[0] + without_checksum(lines[1]) + lines[2])
    with pytest.raises(TranscriptError, match="line 2: the checksum is missing"):
        read(path)


@given(st.lists(st.binary(min_size=1).filter(lambda body: b"\n" not in body), min_size=1))
def test_checksums_detect_any_changed_byte(bodies: list[bytes]) -> None:
    """Intact lines pass; a line with a changed byte is named."""
    lines = [with_checksum(b"{" + body + b"}") + b"\n" for body in bodies]
    assert list(verified(Path("a"), lines)) == [line[:-1] for line in lines]
    for number, line in enumerate(lines[1:], start=2):
        changed = bytearray(line)
        changed[len(line) // 2] ^= 0xFF
        with pytest.raises(TranscriptError, match=f"a, line {number}: "):
            list(verified(Path("a"), [*lines[: number - 1], bytes(changed)]))


# ---- clocks and kills --------------------------------------------------------------------

LEAPING = """
import datetime, random, sys, time
dice, whole = random.Random(3), datetime.datetime
class Leaping(whole):
    @classmethod
    def now(cls, tz=None):
        return whole.now(tz) + datetime.timedelta(seconds=dice.choice([-7e6, -60, 0, 60, 7e6]))
datetime.datetime = Leaping
told = time.time
time.time = lambda: told() + dice.choice([-7e6, -60.0, 0.0, 60.0, 7e6])
from icl_loop.cli import main
sys.argv = ["icl-loop", *sys.argv[1:]]
main()
"""
"""The command line on a machine whose clock jumps by months between readings."""


async def test_a_jumping_clock_changes_no_duration(tmp_path: Path) -> None:
    """With a jumping clock runs end, durations are not negative, and every turn replays."""
    file = tmp_path / "small.toml"
    file.write_text('name = "small"\nturns = 12\nstreams = 2\nseed = 7\n')
    command = [sys.executable, "-c", LEAPING, "run", str(file), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    for path in sorted(tmp_path.glob("small/*.jsonl")):
        transcript = read(path)
        assert await verify(transcript) == 12
        assert all(0 <= (turn.reply.latency_s or 0) < 60 for turn in transcript.turns)
    assert frame([tmp_path / "small"])["latency_s"].min() is not None


KILLING = """
import asyncio, os, signal, sys
from pathlib import Path
from icl_loop import Run, parse
from icl_loop.transcripts import durable_append
durable_append.FLUSH_EVERY_S = 1e6
made = parse({"name": "small", "turns": 12, "streams": 2, "seed": 7})
left = int(sys.argv[2])
def die(session, turn):
    global left
    left -= 1
    print(session.file_name, turn.index, flush=True)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(Run(made, Path(sys.argv[1]), on_turn=die).play())
"""


@pytest.mark.parametrize("turns", [1, 17])
async def test_a_turn_that_was_reported_survives_a_kill(tmp_path: Path, turns: int) -> None:
    """A run killed before the first flush keeps every turn that it had reported."""
    command = [sys.executable, "-c", KILLING, str(tmp_path / "cut"), str(turns)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    reported = [line.split() for line in done.stdout.splitlines()]
    assert len(reported) == turns
    for name, index in reported:
        assert len(read(tmp_path / "cut" / "small" / name).turns) > int(index)
    made = experiment()
    assert (await Run(made, tmp_path / "cut").play()).complete
    await Run(made, tmp_path / "whole").play()
    assert transcripts_of(tmp_path / "cut" / "small") == transcripts_of(
        tmp_path / "whole" / "small"
    )
