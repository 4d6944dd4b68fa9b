"""What differs between machines: encodings of the output, limits on open files, locks."""

import bz2
import errno
import fcntl
import gzip
import io
import json
import lzma
import os
import resource
import shlex
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import SoftFileLock

from builders import experiment
from command_line import Command
from endpoint import completion, serving
from icl_loop.cli import main
from icl_loop.core.errors import FolderLocked, StoppedShort, TranscriptError, reason_of
from icl_loop.runner.run import Run
from icl_loop.runner.scheduler import playable_at_once
from icl_loop.terminal.console import print_json

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "transcripts" / "sample"
QUICKSTART = ROOT / "experiments" / "quickstart.toml"
SMALL = ["--streams", "2", "--turns", "4"]


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], io.BytesIO]:
    """Gives the output and error output of this process an encoding; returns where they go."""

    def begin(encoding: str) -> io.BytesIO:
        buffer = io.BytesIO()
        for name in ("stdout", "stderr"):
            stream = io.TextIOWrapper(buffer, encoding=encoding, write_through=True)
            monkeypatch.setattr(sys, name, stream)
        return buffer

    return begin


COMMANDS: tuple[tuple[list[object], str], ...] = (
    (["replay", SAMPLE / "label-0.jsonl"], "24 turns shown"),
    (["analyze", SAMPLE], "Primary contrast"),
    (["what-if", SAMPLE / "label-0.jsonl", "--policy", "last(3)"], "as played"),
    (["plan", QUICKSTART, "--no-advice", *SMALL], "Context and accuracy"),
    (["run", QUICKSTART, *SMALL], "10 sessions"),
    (["sample", "--help"], "NAME:SPLIT, . | NAME:SPLIT, \u2026"),
)


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii"])
def test_characters_that_an_encoding_lacks_are_replaced(
    stdout: Callable[[str], io.BytesIO],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    """Every command prints in any encoding, with similar characters for those that it lacks."""
    monkeypatch.chdir(tmp_path)
    for arguments, words in COMMANDS:
        buffer = stdout(encoding)
        monkeypatch.setattr(sys, "argv", ["icl-loop", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        assert not exited.value.code
        text = buffer.getvalue().decode(encoding)
        assert any(each in text for each in words.split(" | "))
        assert "?" not in text or arguments[0] in ("analyze", "run")  # whose tables ask questions
        assert "\u2500" not in text  # tables are drawn in ASCII


def test_json_is_whole_in_every_encoding(stdout: Callable[[str], io.BytesIO]) -> None:
    """JSON keeps its characters, escaped where the encoding of the output lacks them."""
    value = {"arm": "caf\u00e9 \u2713 \U0001f600", "line": "\x1b[2J"}
    for encoding in ("utf-8", "cp932", "ascii"):
        buffer = stdout(encoding)
        print_json(value)
        assert json.loads(buffer.getvalue().decode(encoding)) == value
    assert buffer.getvalue().isascii()
    assert b"\x1b" not in buffer.getvalue()


def test_the_limit_on_open_files_is_raised_or_bounds_the_sessions() -> None:
    """The soft limit on open files is raised for the sessions; the hard one bounds their number."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
        assert playable_at_once(64) == 64
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 2 * 64
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    few = reason_of(OSError(errno.EMFILE, "Too many open files"))
    assert "ulimit -n" in few
    assert "--concurrency" in few


def test_a_run_plays_with_few_open_files(tmp_path: Path) -> None:
    """With a low limit on open files fewer sessions play at once, and all are played."""
    with serving([completion("Answer: 3")]) as endpoint:
        arguments = ["--turns", "2", "--streams", "10", "--set", "model.name=tiny"]
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("icl-loop")), "run", str(QUICKSTART)),
                *("--out", str(tmp_path), "--set", f"model.base_url={endpoint.base_url}"),
                *arguments,
            ],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "only 5 sessions are played" in done.stderr
    assert len(list(tmp_path.rglob("*.jsonl"))) == 50


def limited(mib: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with this much memory."""
    return subprocess.run(
        [sys.executable, *arguments],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (mib * 2**20, mib * 2**20)),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("mib", "command"), [(585, "analyze"), (1_171, "analyze"), (4_000, "plot"), (4_000, "report")]
)
def test_too_low_a_limit_on_memory_is_named(mib: int, command: str) -> None:
    """With less memory than libraries need, a command says so at once and ends with exit code 1."""
    done = limited(mib, "-m", "icl_loop", command, str(SAMPLE))
    assert done.returncode == 1
    assert f"this process may use only {mib:,} MiB" in done.stderr
    assert "ulimit -v" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("end", "code", "is_named"),
    [
        ("os.abort()", 1, True),
        ("raise MemoryError", 1, True),
        ("raise ImportError('x.so: failed to map segment from shared object')", 1, True),
        ('raise RuntimeError("can\'t start new thread")', 1, True),
        ("sys.exit(2)", 2, False),
        ("raise ValueError('memory')", 1, False),
        ("os.kill(os.getpid(), signal.SIGTERM)", 128 + 15, False),
    ],
)
def test_a_limit_on_memory_is_named_where_it_ends_a_process(
    end: str, code: int, *, is_named: bool
) -> None:
    """With a limit, what a library does without memory becomes an error that names the limit."""
    program = f"""
import os, resource, signal, sys
from icl_loop.cli.limited_memory import limited_memory
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with limited_memory():
    {end}
"""
    done = limited(4096, "-c", program)
    assert done.returncode == code, done.stderr
    assert ("may use only 4,096 MiB" in done.stderr) == is_named


def test_standard_streams_may_be_closed_or_full(tmp_path: Path) -> None:
    """A run without output or error output is played; an output that is full is one clear error."""
    program = shlex.join([sys.executable, "-c", "from icl_loop.cli import main; main()"])
    run = f"{program} run {QUICKSTART} {shlex.join(SMALL)} --out {tmp_path} >&- 2>&- <&-"
    assert subprocess.run(["/bin/sh", "-c", run], check=False).returncode == 0
    assert len(list(tmp_path.rglob("*.jsonl"))) == 10
    full = ["/bin/sh", "-c", f"{program} sample digits >/dev/full"]
    done = subprocess.run(full, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "stopped: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
async def test_a_run_needs_no_locks_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where files cannot be locked, a file that names its holder keeps a second run out."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    assert (await Run(experiment(turns=2), tmp_path).play()).complete
    folder = tmp_path / "small"
    marker = ".lock" if number == errno.ENOSYS else ".lock.soft"
    with (
        SoftFileLock(folder / marker, timeout=0),
        pytest.raises(FolderLocked, match="another process"),
    ):
        await Run(experiment(turns=2), tmp_path).play()
    code = (
        "import sys, os, filelock; held = filelock.SoftFileLock(sys.argv[1]).acquire(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, folder / marker], check=False)
    assert (folder / marker).exists()
    assert (await Run(experiment(turns=2), tmp_path).play()).complete


async def test_a_lock_that_fails_otherwise_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another error of the lock stops the run and is named."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StoppedShort, match="Input/output error"):
        await Run(experiment(turns=2), tmp_path).play()


def _zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("label-0.jsonl", data)
    return buffer.getvalue()


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": _zip,
    "zstd": lambda data: b"\x28\xb5\x2f\xfd" + zlib.compress(data),
}
READERS: list[list[object]] = [
    ["replay"],
    ["replay", "--verify"],
    ["analyze"],
    ["analyze", "--baseline", "reference/nearest"],
    ["report"],
    ["plot"],
    ["export", "--to", "parquet"],
    ["export", "--to", "openai-jsonl"],
    ["what-if", "--policy", "last"],
    ["rescore", "--set", "answers.rule=last"],
    ["branch", "--at", 2],
]


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_transcript_is_named(
    icl_loop: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No command takes compressed bytes for a transcript: each names the file and the format."""
    monkeypatch.chdir(tmp_path)
    data = (SAMPLE / "label-0.jsonl").read_bytes()
    file = Path("label-0.jsonl")
    file.write_bytes(COMPRESSED[name](data))
    for command, *options in READERS:
        done = icl_loop(command, file, *options)
        assert done.returncode == 2, (command, done.stderr)
        assert f"label-0.jsonl looks like {name} data" in done.stderr
    file.rename("label-0.jsonl.gz")
    done = icl_loop("analyze", ".")
    assert done.returncode == 2
    assert "label-0.jsonl.gz" in done.stderr


async def test_a_compressed_transcript_is_not_overwritten(tmp_path: Path) -> None:
    """A run does not take a compressed transcript for one that was cut in its first line."""
    made = experiment(turns=2, streams=1)
    (path,) = (await Run(made, tmp_path).play()).paths
    path.write_bytes(squeezed := zlib.compress(path.read_bytes()[:20]))
    assert b"\n" not in squeezed
    with pytest.raises(TranscriptError, match="looks like zlib"):
        await Run(made, tmp_path).play()
    assert path.read_bytes() == squeezed
