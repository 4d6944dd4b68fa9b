"""What sessions do with feedback: whether they repeat answers that were called right, and explore."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from icl_loop.analysis.contrasts import Contrast
from icl_loop.analysis.inference import Conclusion

Nearest = Mapping[str, Sequence[int | None]]
"""By session path: for each turn, the shown past turn with the nearest sample, or None."""
SESSION = ("experiment", "arm", "stream", "path")
EXPLORATION = ("labels_tried", "refuted_repeats", "greedy_share")
"""The measures of `exploration`."""


def feedback_use(turns: pl.DataFrame, nearest: Nearest | None = None) -> pl.DataFrame:
    """Return how much more likely a session repeats an answer called right than one called wrong.

    This is P(same answer | past answer called right) - P(same answer | past answer called wrong), where
    the past turn is the shown one with the nearest sample. What the model was told counts, not the
    truth, so that flipped, noisy and yoked feedback can be compared with honest feedback. Past turns
    without an answer, or about whose answer nothing had been said before the turn, are excluded.

    Args:
        turns: The result of `frame`.
        nearest: The result of `nearest_turns`; sessions missing from it get null. None uses
            the previous turn instead of the nearest, which measures staying and shifting only.

    Returns:
        Columns `experiment`, `arm`, `stream`, `path`, `feedback_use`; null if no past answer was called
        right, or none was called wrong.
    """
    pointed = turns.with_columns(past=_past_turns(turns, nearest)).drop_nulls("past")
    past = turns.select(
        *("path", "told_right", "told_after"), past="turn", past_answer="answer"
    ).drop_nulls(["past_answer", "told_right"])
    pairs = (
        pointed.drop("told_right", "told_after")
        .join(past, on=["path", "past"], how="inner", maintain_order="left")
        .filter(pl.col("told_after") < pl.col("turn"))
    )
    same = _same("past_answer")
    use = pairs.group_by("path").agg(
        feedback_use=same.filter("told_right").mean() - same.filter(~pl.col("told_right")).mean()
    )
    every = turns.select(SESSION).unique(maintain_order=True)
    return every.join(use, on="path", how="left", maintain_order="left")


def _past_turns(turns: pl.DataFrame, nearest: Nearest | None) -> pl.Series | pl.Expr:
    if nearest is None:
        return pl.when(pl.col("exposure") > 0).then(pl.col("turn") - 1)
    if not nearest:
        return pl.lit(None, pl.Int64)
    found = [
        nearest[path][turn] if turn < len(nearest.get(path, ())) else None
        for path, turn in turns.select("path", "turn").iter_rows()
    ]
    return pl.Series("past", found, dtype=pl.Int64)


def exploration(turns: pl.DataFrame) -> pl.DataFrame:
    """Return how each session explores: what it tries, and how it treats what it was told.

    The class of a turn is its correct label. What was said about an answer counts from the turn after it
    was said. Only turns that show past turns count towards the last two measures.

    Returns:
        Columns `experiment`, `arm`, `stream`, `path`, and

        - `labels_tried`: the share of all labels that were answered at least once to samples of a class,
          averaged over the classes that occurred. It grows with the number of turns.
        - `refuted_repeats`: P(same answer | the last judged answer to a sample of the class was called
          wrong). Guessing among k labels gives 1 / k. Null if none was called wrong.
        - `greedy_share`: P(answer is the label last told for the class | one was told), where a label is
          told by calling an answer right, or by revealing it. Null if none was told.
    """
    # Millions of turns fit into less memory if strings are categories and turns short integers.
    slim = turns.select(
        "told_right",
        "chance",
        pl.col("path", "label", "answer", "told_label").cast(pl.Categorical),
        pl.col("turn", "told_after").cast(pl.Int32),
        is_shown=pl.col("exposure") > 0,
    )
    tried = (
        slim.group_by("path", "label")
        .agg(
            pl.col("answer").drop_nulls().n_unique(), labels=(1 / pl.col("chance").first()).round()
        )
        .group_by("path")
        .agg(labels_tried=pl.col("answer").sum() / pl.col("labels").sum())
    )
    judged = slim.drop_nulls(["told_right", "answer"])
    refuted = _last_before(slim, judged, "answer", "told_right").filter(~pl.col("told_right"))
    repeats = refuted.group_by("path").agg(refuted_repeats=_same("past").mean())
    known = _last_before(slim, slim.drop_nulls("told_label"), "told_label")
    greedy = known.group_by("path").agg(greedy_share=_same("past").mean())
    sessions = turns.select(SESSION).unique(maintain_order=True)
    for measured in (tried, repeats, greedy):
        named = measured.with_columns(pl.col("path").cast(pl.String))
        sessions = sessions.join(named, on="path", how="left", maintain_order="left")
    return sessions


def _last_before(turns: pl.DataFrame, judged: pl.DataFrame, label: str, *more: str) -> pl.DataFrame:
    """Join `label` of the last answer to a sample of the class that was judged before, as `past`.

    Turns without any, and those that show no past turn, are left out.
    """
    by = ["path", "label"]
    first = pl.col("told_after") + 1  # the first turn that can know it
    past = judged.select(*by, *more, past=label, known=first).sort("known")
    asked = turns.filter("is_shown").select(*by, "turn", "answer").sort("turn")
    return asked.join_asof(
        past, left_on="turn", right_on="known", by=by, check_sortedness=False
    ).drop_nulls("known")


def _same(past: str) -> pl.Expr:
    return (pl.col("answer") == pl.col(past)).fill_null(value=False)


def feedback_use_contrasts(
    turns: pl.DataFrame, nearest: Nearest | None, conclusions: Iterable[Conclusion]
) -> list[tuple[str, Contrast]]:
    """Return the difference in use of feedback in each contrast that a verdict rests on.

    Contrasts with an arm that is never told both right and wrong, such as `none`, are left out.

    Args:
        turns: The result of `frame`.
        nearest: The result of `nearest_turns`; see `feedback_use`.
        conclusions: The conclusions, which name the contrasts.

    Returns:
        Pairs of an experiment and a contrast, in the order of the conclusions.
    """
    used = feedback_use(turns, nearest).drop_nulls("feedback_use")
    means = used.group_by("experiment", "arm", "stream").agg(pl.col("feedback_use").mean())
    streams: dict[tuple[str, str], dict[int, float]] = {}
    for experiment, arm, stream, value in means.iter_rows():
        streams.setdefault((experiment, arm), {})[stream] = value
    found = []
    for each in conclusions:
        rests_on = (each.primary, *each.needed)
        pairs = {contrast.arms: None for contrast in rests_on if contrast is not None}
        for first, second in pairs:
            one, other = (streams.get((each.experiment, arm), {}) for arm in (first, second))
            contrast = Contrast.of((first, second), one, other, largest=2.0)
            found += [(each.experiment, contrast)] if contrast.k else []
    return found


def feedback_use_sentence(experiment: str, contrast: Contrast) -> str:
    """Return the difference in use of feedback in one sentence."""
    said = f"{experiment}: use of feedback, {' - '.join(contrast.arms)}: {contrast.theta:+.2f}"
    if contrast.interval:
        said += " [{:+.2f}, {:+.2f}]".format(*contrast.interval)
    test = "not tested" if contrast.p is None else f"{contrast.test} p = {contrast.p:.4f}"
    return f"{said}, {contrast.k} stream{'s' * (contrast.k > 1)}, {test}"


def feedback_use_fields(experiment: str, contrast: Contrast) -> dict[str, Any]:
    """Return a difference in use of feedback as JSON; undefined values are null."""
    return {
        "experiment": experiment,
        "arms": list(contrast.arms),
        "theta": contrast.theta,
        "ci": contrast.interval and list(contrast.interval),
        "p": contrast.p,
        "k": contrast.k,
        "streams": list(contrast.streams),
        "differences": list(contrast.differences),
    }
