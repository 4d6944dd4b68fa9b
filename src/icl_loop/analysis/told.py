"""What the model was told about each answer, parsed from the saved feedback.

Analysis of what feedback does must condition on these words: flipped, noisy and yoked feedback differ
from the truth.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import polars as pl

from icl_loop.core.errors import InputError
from icl_loop.tasks.prompts import ParsedFeedback, PromptSet, open_prompt_set, shipped

COLUMNS = {"told_right": pl.Boolean, "told_label": pl.String, "told_after": pl.Int64}
_SCHEMA = {
    "prompts": pl.String,
    "told": pl.String,
    "told_right": pl.Boolean,
    "revealed": pl.String,
    "ago": pl.Int64,
}


class Recorded(NamedTuple):
    """What is recorded about a session: the prompt set and the kind of feedback, if known.

    `every` says every how many turns the sample was chosen; 0 for never.
    """

    prompts: str | None = None
    kind: str | None = None
    every: int = 0


def with_verdicts(turns: pl.DataFrame, known: Mapping[str, Recorded]) -> pl.DataFrame:
    """Return a frame of turns with what the model was told about each answer.

    Args:
        turns: Columns `path`, `turn`, `label`, `answer`, `told`, in order.
        known: What is recorded about the sessions, by path; others have shipped prompts.

    Returns:
        The frame with three more columns: `told_right`, whether the answer was called right (true) or
        wrong (false); `told_label`, the label that was revealed, or the answer if it was called right;
        and `told_after`, the turn whose feedback said so, which is a later one if feedback is
        delayed. They are null for answers that nothing was said about. Demonstrations show the right
        label instead of the answer, so nothing is said about the answer.
    """
    sessions = pl.DataFrame(
        [(path, each.prompts, each.kind == "demonstrations") for path, each in known.items()],
        schema={"path": pl.String, "prompts": pl.String, "shows_labels": pl.Boolean},
        orient="row",
    )
    named = turns.join(sessions, on="path", how="left", maintain_order="left")
    phrases = named.select("prompts", "told").unique()
    meanings = [
        (name, told, each.correct, each.label, each.ago)
        for name, told in phrases.iter_rows()
        for each in _meaning(name, told)
    ]
    parsed = pl.DataFrame(meanings, schema=_SCHEMA, orient="row")
    heard = named.join(
        parsed, on=("prompts", "told"), how="left", nulls_equal=True, maintain_order="left"
    ).with_columns(told_after=pl.when(pl.col("told_right").is_not_null()).then("turn"))
    if parsed["ago"].max():
        heard = _by_judged_turn(named, heard)
    confirmed, shown = pl.when("told_right").then("answer"), pl.when("shows_labels").then("label")
    return heard.with_columns(
        told_right=pl.when(pl.col("shows_labels").fill_null(value=False).not_()).then("told_right"),
        told_label=pl.coalesce(shown, "revealed", confirmed),
    ).drop("prompts", "shows_labels", "revealed", "ago", strict=False)


def _by_judged_turn(turns: pl.DataFrame, heard: pl.DataFrame) -> pl.DataFrame:
    """Return the turns with the verdict on each, given what was heard after each turn."""
    verdicts = (
        heard.drop_nulls("told_right")
        .select("path", "told_right", "revealed", "told_after", turn=pl.col("turn") - pl.col("ago"))
        .unique(("path", "turn"), keep="last", maintain_order=True)
    )
    return turns.join(verdicts, on=("path", "turn"), how="left", maintain_order="left")


def recorded(header: str | bytes) -> Recorded:
    """Return what a session line says about feedback; nothing if it is damaged."""
    try:
        fields = json.loads(header)
    except ValueError:  # whoever needs more of the line reports it
        return Recorded()
    every = _value(fields, "task", "choice", "every")
    return Recorded(
        _text(fields, "task", "prompts"),
        _text(fields, "feedback", "kind"),
        every if isinstance(every, int) else 0,
    )


def _text(fields: Any, table: str, key: str) -> str | None:  # noqa: ANN401  any JSON
    """Return the text at a key of a table of settings, or None."""
    value = _value(fields, table, key)
    return value if isinstance(value, str) else None


def _value(fields: Any, *keys: str) -> object:  # noqa: ANN401  any JSON
    """Return the value at the keys of nested tables of settings, or None."""
    for name in ("settings", *keys):
        fields = fields.get(name) if isinstance(fields, dict) else None
    return fields


def only_counted(turns: pl.DataFrame, known: Mapping[str, Recorded]) -> pl.DataFrame:
    """Return the turns without `correct` where the sample was chosen, so that means ignore these."""
    chosen = {path: each.every for path, each in known.items() if each.every}
    if not chosen:
        return turns
    every = pl.col("path").replace_strict(chosen, default=0, return_dtype=pl.Int64)
    is_chosen = (every > 0) & ((pl.col("turn") + 1) % pl.max_horizontal(every, 1) == 0)
    return turns.with_columns(correct=pl.when(~is_chosen).then("correct"))


def is_feedback(prompts: str | None, text: str) -> bool:
    """Return whether a text is feedback, in the words of this or a shipped prompt set."""
    return bool(_meaning(prompts, text))


def _meaning(prompts: str | None, told: str | None) -> Sequence[ParsedFeedback]:
    """Return what a session was told: in its own prompt set, or else in a shipped one."""
    if told is None:
        return ()
    names = [prompts] if prompts is not None else []
    for name in (*names, *shipped()):
        found = _prompt_set(name)
        if found and (meaning := found.parse_feedback(told)):
            return meaning
    return ()


@lru_cache(maxsize=16)
def _prompt_set(name: str) -> PromptSet | None:
    """Return a prompt set, or None if its file is not on this machine or has changed its form."""
    try:
        return open_prompt_set(name)
    except InputError:
        return None
