"""Turns per second of a complete run and of plain loops, against an endpoint that takes no time.

    python benchmarks/loop.py [--repeats 3] [--quick]

Four clients run one after another, each in its own process:

* `ours`: `Run`, as in `icl-loop run`, with transcripts;
* `plain`: `await client.chat.completions.create(messages=[...])`;
* `ready`: `client.post(path, content=...)` of the `openai` client, with ready-made bytes;
* `aiohttp`: an aiohttp session, with the same bytes.

The last three write no transcript, count no tokens and parse no answers. Samples have about 1,500
characters (encoding `article`). The medians of the repeats are printed, one client after the other. `plain`
takes most of the time: about five minutes for one repeat of all shapes on two idle cores.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp
import httpx2
import openai
import uvloop

from constant_endpoint import constant_endpoint
from icl_loop import Run, parse

SHAPES = ((1, 400, None, 0.0), (32, 100, 32, 0.0), (200, 50, 32, 0.05))
"""Sessions, turns, window and latency in seconds."""
TEXT = "Array:\n" + "0.  0.1 0.9 0.2 " * 95
SYSTEM = {"role": "system", "content": "s" * 1000}
SAMPLE = {"role": "user", "content": f"Your answer was correct.\n\n{TEXT}"}
ANSWER = {"role": "assistant", "content": "Answer: 3"}
HEAD, PAIR, LAST = (
    json.dumps(messages)[1:-1].encode() for messages in ([SYSTEM], [SAMPLE, ANSWER], [SAMPLE])
)

Ask = Callable[[int], Awaitable[object]]
"""Makes a request that shows this many past turns."""


def body(shown: int) -> bytes:
    """Return the body of a request that shows this many past turns."""
    return b'{"model":"constant","messages":[%b,%b%b]}' % (HEAD, (PAIR + b",") * shown, LAST)


def openai_client(base_url: str) -> openai.AsyncOpenAI:
    """Return a client that neither retries nor gives up, however busy the machine is."""
    return openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0, timeout=None)


@asynccontextmanager
async def plain(base_url: str) -> AsyncIterator[Ask]:
    """Send lists of messages through the `openai` client."""
    async with openai_client(base_url) as client:
        yield lambda shown: client.chat.completions.create(
            model="constant",
            messages=[SYSTEM, *[SAMPLE, ANSWER] * shown, SAMPLE],  # type: ignore[list-item]  # the dicts are valid messages
        )


@asynccontextmanager
async def ready(base_url: str) -> AsyncIterator[Ask]:
    """Send ready-made bytes through the `openai` client."""
    async with openai_client(base_url) as client:

        async def ask(shown: int) -> None:
            response = await client.post(
                "/chat/completions",
                cast_to=httpx2.Response,
                content=body(shown),
                options={"headers": {"Content-Type": "application/json"}},
            )
            json.loads(response.content)

        yield ask


@asynccontextmanager
async def bare(base_url: str) -> AsyncIterator[Ask]:
    """Send ready-made bytes through aiohttp."""
    url, headers = f"{base_url}/chat/completions", {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def ask(shown: int) -> None:
            async with http.post(url, data=body(shown), headers=headers) as response:
                json.loads(await response.read())

        yield ask


LOOPS: dict[str, Callable[[str], AbstractAsyncContextManager[Ask]]] = {
    "plain": plain,
    "ready": ready,
    "aiohttp": bare,
}
CLIENTS = ("ours", *LOOPS)


async def play_ours(
    base_url: str, sessions: int, turns: int, window: int | None
) -> tuple[float, float, float]:
    """Run an experiment; return the seconds of all turns, of the last one, and of processor time."""
    table = {
        "name": "bench",
        "task": {"dataset": "digits", "encoding": "article"},
        "model": {"name": "constant", "base_url": base_url, "context_window": 10_000_000},
        "context": {"policy": "all" if window is None else f"last({window})"},
    }
    times: list[float] = []

    async def play(turns: int, streams: int, seed: int) -> None:
        made = parse({**table, "turns": turns, "streams": streams, "seed": seed})
        times[:] = [time.perf_counter()]
        with tempfile.TemporaryDirectory() as folder:
            run = Run(
                made,
                Path(folder),
                concurrency=sessions,
                on_turn=lambda *_: times.append(time.perf_counter()),
            )
            result = await run.play()
        if not result.complete:
            raise RuntimeError(str(result.stopped[0].reason))

    # A first run of two turns loads the imports; another seed keeps its samples out of the caches.
    await play(2, 1, seed=1)
    used = time.process_time()
    await play(turns, sessions, seed=0)
    return times[-1] - times[0], times[-1] - times[-2], time.process_time() - used


async def play_theirs(
    name: str, base_url: str, sessions: int, turns: int, window: int | None
) -> tuple[float, float, float]:
    """Run the loops of one client; return the same as `play_ours`."""
    async with LOOPS[name](base_url) as ask:

        async def play() -> float:
            start = 0.0
            for turn in range(turns):
                start = time.perf_counter()
                await ask(turn if window is None else min(turn, window))
            return time.perf_counter() - start

        await ask(0)
        start, used = time.perf_counter(), time.process_time()
        lasts = await asyncio.gather(*(play() for _ in range(sessions)))
        return time.perf_counter() - start, lasts[-1], time.process_time() - used


def play_one(name: str, base_url: str, sessions: int, turns: int, window: int | None) -> None:
    """Run one client here; print the seconds that it took, and peak MiB."""
    if name == "ours":
        measured = uvloop.run(play_ours(base_url, sessions, turns, window))
    else:
        measured = asyncio.run(play_theirs(name, base_url, sessions, turns, window))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([*measured, peak]))


def measure(
    sessions: int, turns: int, window: int | None, latency_s: float, repeats: int
) -> Iterator[tuple[str, float, float, float, float]]:
    """Yield the medians of each client.

    These are turns per second, milliseconds of the last turn, milliseconds of processor time for a
    turn, and peak MiB.
    """
    with constant_endpoint(latency_s) as base_url:
        for name in CLIENTS:
            arguments = [name, base_url, str(sessions), str(turns), str(window or 0)]
            command = [sys.executable, __file__, "--one", *arguments]
            runs = [
                json.loads(subprocess.check_output(command).splitlines()[-1])
                for _ in range(repeats)
            ]
            seconds, last, used, peak = map(median, zip(*runs, strict=True))
            count = sessions * turns
            yield name, count / seconds, 1e3 * last, 1e3 * used / count, peak


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
    for sessions, turns, window, latency_s in SHAPES[1:2] if given.quick else SHAPES:
        title = f"{sessions} sessions x {turns} turns, window {window or 'none'}"
        print(f"\n{title}, {latency_s * 1e3:.0f} ms")
        print(f"{'':<53}ours, as a multiple: turns/s, processor time, MiB")
        print(f"{'client':<9}{'turns/s':>9}{'last turn ms':>14}{'CPU ms':>9}{'peak MiB':>10}")
        ours: tuple[float, ...] = ()
        for name, *row in measure(sessions, turns, window, latency_s, given.repeats):
            rate, last, used, peak = row
            ours = ours or (rate, used, peak)
            multiples = (f"{a / b:>11.2f}" for a, b in zip(ours, (rate, used, peak), strict=True))
            cells = f"{name:<9}{rate:>9.0f}{last:>14.1f}{used:>9.2f}{peak:>10.0f}"
            print(cells, *multiples, flush=True)


if __name__ == "__main__":
    main()
