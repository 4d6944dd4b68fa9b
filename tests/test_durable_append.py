"""Lines are appended whole, in order, before the writer continues."""

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment
from icl_loop.runner.run import Run
from icl_loop.transcripts import read
from icl_loop.transcripts.durable_append import DurableAppender


@given(st.lists(st.lists(st.binary(min_size=1), max_size=5), min_size=1, max_size=8))
def test_each_file_holds_its_own_lines_in_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[bytes]]
) -> None:
    """Each file holds exactly its own lines, in order, as soon as they are written."""
    folder = tmp_path_factory.mktemp("appender")
    with DurableAppender() as appender, ExitStack() as open_files:
        files = [
            open_files.enter_context((folder / str(index)).open("wb", buffering=0))
            for index in range(len(lines))
        ]
        for round_ in range(5):
            for index, file in enumerate(files):
                for line in lines[index][round_ : round_ + 1]:
                    appender.append(file, line)
                    assert (folder / str(index)).read_bytes().endswith(line)
        for file in files:
            appender.close(file)
    for index, expected in enumerate(lines):
        assert (folder / str(index)).read_bytes() == b"".join(expected)


def test_files_can_be_closed_during_a_flush(tmp_path: Path) -> None:
    """Closing files during flushes neither fails nor loses a line."""
    with DurableAppender() as appender:
        for number in range(300):
            file = (tmp_path / str(number)).open("wb", buffering=0)
            appender.append(file, b"a line\n")
            if number % 3:
                time.sleep(0.002)
            appender.close(file)
            assert file.closed
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"a line\n"}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the files of this process to `size` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    quiet = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, quiet)


async def test_a_full_disk_keeps_saved_turns(tmp_path: Path) -> None:
    """On a full disk the sessions stop with an error; with more space the run resumes."""
    made = experiment(streams=3, turns=12, model={"name": "simulated/chance"})
    with files_of_at_most(8_000):
        result = await Run(made, tmp_path / "full").play()
    assert {stop.session.stream for stop in result.stopped} == {0, 1, 2}
    assert all("cannot be written: File too large" in str(stop.reason) for stop in result.stopped)
    assert all(0 < len(read(path).turns) < 12 for path in result.paths)
    assert (await Run(made, tmp_path / "full").play()).complete
    assert all(len(read(path).turns) == 12 for path in result.paths)
