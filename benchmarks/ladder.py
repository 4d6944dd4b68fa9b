"""Check that the verdict is "learned" if and only if the model learns, on MNIST.

    python benchmarks/ladder.py

Reference learners and simulated models that cannot learn play the arms `feedback`, `yoked`, `none` and
`stateless`, 8 streams of 200 turns each, and the transcripts are analysed like `icl-loop analyze` does.
Needs MNIST, downloaded or below the folder that ICL_LOOP_DATA names. Exits with 1 if a verdict is
unexpected.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from icl_loop import Run, parse
from icl_loop.analysis import conclude, frame, sessions

ARMS = (
    {"name": "feedback"},
    {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
    {"name": "none", "feedback": {"kind": "none"}},
    {"name": "stateless", "context": {"policy": "stateless"}},
)
DRIFTING = {"dataset": "mnist:test", "start": 0.2, "end": 0.2, "drift": 1.0}
MODELS: Mapping[str, tuple[dict[str, object], bool]] = {
    "reference/propagation": ({}, True),
    "reference/nearest": ({}, True),
    "simulated/chance": ({}, False),
    "simulated/scheduled-accuracy": (DRIFTING, False),
    "simulated/win-stay-lose-shift": ({}, False),
}
"""The models, their parameters, and whether they learn."""


def play(name: str, params: Mapping[str, object], folder: Path) -> tuple[str, str]:
    """Play all arms and return the verdict and the primary contrast."""
    made = parse(
        {
            "name": name.replace("/", "-"),
            "turns": 200,
            "streams": 8,
            "seed": 20230315,
            "task": {"dataset": "mnist:test", "encoding": "grid"},
            "model": {"name": name, "params": params, "context_window": 65_536},
            "arms": list(ARMS),
            "analysis": {"primary": ["feedback", "yoked"]},
        }
    )
    result = asyncio.run(Run(made, folder).play())
    if not result.complete:
        sys.exit(str(result.stopped[0].reason))
    concluded = conclude(frame(result.paths), None, sessions(result.paths))
    contrast = concluded.primary
    if contrast is None or contrast.theta is None or contrast.interval is None:
        sys.exit(f"{name}: no contrast")
    low, high = contrast.interval
    numbers = f"{100 * contrast.theta:+6.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return str(concluded.verdict), f"{numbers:<24} p = {contrast.p}"


def main() -> None:
    """Print a row for each model."""
    failed = False
    print("feedback against yoked, 8 streams x 200 turns, mnist:test, grid, correct/incorrect")
    for name, (params, learns) in MODELS.items():
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            verdict, numbers = play(name, params, Path(folder))
        passed = (verdict == "learned") == learns
        failed |= not passed
        seconds = time.perf_counter() - start
        row = f"{name:<34}{verdict:<18}{numbers:<46}{seconds:5.0f} s"
        print(f"{row}  {'PASS' if passed else 'FAIL'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
