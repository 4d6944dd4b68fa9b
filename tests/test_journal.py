"""The laws of the journal: every line whole, in order, on the disk before its writer goes on."""

import asyncio
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_loop.journal import Journal
from icl_loop.runner import Run
from icl_loop.transcripts import read
from making import experiment


@given(st.lists(st.lists(st.binary(min_size=1), max_size=5), min_size=1, max_size=8))
async def test_each_file_holds_its_own_lines_in_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[bytes]]
) -> None:
    """Whatever is written at once to many files, each holds exactly its own lines, in order."""
    folder = tmp_path_factory.mktemp("journal")

    async def write(journal: Journal, index: int) -> None:
        with (folder / str(index)).open("wb", buffering=0) as file:
            for line in lines[index]:
                await journal.append(file, line)
                assert (folder / str(index)).read_bytes().endswith(line)

    with Journal() as journal:
        await asyncio.gather(*(write(journal, index) for index in range(len(lines))))
    for index, expected in enumerate(lines):
        assert (folder / str(index)).read_bytes() == b"".join(expected)


async def test_a_cancelled_writer_leaves_a_whole_line(tmp_path: Path) -> None:
    """A writer that is cancelled goes only when its line is on the disk."""
    path = tmp_path / "file"
    with Journal() as journal, path.open("wb", buffering=0) as file:
        writing = asyncio.create_task(journal.append(file, b"a line\n"))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert path.read_bytes() == b"a line\n"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: a full disk, in small."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    quiet = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, quiet)


async def test_a_full_disk_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    """When no more can be written the sessions stop and say so; given room, the run goes on."""
    made = experiment(streams=3, turns=12, model={"name": "participant/chance"})
    with files_of_at_most(8_000):
        result = await Run(made, tmp_path / "full").play()
    assert {stop.session.stream for stop in result.stops} == {0, 1, 2}
    assert all("cannot be written: File too large" in str(stop.reason) for stop in result.stops)
    assert all(0 < len(read(path).turns) < 12 for path in result.paths)
    assert (await Run(made, tmp_path / "full").play()).complete
    assert all(len(read(path).turns) == 12 for path in result.paths)
