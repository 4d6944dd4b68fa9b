"""Time and peak memory of `analyze`, `report` and `export` on a million saved turns.

    python benchmarks/million.py [--sessions 5000] [--turns 200] [--export csv]

Plays one session of each of five arms. The other sessions are copies with random answers, so that every
stream differs. `analyze` and `report` run on the transcripts and on their Parquet export. About 2 GB are
written to a temporary folder.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from icl_loop import Run, parse
from icl_loop.transcripts.checksum import with_checksum, without_checksum

ARMS = ("label", "correctness", "none", "flipped", "demonstrations")


def play(folder: Path, turns: int) -> list[Path]:
    """Play one session of each arm; return the transcripts."""
    made = parse(
        {
            "name": "million",
            "turns": turns,
            "streams": 1,
            "arms": [{"name": kind, "feedback": {"kind": kind}} for kind in ARMS],
            "analysis": {"primary": ["correctness", "none"]},
        }
    )
    return list(asyncio.run(Run(made, folder).play()).paths)


def copies(path: Path, count: int, out: Path) -> int:
    """Write `count` streams like the one at `path`; return the bytes written."""
    header, *lines, end = path.read_bytes().splitlines(keepends=True)
    fields, written = json.loads(header), 0
    del fields["crc32"]
    for stream in range(count):
        dice = random.Random(f"{path.stem} {stream}")  # noqa: S311  copies, no secrets
        first = json.dumps(fields | {"stream": stream, "id": f"{stream:016x}"}).encode()
        body = b"".join(_other(line, right=dice.random() < 0.4) for line in lines)
        sample = re.compile(rb'"sample":"digits/')
        body = sample.sub(b'"sample":"digits/%d.' % stream, body)
        lines_of_copy = (first, *body.splitlines(), end)
        data = b"".join(
            with_checksum(without_checksum(line.strip())) + b"\n" for line in lines_of_copy
        )
        (out / f"{fields['arm']}-{stream}.jsonl").write_bytes(data)
        written += len(data)
    return written


def _other(line: bytes, *, right: bool) -> bytes:
    """Return a turn with a right or wrong answer."""
    found = re.search(rb'"label":"([^"]*)"', line)
    label = found[1] if found else b""
    answer = label if right else b"1" if label == b"0" else b"0"
    judged = b'"answer":"%b","outcome":"ok","correct":%b' % (answer, b"true" if right else b"false")
    return re.sub(rb'"answer":"[^"]*","outcome":"ok","correct":(?:true|false)', judged, line)


def measured(what: str, *arguments: str, report: Path) -> None:
    """Run a command, print its time and memory, and save its output to `report`."""
    program = "from icl_loop.cli import main; main()"
    start = time.perf_counter()
    with report.open("w") as output:
        process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{arguments[0]} ended with {status}")
    print(
        f"{what}: {seconds:.1f} s, {usage.ru_utime + usage.ru_stime:.1f} s of processor time,"
        f" {usage.ru_maxrss / 2**20:.2f} GiB"
    )


def reported(what: str, source: str, place: Path) -> None:
    """Write a report and print its time, memory and size."""
    said = place.with_suffix(".txt")
    measured(f"report, {what}", "report", source, "-o", str(place), report=said)
    print(f"the page: {place.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=5_000)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--export", metavar="FORMAT", help="only export to it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "many"
        out.mkdir()
        paths = play(folder / "played", given.turns)
        sessions = given.sessions // len(paths) * len(paths)
        written = sum(copies(path, sessions // len(paths), out) for path in paths)
        print(f"{sessions * given.turns:,} turns, {sessions:,} sessions, {written / 1e9:.2f} GB")
        to, place = given.export or "parquet", str(folder / "exported.parquet")
        reports = [folder / "first.json", folder / "second.json"]
        if not given.export:
            measured("analyze, transcripts", "analyze", str(out), "--json", report=reports[0])
            reported("transcripts", str(out), folder / "first.html")
        measured(
            f"export to {to}", "export", str(out), "--to", to, "-o", place, report=folder / "said"
        )
        if not given.export:
            measured("analyze, the export", "analyze", place, "--json", report=reports[1])
            reported("the export", place, folder / "second.html")
            if reports[0].read_bytes() != reports[1].read_bytes():
                sys.exit("the export gives another analysis than the transcripts")


if __name__ == "__main__":
    main()
