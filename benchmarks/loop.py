"""Turns per second of a complete run and of plain loops, against an endpoint that takes no time.

    python benchmarks/loop.py [--repeats 3] [--quick]

Four clients run one after another, each in its own process:

* `ours`: `Run`, as in `icl-loop run`, with transcripts;
* `plain`: `await client.chat.completions.create(messages=[...])`;
* `ready`: `client.post(path, content=...)` of the `openai` client, with ready-made bytes;
* `aiohttp`: an aiohttp session, with the same bytes.

The last three write no transcript, count no tokens and parse no answers. Samples have about 1,500
characters (encoding `article`). The medians of the repeats are printed; ratios within one run vary
less than absolute times.
"""

import argparse
import asyncio
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import aiohttp
import httpx2
import openai
import uvloop

from icl_loop import Experiment, Run, Session, Turn, parse

SHAPES = ((1, 400, None, 0.0), (32, 100, 32, 0.0), (200, 50, 32, 0.05))
CLIENTS = ("ours", "plain", "ready", "aiohttp")
Play = Callable[[str, int, int, int | None], Awaitable[tuple[float, float]]]


def experiment(base_url: str, sessions: int, turns: int, window: int | None) -> dict[str, object]:
    """Return the settings of the experiment that `ours` runs."""
    return {
        "name": "bench",
        "turns": turns,
        "streams": sessions,
        "task": {"dataset": "digits", "encoding": "article"},
        "model": {"name": "constant", "base_url": base_url, "context_window": 10_000_000},
        "context": {"policy": "all" if window is None else f"last({window})"},
    }


async def ours(base_url: str, sessions: int, turns: int, window: int | None) -> tuple[float, float]:
    """Run the experiment; return the seconds of all turns and of the last one."""
    made = parse(experiment(base_url, sessions, turns, window))
    # A first run of two turns loads the imports; another seed keeps its questions out of the cache.
    await play_through(parse(experiment(base_url, 1, 2, window) | {"seed": 1}), 1, [])
    times = [time.perf_counter()]
    await play_through(made, sessions, times)
    return times[-1] - times[0], times[-1] - times[-2]


async def play_through(made: Experiment, sessions: int, times: list[float]) -> None:
    """Run once into a temporary folder, and append the time of each turn to `times`."""

    def note(_: Session, __: Turn) -> None:
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        result = await Run(made, Path(folder), concurrency=sessions, on_turn=note).play()
    if not result.complete:
        raise RuntimeError(str(result.stopped[0].reason))


async def _sessions(
    sessions: int, turns: int, window: int | None, ask: Callable[[int, list[str]], Awaitable[None]]
) -> tuple[float, float]:
    """Run `ask` for every turn of `sessions` sessions; return the total and one last turn's seconds."""
    text = "Array:\n" + "0.  0.1 0.9 0.2 " * 95

    async def play() -> float:
        last = 0.0
        for turn in range(turns):
            shown = turn if window is None else min(turn, window)
            start = time.perf_counter()
            await ask(shown, [text, "Answer: 3", f"Your answer was correct.\n\n{text}"])
            last = time.perf_counter() - start
        return last

    await ask(0, [text, "Answer: 3", text])
    start = time.perf_counter()
    lasts = await asyncio.gather(*(play() for _ in range(sessions)))
    return time.perf_counter() - start, lasts[-1]


async def plain(
    base_url: str, sessions: int, turns: int, window: int | None
) -> tuple[float, float]:
    """Send lists of messages through the `openai` client."""
    client = openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0)

    async def ask(shown: int, texts: list[str]) -> None:
        messages = [{"role": "system", "content": "s" * 1000}]
        for _ in range(shown):
            messages += [
                {"role": "user", "content": texts[2]},
                {"role": "assistant", "content": texts[1]},
            ]
        messages.append({"role": "user", "content": texts[2]})
        await client.chat.completions.create(model="constant", messages=messages)  # type: ignore[arg-type]  # the dicts are valid messages

    async with client:
        return await _sessions(sessions, turns, window, ask)


def _ready_body(shown: int, texts: list[str], pieces: dict[str, bytes]) -> bytes:
    if not pieces:
        pieces["pair"] = b'{"role":"user","content":%b},{"role":"assistant","content":%b},' % (
            json.dumps(texts[2]).encode(),
            json.dumps(texts[1]).encode(),
        )
        pieces["last"] = b'{"role":"user","content":%b}]}' % json.dumps(texts[2]).encode()
        pieces["head"] = b'{"model":"constant","messages":[{"role":"system","content":"%b"},' % (
            b"s" * 1000
        )
    return pieces["head"] + pieces["pair"] * shown + pieces["last"]


async def ready(
    base_url: str, sessions: int, turns: int, window: int | None
) -> tuple[float, float]:
    """Send ready-made bytes through the `openai` client."""
    client = openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0)
    pieces: dict[str, bytes] = {}

    async def ask(shown: int, texts: list[str]) -> None:
        response = await client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=_ready_body(shown, texts, pieces),
            options={"headers": {"Content-Type": "application/json"}},
        )
        json.loads(response.content)

    async with client:
        return await _sessions(sessions, turns, window, ask)


async def bare(base_url: str, sessions: int, turns: int, window: int | None) -> tuple[float, float]:
    """Send ready-made bytes through aiohttp."""
    pieces: dict[str, bytes] = {}
    connector = aiohttp.TCPConnector(limit=sessions)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def ask(shown: int, texts: list[str]) -> None:
            body = _ready_body(shown, texts, pieces)
            headers = {"Content-Type": "application/json"}
            async with http.post(f"{base_url}/chat/completions", data=body, headers=headers) as r:
                json.loads(await r.read())

        return await _sessions(sessions, turns, window, ask)


PLAYS: dict[str, Play] = {"ours": ours, "plain": plain, "ready": ready, "aiohttp": bare}


def play_one(name: str, base_url: str, sessions: int, turns: int, window: int | None) -> None:
    """Run one client here; print total seconds, seconds of the last turn, and peak MiB."""
    run = uvloop.run if name == "ours" else asyncio.run
    measured: tuple[float, float] = run(PLAYS[name](base_url, sessions, turns, window))  # type: ignore[arg-type]  # coroutines
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([*measured, peak]))


@contextmanager
def endpoint(latency: float) -> Iterator[str]:
    """Run the endpoint in its own process, and give its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("constant_endpoint.py")
    with subprocess.Popen([sys.executable, script, str(port), str(latency)]) as process:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def measure(
    shape: tuple[int, int, int | None, float], repeats: int
) -> dict[str, tuple[float, float, float]]:
    """Return each client's median turns per second, milliseconds of the last turn, and peak MiB."""
    sessions, turns, window, latency = shape
    measured: dict[str, list[list[float]]] = {name: [] for name in CLIENTS}
    with endpoint(latency) as base_url:
        for _ in range(repeats):
            for name in CLIENTS:
                arguments = [name, base_url, str(sessions), str(turns), str(window or 0)]
                done = subprocess.run(
                    [sys.executable, __file__, "--one", *arguments],
                    check=True,
                    capture_output=True,
                )
                measured[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: (
            sessions * turns / median(run[0] for run in runs),
            1e3 * median(run[1] for run in runs),
            median(run[2] for run in runs),
        )
        for name, runs in measured.items()
    }


def main() -> None:
    """Print one table per shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="only the shape with 32 sessions")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, base_url, sessions, turns, window = given.one
        play_one(name, base_url, int(sessions), int(turns), int(window) or None)
        return
    for shape in SHAPES[1:2] if given.quick else SHAPES:
        sessions, turns, window, latency = shape
        table = measure(shape, given.repeats)
        print(
            f"\n{sessions} sessions x {turns} turns, window {window or 'none'}, {latency * 1e3:.0f} ms"
        )
        print(
            f"{'client':<9}{'turns/s':>9}{'last turn ms':>14}{'peak MiB':>10}{'x plain':>9}{'x aiohttp':>11}"
        )
        for name, (rate, last, peak) in table.items():
            versus = rate / table["plain"][0], rate / table["aiohttp"][0]
            print(
                f"{name:<9}{rate:>9.0f}{last:>14.1f}{peak:>10.0f}{versus[0]:>9.2f}{versus[1]:>11.2f}"
            )


if __name__ == "__main__":
    main()
