"""Differences between models: how much larger one's effect is than another's, stream by stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from operator import attrgetter

import numpy as np

from icl_loop.analysis.contrasts import STOP_AT, Contrast, adjusted, e_process
from icl_loop.analysis.inference import Conclusion, Verdict
from icl_loop.analysis.significance import ALPHA


@dataclass(frozen=True, slots=True)
class ModelDifference:
    """The difference between the effects of two models in one experiment.

    Attributes:
        experiment: Name of the experiment.
        contrast: The models take the place of arms, and their D that of accuracies.
        p_adjusted: Its p-value, adjusted for the number of pairs of models.
        effects: The arms of both primary contrasts.
        verdict: The verdict on the difference.
    """

    experiment: str
    contrast: Contrast
    p_adjusted: float | None
    effects: tuple[tuple[str, str], tuple[str, str]]
    verdict: Verdict


def model_differences(conclusions: Sequence[Conclusion]) -> list[ModelDifference]:
    """Return the difference between each two models of an experiment, given its conclusions.

    Models without a primary contrast are left out.
    """
    found = []
    judged = [each for each in conclusions if each.model and each.primary]
    for experiment, models in groupby(judged, attrgetter("experiment")):
        pairs = [
            (first, second, first.primary, second.primary)
            for first, second in combinations(models, 2)
            if first.primary and second.primary
        ]
        contrasts = [
            Contrast.of(
                (str(first.model), str(second.model)),
                dict(zip(one.streams, one.differences, strict=True)),
                dict(zip(other.streams, other.differences, strict=True)),
                one.margin,
                largest=2,
            )
            for first, second, one, other in pairs
        ]
        for pair, contrast, p in zip(pairs, contrasts, adjusted(contrasts), strict=True):
            first, second, one, other = pair
            verdict = _verdict(contrast, p, first, second)
            found.append(ModelDifference(experiment, contrast, p, (one.arms, other.arms), verdict))
    return found


def _verdict(contrast: Contrast, p: float | None, first: Conclusion, second: Conclusion) -> Verdict:
    """Return the verdict: by the adjusted p, or by the e-process if the run stopped early.

    The mean of the e-processes for both directions is an e-process, too.
    """
    if p is None:
        return "descriptive only"
    if first.failed_gate or second.failed_gate or len(set(contrast.differences)) == 1:
        return "invalid"
    if first.stopped_early:
        values = np.array(contrast.differences)
        evidence = (e_process(values) + e_process(-values)) / 2
        return "different" if evidence.max() >= STOP_AT else "no evidence"
    if p < ALPHA:
        return "different"
    return "equivalent" if contrast.equivalent else "no evidence"
