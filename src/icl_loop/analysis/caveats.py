"""Caveats: what a reader should know before believing a contrast."""

from collections.abc import Iterator

import polars as pl

from icl_loop.analysis.arm_roles import Pair, Roles
from icl_loop.analysis.contrasts import Contrast
from icl_loop.context.calibration import Calibration

CUT_SHARE = 0.75
"""A request of which less than this share of the expected tokens was reported may have been cut."""
_LOWEST_SHARE = 0.35
"""The same share of the tokens counted locally, if there are no images."""
_IMAGE_TOKENS = 1_000
"""An image is counted as more tokens, of which the endpoint may report very few."""
_FEWEST_CUT = 3
"""Fewer suspicious requests of an arm are not reported."""
LENGTH_TOLERANCE = 0.2
"""Feedback lengths that differ by more than this share of the longer one are reported."""
_SHORTEST_ORDER = 5
"""Shorter sample orders may coincide by chance."""


def caveats(
    turns: pl.DataFrame, roles: Roles, *, named: Pair | None, contrast: Contrast | None
) -> Iterator[str]:
    """Yield one sentence per caveat about the turns of one experiment.

    Args:
        turns: The result of `frame` for one experiment.
        roles: The roles of its arms.
        named: The contrast requested by the user, or None if the recorded one was used.
        contrast: The resulting contrast, if any.
    """
    if roles.imported:
        yield (
            f"these sessions were imported from {', '.join(roles.imported)}; they cannot be verified, and"
            " what the file does not say is left blank"
        )
    yield from _repeated_orders(turns)
    yield from _missing_streams(turns, roles)
    yield from _cut_prompts(turns)
    yield from _unknown_finish_reasons(turns)
    yield from (
        f"arm {arm!r} received feedback from a mismatched donor: {what}"
        for arm, what in roles.mismatches.items()
    )
    yield from _choice_of_primary(turns, roles, named)
    if len(roles.planned) > 1:
        value = "" if contrast is None else f" (e-value {contrast.e_value:.1f})"
        yield (
            f"sessions were planned with different numbers of streams"
            f" ({' and '.join(map(str, roles.planned))}). If the results were inspected before the number"
            f" was changed, p is too small and only the e-process is valid{value}"
        )
    if contrast is not None:
        yield from _of_contrast(turns, roles, contrast)


def _repeated_orders(turns: pl.DataFrame) -> Iterator[str]:
    """Yield arms in which two sessions share the same samples in the same order."""
    sessions = turns.group_by("arm", "path", maintain_order=True)
    orders = sessions.agg(pl.col("sample").drop_nulls(), pl.col("stream").first()).unique(
        ("arm", "stream"), keep="first", maintain_order=True
    )  # the sessions of one stream share its order
    shortest = pl.col("sample").list.len().min().over("arm")
    heads = orders.filter(shortest >= _SHORTEST_ORDER).with_columns(
        head=pl.col("sample").list.head(shortest).list.join("\n")
    )
    counts = heads.group_by("arm", maintain_order=True).agg(
        same=pl.len() - pl.col("head").n_unique()
    )
    for arm, same in counts.iter_rows():
        if same:
            yield (
                f"arm {arm!r}: {same} of its sessions repeat another session's samples in the same"
                " order, so the streams are not independent and p is too small"
            )


def _missing_streams(turns: pl.DataFrame, roles: Roles) -> Iterator[str]:
    played = turns.group_by("arm", maintain_order=True).agg(pl.col("stream").n_unique())
    planned = () if roles.stopped_early else roles.planned
    most = max(turns["stream"].n_unique(), *planned, 0)
    for arm, streams in played.iter_rows():
        if streams < most:
            yield f"arm {arm!r} has {streams} of {most} streams"


def _cut_prompts(turns: pl.DataFrame) -> Iterator[str]:
    """Yield arms in which the endpoint reported fewer tokens than their requests must have had."""
    ratio = pl.col("prompt") / pl.col("counted")
    reported = turns.filter((pl.col("prompt") > 0) & (pl.col("counted") > 0))
    odd = (ratio.min() < CUT_SHARE * ratio.max()) | (ratio.min() < _LOWEST_SHARE)
    suspects = reported.filter(odd.over("path"))
    found: dict[str, list[int]] = {}
    for (arm, _), session in suspects.group_by("arm", "path", maintain_order=True):
        calibration = Calibration()
        for prompt, counted, shown in session.select("prompt", "counted", "exposure").iter_rows():
            counts = calibration.add(prompt, counted, images=counted)
            has_fallen = not counts and prompt < CUT_SHARE * calibration.value * counted
            may_have_images = counted > _IMAGE_TOKENS * (shown + 1)
            if has_fallen or (prompt < _LOWEST_SHARE * counted and not may_have_images):
                found.setdefault(str(arm), []).append(prompt)
    for arm, prompts in found.items():
        if len(prompts) >= _FEWEST_CUT:
            yield (
                f"arm {arm!r}: for {len(prompts)} of {turns.filter(arm=arm).height} requests the"
                f" endpoint reported far fewer tokens than they must have had (at most"
                f" {max(prompts):,}). Either it cuts long prompts without saying so, and its context"
                " window is smaller than model.context_window, or it counts only what its cache did"
                " not hold"
            )


def _unknown_finish_reasons(turns: pl.DataFrame) -> Iterator[str]:
    unknown = turns.filter(pl.col("finish_reason").is_not_null())
    for arm, reason, count in (
        unknown.group_by("arm", "finish_reason", maintain_order=True).len().iter_rows()
    ):
        yield (
            f"arm {arm!r}: {count} replies ended with the finish reason {reason!r}, which is not known"
            " here; check whether they are complete"
        )


def _choice_of_primary(turns: pl.DataFrame, roles: Roles, named: Pair | None) -> Iterator[str]:
    """Yield caveats about when and how the primary contrast was chosen."""
    if roles.contradictory:
        yield "the sessions recorded different primary contrasts; the first one is used"
    if named is None and roles.primary is None:
        yield "no primary contrast was recorded, so there is no verdict; choose one with --primary"
    elif named is not None and named != roles.primary:
        yield (
            f"the contrast of {named[0]!r} with {named[1]!r} was chosen after the turns were played:"
            " it is exploratory, not confirmatory"
        )
    elif roles.primary is not None:
        arms = set(turns["arm"].unique())
        for arm in roles.primary:
            if arm not in arms:
                yield f"arm {arm!r} of the primary contrast has no turns yet, so there is no verdict"


def _of_contrast(turns: pl.DataFrame, roles: Roles, contrast: Contrast) -> Iterator[str]:
    first, second = contrast.arms
    pair = turns.filter(pl.col("arm").is_in([first, second]))
    shared = pair.group_by("stream").agg(pl.col("arm").n_unique()).filter(arm=2).height
    if roles.stopped_early:
        yield (
            "the run stopped early, so the number of streams was not fixed in advance; the verdict"
            " rests on e-values, and p and intervals are only descriptive"
        )
    if contrast.k < shared:
        yield (
            f"{shared - contrast.k} of {shared} streams are excluded from the contrast because they"
            " are unfinished in one of the arms"
        )
    yield from _different_samples(pair, contrast)
    if not any(map(roles.is_stateless, contrast.arms)):  # a stateless arm never sees its feedback
        yield from _feedback_lengths(pair, contrast)
    yield from _missing_controls(roles, contrast)


def _different_samples(pair: pl.DataFrame, contrast: Contrast) -> Iterator[str]:
    sample = pl.col("sample").cast(pl.Categorical).to_physical()  # faster to compare than strings
    shown = (
        pair.drop_nulls("correct")
        .group_by("stream", "turn")
        .agg(different=sample.min() != sample.max())
    )
    others = shown.filter("different")["stream"].n_unique()
    if others:
        first, second = contrast.arms
        yield f"{first!r} and {second!r} were shown different samples in {others} streams"


def _feedback_lengths(pair: pl.DataFrame, contrast: Contrast) -> Iterator[str]:
    means = dict(pair.group_by("arm").agg(pl.col("told_length").mean()).iter_rows())
    first, second = (means[arm] for arm in contrast.arms)
    if None not in (first, second) and abs(first - second) > LENGTH_TOLERANCE * max(first, second):
        yield (
            f"feedback averages {first:.1f} characters a turn in {contrast.arms[0]!r} and"
            f" {second:.1f} in {contrast.arms[1]!r}: the difference may be due to its length"
        )


def _missing_controls(roles: Roles, contrast: Contrast) -> Iterator[str]:
    """Yield the controls that a claim of learning needs but that were not played."""
    first, second = contrast.arms
    if first not in roles.arms or roles.arms[first].is_control:
        return
    is_unfinished = not roles.stopped_early and contrast.k < max(roles.planned, default=0)
    for kind in ("yoked", "none"):
        if roles.control(first, kind) is None:
            yield (
                f"no matching {kind!r} control of {first!r} has turns yet; so far it is compared with"
                f" {second!r} only"
                if is_unfinished
                else f"{first!r} has no matching {kind!r} control; it is compared with {second!r} only"
            )
