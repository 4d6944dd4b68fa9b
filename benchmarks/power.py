"""Compare planned power with the power of simulated studies, for three designs.

In a study, every session draws its accuracy around the mean of its arm, and every turn of its second half is
right with that probability. Exits with 1 if planned and measured power differ by more than 5 points.

    python benchmarks/power.py
"""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl_loop.analysis import Contrast
from icl_loop.analysis.power import deviation_of_difference, power

STUDIES = 4_000
ALLOWED = 0.05
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
    found = [
        Contrast.of(("first", "second"), dict(enumerate(one)), dict(enumerate(other)))
        for one, other in zip(first.tolist(), second.tolist(), strict=True)
    ]
    return float(np.mean([each.significant for each in found]))


def late_accuracy(design: Design, mean: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return the late accuracy of every session in an arm, shape (studies, streams)."""
    accuracy = random.normal(mean, design.spread, (STUDIES, design.streams)).clip(0, 1)
    return random.binomial(design.late, accuracy) / design.late


def main() -> None:
    """Print the table; exit with 1 if planned and measured power differ too much."""
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
    sys.exit(max(gaps) > ALLOWED)


if __name__ == "__main__":
    main()
