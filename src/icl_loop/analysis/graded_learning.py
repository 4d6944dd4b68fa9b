"""Graded learning: how much probability the model gave to the right label.

Log loss and Brier score move before accuracy does: a model can come to give the right label more
probability while it still answers another one. Calibration tells whether its probabilities are as good
as they claim to be.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import ValidationError

from icl_loop.analysis.calibration import Calibration, calibration
from icl_loop.analysis.contrasts import Contrast
from icl_loop.analysis.curves import EARLY, LATE, Estimate
from icl_loop.analysis.inference import Conclusion
from icl_loop.core.errors import InputError, TranscriptError
from icl_loop.transcripts.columns import is_exported, read_table
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.reader import lines_of, parse, read_header
from icl_loop.transcripts.schema import LINE, LOGPROBS, TurnLine

MOST_BITS = 20.0
"""The log loss of a turn is at most this, so that no single turn decides a mean."""
_TIE = 1e-9
"""Probabilities that differ relatively by less than this are equal but for rounding."""
_KEY = "label_logprobs"
_SCHEMA = {
    "path": pl.String,
    "turn": pl.Int64,
    "log_loss": pl.Float64,
    "brier": pl.Float64,
    "confidence": pl.Float64,
    "hit": pl.Float64,
}


class Grade(NamedTuple):
    """How good the probabilities of one turn are.

    Attributes:
        log_loss: Bits of surprise at the right label, at most `MOST_BITS`.
        brier: Sum over labels of the squared distance to certainty of the right label.
        confidence: The probability of the most probable label.
        hit: 1 if that label is the right one, 0 if not; if several are most probable, the chance that
            one of them drawn at random is.
    """

    log_loss: float
    brier: float
    confidence: float
    hit: float


@dataclass(frozen=True, slots=True)
class GradedArm:
    """Log loss (in bits) and Brier score of one arm; lower is better.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        turns: Total number of turns.
        graded: Number of turns with log probabilities; the others are left out.
        guess: Log loss of giving every label the same probability.
        log_loss_early: Log loss over the early turns.
        log_loss_late: Log loss over the late turns.
        brier_early: Brier score over the early turns.
        brier_late: Brier score over the late turns.
        calibration_early: Calibration over the early turns.
        calibration_late: Calibration over the late turns.
    """

    experiment: str
    arm: str
    turns: int
    graded: int
    guess: float
    log_loss_early: Estimate
    log_loss_late: Estimate
    brier_early: Estimate
    brier_late: Estimate
    calibration_early: Calibration
    calibration_late: Calibration


@dataclass(frozen=True, slots=True)
class GradedContrast:
    """The difference in late log loss (in bits) of a contrast that the verdict rests on.

    A negative difference means that the first arm gave the right label more probability.
    """

    experiment: str
    contrast: Contrast


def grade(label: str, labels: Sequence[str], logprobs: Mapping[str, float]) -> Grade | None:
    """Return the grade of one turn, or None if too little is known about the probabilities.

    The probabilities are rescaled so that those of all labels add up to 1. A label that is not listed
    gets the smallest probability listed, or what the listed labels leave of 1 if that is
    less. This is an upper bound on its probability. If the labels that are not listed could have as
    much together as those that are, nothing is known: a model that is forced to answer with a label it
    would not have given lists only that one.

    Args:
        label: The correct label.
        labels: All labels of the session.
        logprobs: Natural log probabilities of some of them.
    """
    listed = {each: math.exp(min(logprobs[each], 0.0)) for each in labels if each in logprobs}
    if not any(listed.values()):
        return None
    unlisted = max(0.0, min(*listed.values(), 1 - math.fsum(listed.values())))
    if unlisted and unlisted * (len(labels) - len(listed)) >= math.fsum(listed.values()):
        return None
    shares = {each: listed.get(each, unlisted) for each in labels}
    total = math.fsum(shares.values())
    shares = {each: share / total for each, share in shares.items()}
    loss = -math.log2(max(shares[label], 2**-MOST_BITS)) + 0.0  # no -0.0
    brier = math.fsum((share - (each == label)) ** 2 for each, share in shares.items())
    confidence = max(shares.values())
    best = [each for each, share in shares.items() if share >= (1 - _TIE) * confidence]
    return Grade(loss, brier, confidence, (label in best) / len(best))


def graded_turns(turns: pl.DataFrame, paths: Iterable[Path]) -> pl.DataFrame | None:
    """Return a frame of turns with the columns of a `Grade`, null where not reported.

    Args:
        turns: The result of `frame`.
        paths: The paths given to `frame`.

    Returns:
        The frame, or None if no turn has log probabilities of the labels.

    Raises:
        TranscriptError: A line is not of the format; names file and line.
    """
    rows = [row for source in sources(paths) for row in _graded(source)]
    if not rows:
        return None
    grades = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    joined = turns.drop_nulls("correct").join(
        grades, on=("path", "turn"), how="left", maintain_order="left"
    )
    return joined if joined["log_loss"].count() else None


def _graded(source: Path) -> Iterator[tuple[Any, ...]]:
    """Yield path, turn and grade of the turns with log probabilities."""
    found = _exported(source) if is_exported(source) else _saved(source)
    for path, turn, label, labels, logprobs in found:
        if grades := grade(label, labels, logprobs):
            yield path, turn, *grades


_Scored = Iterator[tuple[str, int, str, Sequence[str], Mapping[str, float]]]


def _saved(path: Path) -> _Scored:
    labels: Sequence[str] = ()
    for number, line in enumerate(lines_of(path), start=1):
        is_sought = number > 1 and f'"{_KEY}"'.encode() in line  # parsing is much slower
        if is_sought and line.endswith(b"\n"):
            labels = labels or read_header(path).labels
            turn = parse(path, number, line, LINE)
            if isinstance(turn, TurnLine) and turn.label_logprobs:
                yield str(path), turn.turn, turn.label, labels, turn.label_logprobs


def _exported(export: Path) -> _Scored:
    turns = read_table(export, "turns", ("path", "turn", "label", _KEY)).drop_nulls(_KEY)
    if turns.is_empty():
        return
    headers = dict(read_table(export, "sessions", ("path", "header")).iter_rows())
    labels = {path: json.loads(headers[path])["labels"] for path in turns["path"].unique()}
    for path, turn, label, logprobs in turns.iter_rows():
        try:
            known = LOGPROBS.validate_json(logprobs, strict=True)
        except ValidationError:
            raise TranscriptError(
                f"{export} is damaged: turn {turn} of {path} has log probabilities that are no numbers"
            ) from None
        yield path, turn, label, labels[path], known


def graded_arms(graded: pl.DataFrame) -> list[GradedArm]:
    """Return the summary of each arm with log probabilities, from the result of `graded_turns`."""
    return [
        GradedArm(
            experiment=str(experiment),
            arm=str(arm),
            turns=part.height,
            graded=part["log_loss"].count(),
            guess=-math.log2(part["chance"][0]),
            log_loss_early=_estimate(part.filter(EARLY), "log_loss"),
            log_loss_late=_estimate(part.filter(LATE), "log_loss"),
            brier_early=_estimate(part.filter(EARLY), "brier"),
            brier_late=_estimate(part.filter(LATE), "brier"),
            calibration_early=calibration(part.filter(EARLY)),
            calibration_late=calibration(part.filter(LATE)),
        )
        for (experiment, arm), part in graded.group_by("experiment", "arm", maintain_order=True)
        if part["log_loss"].count()
    ]


def _estimate(turns: pl.DataFrame, name: str) -> Estimate:
    means = turns.group_by("path", maintain_order=True).agg(pl.col(name).mean()).drop_nulls()
    return Estimate.of(means[name].to_numpy())


def graded_contrasts(
    graded: pl.DataFrame, conclusions: Iterable[Conclusion]
) -> list[GradedContrast]:
    """Return the difference in late log loss for each contrast that a verdict rests on.

    As for accuracy, the unit is the stream and sessions must have played all late turns.
    """
    half = pl.col("turns") - pl.col("turns") // 2
    late = (
        graded.filter(LATE)
        .group_by("experiment", "arm", "stream")
        .agg(pl.col("log_loss").mean(), missing=half.first() - pl.len().cast(pl.Int64))
        .filter(missing=0)
        .drop_nulls("log_loss")
    )
    found = []
    for each in conclusions:
        pairs = {one.arms: None for one in (each.primary, *each.needed) if one is not None}
        for arms in pairs:
            parts = [late.filter(experiment=each.experiment, arm=arm) for arm in arms]
            first, second = (dict(part.select("stream", "log_loss").iter_rows()) for part in parts)
            contrast = Contrast.of(arms, first, second, largest=math.inf)
            found += [GradedContrast(each.experiment, contrast)] if contrast.k else []
    return found


def graded_sentence(each: GradedContrast) -> str:
    """Return the difference in late log loss in one sentence."""
    contrast = each.contrast
    said = (
        f"{each.experiment}: late log loss, {' - '.join(contrast.arms)}: {contrast.theta:+.2f} bits"
    )
    if contrast.interval:
        said += " [{:+.2f}, {:+.2f}]".format(*contrast.interval)
    test = "not tested" if contrast.p is None else f"{contrast.test} p = {contrast.p:.4f}"
    return f"{said}, {contrast.k} stream{'s' * (contrast.k > 1)}, {test} (negative: {contrast.arms[0]} is better)"


def loss_curves(graded: pl.DataFrame, window: int, score: str = "log_loss") -> pl.DataFrame:
    """Return the mean log loss, or another score, of every session in windows of turns.

    Args:
        graded: The result of `graded_turns`.
        window: Number of turns in a window, at least 1. If all sessions of an arm are shorter, its
            window is the length of its longest session.
        score: The column that is averaged: "log_loss" or "brier".

    Returns:
        Columns `experiment`, `arm`, `path`, `turn` (the middle of the window, counted from 1), the
        score (the mean over its turns with log probabilities) and `window` (its number of turns).
        Windows without any are left out.
    """
    if window < 1:
        raise InputError(f"window must be at least 1, got {window}")
    return pl.concat(
        _session_curves(part, min(window, 1 + int(part["turn"].max())), score)  # type: ignore[arg-type]  # integers
        for _, part in graded.group_by("experiment", "arm", maintain_order=True)
    )


def _session_curves(turns: pl.DataFrame, window: int, score: str) -> pl.DataFrame:
    mean = pl.col(score).rolling_mean(window, min_samples=1).over("path", order_by="turn")
    return (
        turns.with_columns(mean)
        .filter(pl.col("turn") + 1 >= window)
        .drop_nulls(score)
        .select(
            *("experiment", "arm", "path"),
            pl.col("turn") + 1 - (window - 1) / 2,
            score,
            window=pl.lit(window),
        )
    )


def graded_fields(arms: Sequence[GradedArm], contrasts: Sequence[GradedContrast]) -> dict[str, Any]:
    """Return graded learning as JSON for `analyze --json`; undefined values are null."""
    return {"arms": [_arm_fields(each) for each in arms], "contrasts": [*map(_fields, contrasts)]}


def _arm_fields(arm: GradedArm) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in asdict(arm).items():
        if name.startswith("calibration"):
            fields[name] = value
        elif isinstance(value, dict):
            fields |= {name: value["mean"], f"{name}_ci": value["interval"]}
        else:
            fields[name] = value
    return fields


def _fields(each: GradedContrast) -> dict[str, Any]:
    contrast = each.contrast
    return {
        "experiment": each.experiment,
        "arms": list(contrast.arms),
        "bits": contrast.theta,
        "ci": contrast.interval and list(contrast.interval),
        "p": contrast.p,
        "test": contrast.test,
        "k": contrast.k,
        "mde": contrast.mde,
        "streams": list(contrast.streams),
        "differences": list(contrast.differences),
    }
