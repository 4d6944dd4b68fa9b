"""Check that the verdict is "learned" if and only if the model learns, on MNIST.

    python benchmarks/ladder.py

Reference learners and simulated models that cannot learn play the arms `feedback`, `yoked`, `none` and
`stateless`, 8 streams of 200 turns each, and the transcripts are analysed like `icl-loop analyze` does.
After the last turn, 20 probes are asked with the verdicts as told and flipped: the accuracy of a learner
depends on them, that of the others does not. Needs MNIST, downloaded or below the folder that
ICL_LOOP_DATA names. Exits with 1 if a result is unexpected.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from icl_loop import Run, parse
from icl_loop.analysis import (
    Contrast,
    conclude,
    counterfactual_contrast,
    frame,
    probes,
    sessions,
)

ARMS = (
    {"name": "feedback", "probes": {"at": [200], "count": 20, "verdicts": ["told", "flipped"]}},
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
    "simulated/format-learner": ({}, False),
}
"""The models, their parameters, and whether they learn."""


def play(name: str, params: Mapping[str, object], folder: Path) -> tuple[str, Contrast, Contrast]:
    """Play all arms; return the verdict, the primary contrast, and told against flipped verdicts."""
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
    probed = probes(result.paths)
    concluded = conclude(frame(result.paths), None, sessions(result.paths), probed=probed)
    flipped = counterfactual_contrast(probed, "feedback")
    if concluded.primary is None or flipped is None:
        sys.exit(f"{name}: no contrast")
    return str(concluded.verdict), concluded.primary, flipped


def numbers(contrast: Contrast) -> str:
    """Return the effect and its interval in points."""
    if contrast.theta is None or contrast.interval is None:
        return "none"
    low, high = contrast.interval
    return f"{100 * contrast.theta:+6.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def main() -> None:
    """Print a row for each model."""
    failed = False
    print("8 streams x 200 turns, mnist:test, grid, correct/incorrect; differences in points")
    print(f"{'model':<34}{'verdict':<18}{'feedback - yoked':<24}{'p':<10}told - flipped")
    for name, (params, learns) in MODELS.items():
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            verdict, primary, flipped = play(name, params, Path(folder))
        depends = flipped.theta is not None and flipped.theta > 0.2 and flipped.above
        passed = (verdict == "learned") == learns and (depends if learns else not flipped.above)
        failed |= not passed
        row = (
            f"{name:<34}{verdict:<18}{numbers(primary):<24}{primary.p!s:<10}{numbers(flipped):<24}"
        )
        seconds = time.perf_counter() - start
        print(f"{row}{seconds:5.0f} s  {'PASS' if passed else 'FAIL'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
