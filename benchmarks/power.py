"""Compare planned power with the power of simulated studies.

The first table has three designs. In a study, every session draws its accuracy around the mean of its arm, and
every turn of its second half is right with that probability. Planned and measured power may differ by 5 points.
The second table has studies with normal differences and the detectable effect, which 78 to 84 % must find.
Exits with 1 if a row is outside its range.

    python benchmarks/power.py
"""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl_loop.analysis import Contrast
from icl_loop.analysis.power import detectable, deviation_of_difference, power

STUDIES = 4_000
ALLOWED = 0.05
AT_DETECTABLE = (0.78, 0.84)
FEW = (6, 7, 8, 12)
"""Numbers of streams of the second table."""
SEED = 1908


@dataclass(frozen=True)
class Design:
    """A design: late accuracy of both arms and its standard deviation between sessions (`spread`)."""

    streams: int
    turns: int
    first: float
    second: float
    spread: float

    @property
    def late(self) -> int:
        """Number of turns in the second half."""
        return self.turns - self.turns // 2


DESIGNS = (
    Design(streams=8, turns=200, first=0.40, second=0.30, spread=0.05),
    Design(streams=12, turns=100, first=0.62, second=0.50, spread=0.08),
    Design(streams=24, turns=400, first=0.25, second=0.20, spread=0.05),
)


def planned(design: Design) -> float:
    """Return the planned power."""
    deviation = deviation_of_difference(design.first, design.second, design.late, design.spread)
    return power(design.first - design.second, deviation, design.streams)


def measured(design: Design) -> float:
    """Return the share of simulated studies that are significant."""
    random = np.random.default_rng(SEED)
    first, second = (late_accuracy(design, mean, random) for mean in (design.first, design.second))
    return significant(first - second)


def significant(differences: NDArray[np.float64]) -> float:
    """Return the share of studies whose contrast is significant, from shape (studies, streams)."""
    none = dict.fromkeys(range(differences.shape[1]), 0.0)
    found = [
        Contrast.of(("first", "second"), dict(enumerate(each)), none)
        for each in differences.tolist()
    ]
    return float(np.mean([each.significant for each in found]))


def power_at_detectable(streams: int) -> float:
    """Return the share of studies that find the detectable effect, if differences are normal."""
    effect = detectable(1.0, streams)
    noise = np.random.default_rng([SEED, streams]).standard_normal((STUDIES, streams))
    return significant((effect or 0.0) + noise)


def late_accuracy(design: Design, mean: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return the late accuracy of every session in an arm, shape (studies, streams)."""
    accuracy = random.normal(mean, design.spread, (STUDIES, design.streams)).clip(0, 1)
    return random.binomial(design.late, accuracy) / design.late


def main() -> None:
    """Print both tables; exit with 1 if a row is outside its range."""
    print(f"power in %, {STUDIES} studies per design, standard error up to 0.8")
    print(
        f"{'streams':>7} {'turns':>5} {'accuracies':>12} {'spread':>6} {'planned':>8} {'measured':>8}"
    )
    gaps = []
    for design in DESIGNS:
        plan, studies = planned(design), measured(design)
        gaps.append(abs(plan - studies))
        print(
            f"{design.streams:>7} {design.turns:>5} {design.first:>5.2f}, {design.second:>5.2f}"
            f" {design.spread:>6.2f} {100 * plan:>8.1f} {100 * studies:>8.1f}"
        )
    print(f"largest gap: {100 * max(gaps):.1f} points ({100 * ALLOWED:.0f} allowed)")
    print("\nstreams  found, at the detectable effect")
    found = {streams: power_at_detectable(streams) for streams in FEW}
    for streams, share in found.items():
        print(f"{streams:>7} {100 * share:>8.1f}")
    low, high = AT_DETECTABLE
    print(f"accepted: {100 * low:.0f} to {100 * high:.0f}")
    sys.exit(max(gaps) > ALLOWED or not all(low <= share <= high for share in found.values()))


if __name__ == "__main__":
    main()
