"""The cost of faults and kills: requests beyond one per turn, as counted by the server.

    python benchmarks/hostile.py [--kills 50]

Both tables come from runs against our own server over HTTP. A quarter of all requests fail. Processes
are killed with `kill -9` at random moments and resumed until the run is complete; the transcripts are
then compared with those of a run that was never killed.
"""

import argparse
import asyncio
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from icl_loop import Experiment, Run, parse
from icl_loop.models import open_model
from icl_loop.server import FAULTS, RequestLog, ServerSettings, build_app, serving
from icl_loop.transcripts import read
from icl_loop.transcripts.comparison import TIME_FIELDS

RATE = 0.25
MIXED = {"429": 0.1, "500": 0.05, "reset": 0.05, "garbage": 0.03, "empty": 0.02}
SESSIONS, LATENCY_S = 8, 0.15
TURNS_FAULTY, TURNS_KILLED = 24, 120
MAX_REQUESTS = 30
"""A process is killed after a random number of requests below this one."""

Answers = Mapping[str, list[tuple[str, str | None]]]


def experiment(base_url: str, turns: int) -> Experiment:
    """Return the experiment to run."""
    return parse(
        {
            "name": "hostile",
            "turns": turns,
            "streams": SESSIONS,
            "model": {"name": "reference/nearest", "base_url": base_url},
            "context": {"policy": "last(20)"},
        }
    )


@contextmanager
def served(**settings: object) -> Iterator[tuple[str, RequestLog]]:
    """Serve `reference/nearest`; give the base URL and the request log."""
    log = RequestLog()
    models = {"reference/nearest": open_model("reference/nearest", seed=7)}
    app = build_app(models, settings=ServerSettings(**settings), log=log)  # type: ignore[arg-type]  # settings by name
    with serving(app) as base_url:
        yield base_url, log


def answers(folder: Path) -> Answers:
    """Return the request fingerprints and answers of every session in a folder."""
    return {
        path.name: [(turn.request, turn.answer) for turn in read(path).turns]
        for path in sorted(folder.glob("*/*.jsonl"))
    }


def faulty(faults: Mapping[str, float], folder: Path, expected: Answers) -> str:
    """Run with faults; return a row of the table."""
    with served(faults=faults, slow_s=0.5) as (base_url, log):
        start = time.perf_counter()
        result = asyncio.run(Run(experiment(base_url, TURNS_FAULTY), folder).play())
        seconds = time.perf_counter() - start
    if not result.complete:
        raise RuntimeError(str(result.stopped[0].reason))
    played = answers(folder)
    twice = sum(times - 1 for times in log.answered.values())
    same = "same" if played == expected else "OTHER"
    return f"{log.total:>9}{log.faults.total():>8}{same:>9}{twice:>8}{seconds:>9.1f}"


def kill_often(kills: int, folder: Path) -> None:
    """Kill and resume runs until there were `kills` kills, and print the additional requests."""
    dice = random.Random(11)  # noqa: S311  not a secret
    with served(latency_s=LATENCY_S) as (base_url, log):
        asyncio.run(Run(experiment(base_url, TURNS_KILLED), folder / "whole").play())
        expected, needed, killed, runs, worst = _bytes(folder / "whole"), log.total, 0, 0, 0.0
        per_run = []
        while killed < kills:
            before, in_this, runs = log.total, 0, runs + 1
            cut = folder / f"cut{runs}"
            while killed < kills and _killed(base_url, cut, log, dice):
                killed, in_this = killed + 1, in_this + 1
            asyncio.run(Run(experiment(base_url, TURNS_KILLED), cut).play())
            extra = log.total - before - needed
            per_run.append((in_this, extra))
            same = _bytes(cut) == expected
            worst = max(worst, extra / max(1, in_this * SESSIONS))
            print(f"run {runs}: {in_this} kills, {extra} more requests, same transcripts: {same}")
    extra = sum(more for _, more in per_run)
    print(
        f"{killed} kills: {extra} requests more than the {needed * runs} needed; at most"
        f" {worst:.2f} per session and kill (limit 1)"
    )


def _killed(base_url: str, folder: Path, log: RequestLog, dice: random.Random) -> bool:
    """Let a process run for a random time; return False if it finished before the kill."""
    target = log.total + dice.randrange(MAX_REQUESTS)
    program = (
        "import asyncio, sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]);"
        "from hostile import TURNS_KILLED, experiment; from icl_loop import Run;"
        "made = experiment(sys.argv[1], TURNS_KILLED);"
        "asyncio.run(Run(made, Path(sys.argv[2])).play())"
    )
    arguments = [base_url, str(folder), str(Path(__file__).parent)]
    with subprocess.Popen([sys.executable, "-c", program, *arguments]) as process:
        while log.total < target and process.poll() is None:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 2 * LATENCY_S))
        if process.poll() is None:
            process.kill()
            return True
    return False


def _bytes(folder: Path) -> dict[str, bytes]:
    """Return the transcripts in a folder without times and cached-token counts."""
    names = "|".join(sorted(TIME_FIELDS | {"cached"}))
    field = re.compile(rf'"(?:{names})":(?:"[^"]*"|[\d.e-]+)'.encode())
    return {path.name: field.sub(b"", path.read_bytes()) for path in folder.glob("*/*.jsonl")}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with served() as (base_url, _):
            asyncio.run(Run(experiment(base_url, TURNS_FAULTY), folder / "whole").play())
        expected = answers(folder / "whole")
        print(f"{SESSIONS} sessions x {TURNS_FAULTY} turns, faults at {RATE:.0%} of all requests")
        print(f"{'fault':<10}{'requests':>9}{'faults':>8}{'answers':>9}{'twice':>8}{'seconds':>9}")
        kinds = {"none": {}, **{fault: {fault: RATE} for fault in FAULTS}, "mixed": MIXED}
        for kind, faults in kinds.items():
            print(f"{kind:<10}{faulty(faults, folder / kind, expected)}", flush=True)
    print()
    with tempfile.TemporaryDirectory() as name:
        kill_often(kills, Path(name))


if __name__ == "__main__":
    main()
