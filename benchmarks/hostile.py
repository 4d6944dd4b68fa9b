"""What faults and kills cost: requests that a run needed beyond its turns, by the server's count.

    python benchmarks/hostile.py [--kills 50]

Both tables are of runs against an endpoint of our own over real HTTP. Faults strike a quarter of
all requests. Kills are `kill -9` at moments drawn at random, from the start of the process on;
the run is then resumed, until it is complete, and compared with one that was never killed.
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
from icl_loop.transcripts import TIME_FIELDS, read

RATE = 0.25
MIXED = {"429": 0.1, "500": 0.05, "reset": 0.05, "garbage": 0.03, "empty": 0.02}
SESSIONS, LATENCY_S = 8, 0.15
TURNS_FAULTY, TURNS_KILLED = 24, 120
MOST_ASKED = 30
"""A process is killed after it has asked fewer requests than this, and a moment more."""

Answers = Mapping[str, list[tuple[str, str | None]]]


def experiment(base_url: str, turns: int) -> Experiment:
    """Return what is played."""
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
    """Serve the nearest neighbour; give its address and what it is asked."""
    log = RequestLog()
    models = {"reference/nearest": open_model("reference/nearest", seed=7)}
    app = build_app(models, settings=ServerSettings(**settings), log=log)  # type: ignore[arg-type]  # settings by name
    with serving(app) as base_url:
        yield base_url, log


def answers(folder: Path) -> Answers:
    """Return the requests and answers of every session in a folder."""
    return {
        path.name: [(turn.request, turn.answer) for turn in read(path).turns]
        for path in sorted(folder.glob("*/*.jsonl"))
    }


def faulty(faults: Mapping[str, float], folder: Path, whole: Answers) -> str:
    """Play under faults; return a row of the table."""
    with served(faults=faults, slow_s=0.5) as (base_url, log):
        start = time.perf_counter()
        result = asyncio.run(Run(experiment(base_url, TURNS_FAULTY), folder).play())
        seconds = time.perf_counter() - start
    if not result.complete:
        raise RuntimeError(str(result.stopped[0].reason))
    played = answers(folder)
    twice = sum(times - 1 for times in log.answered.values())
    same = "same" if played == whole else "OTHER"
    return f"{log.total:>9}{log.faults.total():>8}{same:>9}{twice:>8}{seconds:>9.1f}"


def kill_often(kills: int, folder: Path) -> None:
    """Kill and resume runs until there were so many kills; print what that cost."""
    dice = random.Random(11)  # noqa: S311  moments, no secrets
    with served(latency_s=LATENCY_S) as (base_url, log):
        asyncio.run(Run(experiment(base_url, TURNS_KILLED), folder / "whole").play())
        whole, needed, killed, runs, worst = _bytes(folder / "whole"), log.total, 0, 0, 0.0
        per_run = []
        while killed < kills:
            before, in_this, runs = log.total, 0, runs + 1
            cut = folder / f"cut{runs}"
            while killed < kills and _killed(base_url, cut, log, dice):
                killed, in_this = killed + 1, in_this + 1
            asyncio.run(Run(experiment(base_url, TURNS_KILLED), cut).play())
            extra = log.total - before - needed
            per_run.append((in_this, extra))
            same = _bytes(cut) == whole
            worst = max(worst, extra / max(1, in_this * SESSIONS))
            print(f"run {runs}: {in_this} kills, {extra} requests more, transcripts same: {same}")
    extra = sum(more for _, more in per_run)
    print(
        f"{killed} kills: {extra} requests more than {needed * runs} needed; at most"
        f" {worst:.2f} a session and kill (bound 1)"
    )


def _killed(base_url: str, folder: Path, log: RequestLog, dice: random.Random) -> bool:
    """Let a process ask for a while, drawn at random; return whether it had to be killed."""
    target = log.total + dice.randrange(MOST_ASKED)
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
    """Return the transcripts of a folder, without times and what depends on a cache's memory."""
    out = {}
    names = b"|".join(name.encode() for name in sorted(TIME_FIELDS | {"cached"}))
    for path in sorted(folder.glob("*/*.jsonl")):
        out[path.name] = re.sub(rb'"(?:%b)":(?:"[^"]*"|[\d.e-]+)' % names, b"", path.read_bytes())
    return out


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with served() as (base_url, _):
            asyncio.run(Run(experiment(base_url, TURNS_FAULTY), folder / "whole").play())
        whole = answers(folder / "whole")
        print(f"{SESSIONS} sessions x {TURNS_FAULTY} turns, faults at {RATE:.0%} of all requests")
        print(f"{'fault':<10}{'requests':>9}{'faults':>8}{'answers':>9}{'twice':>8}{'seconds':>9}")
        kinds = {"none": {}, **{fault: {fault: RATE} for fault in FAULTS}, "mixed": MIXED}
        for kind, faults in kinds.items():
            print(f"{kind:<10}{faulty(faults, folder / kind, whole)}", flush=True)
    print()
    with tempfile.TemporaryDirectory() as name:
        kill_often(kills, Path(name))


if __name__ == "__main__":
    main()
