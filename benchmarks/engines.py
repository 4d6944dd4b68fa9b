"""Turns per second of the local engine and of a Ray cluster of two workers.

    python benchmarks/engines.py

Sessions play a simulated model that takes almost no time, or an endpoint that answers after 50 ms.
The table shows turns per second, and the processor time per turn of the process that writes
transcripts. The first 10 turns of each session are not counted, because workers are still starting.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from constant_endpoint import constant_endpoint
from icl_loop import Run, Session, parse
from icl_loop.core.records import Turn
from icl_loop.runner.engines import Engine, local
from icl_loop.runner.engines.ray import on_ray
from icl_loop.runner.engines.ray.cluster import cluster

PORT = 8432
REPEATS = 3
WARM_UP = 10
ENDPOINT = {"name": "nothing", "base_url": f"http://127.0.0.1:{PORT}/v1"}
SIZES = {"simulated": (16, 200, {"name": "simulated/chance"}), "endpoint": (64, 60, ENDPOINT)}


def time_run(
    engine: Engine, sessions: int, turns: int, model: Mapping[str, str]
) -> tuple[float, float]:
    """Return turns per second, and the processor time of this process in ms per turn."""
    table = {"name": "engines", "turns": turns, "streams": sessions, "model": dict(model)}
    made = parse({**table, "context": {"policy": "last(32)"}})
    clocks: list[tuple[float, float]] = []

    def record_time(_: Session, turn: Turn) -> None:
        if turn.index >= WARM_UP:
            clocks.append((time.perf_counter(), time.process_time()))

    with (
        TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        run = Run(made, Path(folder), concurrency=sessions, engine=engine, on_turn=record_time)
        assert runner.run(run.play()).complete  # noqa: S101  only complete runs are timed
    (start, began), (end, ended) = clocks[0], clocks[-1]
    return len(clocks) / (end - start), 1000 * (ended - began) / len(clocks)


def main() -> None:
    """Print the table of results."""
    logging.disable(logging.WARNING)
    print(f"{'model':>12} {'engine':>6} {'turns/s':>8} {'ms/turn':>9}")
    with constant_endpoint(0.05, PORT), cluster(num_cpus=2):
        for name, size in SIZES.items():
            for label, engine in {"local": local, "ray": on_ray()}.items():
                figures = sorted(time_run(engine, *size) for _ in range(REPEATS))
                rate, cost = figures[REPEATS // 2]
                print(f"{name:>12} {label:>6} {rate:>8.0f} {cost:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
