"""Tests of verdicts: their rules, gates, and several models in one experiment."""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment
from icl_loop.analysis import (
    Conclusion,
    Contrast,
    conclude,
    conclude_each,
    difference_sentence,
    frame,
    model_differences,
    probes,
    sentence,
    sessions,
)
from icl_loop.analysis.contrasts import adjusted
from icl_loop.analysis.inference import Verdict
from icl_loop.core.errors import InputError, TranscriptError
from icl_loop.runner.run import Run
from icl_loop.terminal.conclusion_tables import conclusion_tables, difference_tables
from studies import ABSTRACT, FULL, HIGH, HIGH_TOO, LOW, concluded, played, settings_of
from terminal_text import shown

OTHER_FORMS = [("form", '"echo"'), ("every", 5)]

# ---- the verdict -------------------------------------------------------------------------


def test_learned_beats_every_control() -> None:
    """The verdict "learned" requires that the first arm beats every control."""
    good = concluded({"feedback": HIGH, "yoked": LOW, "none": LOW})
    assert good.verdict == "learned"
    assert [each.arms for each in good.needed] == [("feedback", "none")]
    assert sentence(good).startswith("Learned: 'feedback' is 46.2 points above 'yoked'")
    bad = concluded({"feedback": HIGH, "yoked": LOW, "none": HIGH_TOO})
    assert bad.verdict == "no evidence"
    assert "not shown to be above 'none'" in sentence(bad)
    turned = concluded({"feedback": HIGH, "none": LOW, "yoked": HIGH_TOO}, ("feedback", "none"))
    assert turned.verdict == "no evidence"
    assert "not shown to be above 'yoked'" in sentence(turned)
    half = {"feedback": HIGH, "none": LOW, "yoked": HIGH_TOO, "stateless": LOW}
    both = concluded(half, ("feedback", "stateless"))
    assert [each.arms[1] for each in both.needed] == ["none", "yoked"]
    assert both.verdict == "no evidence"
    assert "not shown to be above 'none'" not in sentence(both)


def test_improved_without_content_control() -> None:
    """Better than `none` alone is "improved"; better than `yoked` alone shows no learning."""
    found = concluded({"feedback": HIGH, "none": LOW}, ("feedback", "none"))
    assert found.verdict == "improved"
    assert list(found.controls) == ["none"]
    assert "content of the feedback" in sentence(found)
    harmed = concluded({"feedback": HIGH, "yoked": LOW})
    assert harmed.verdict == "no evidence"
    assert list(harmed.controls) == ["yoked"]
    assert "harm" in sentence(harmed)


def test_unmatched_controls() -> None:
    """An arm with other samples, policy or donor, or feedback of another form, is not a control."""
    forms = [{"feedback_settings": f'{{"{key}": {each}}}'} for key, each in OTHER_FORMS]
    for change in ({"setup": ABSTRACT}, {"context": "other"}, {"donor": "label"}, *forms):
        other = {**FULL["yoked"], **change}
        roles = {"feedback": FULL["feedback"], "none": FULL["none"], "other": other}
        turns = played({"feedback": HIGH, "none": LOW, "other": HIGH})
        found = conclude(turns, sessions=settings_of(roles, ("feedback", "none")))
        assert (found.verdict, found.needed) == ("improved", ())
        assert any("no matching 'yoked'" in warning for warning in found.warnings)


def test_significantly_worse() -> None:
    """A significantly worse arm gives "no evidence", and the sentence says so."""
    found = concluded({"feedback": LOW, "yoked": HIGH})
    assert found.verdict == "no evidence"
    assert "worse, not better" in sentence(found)


def test_equivalent() -> None:
    """Arms shown to differ by less than the margin are equivalent; a narrower margin may not suffice."""
    near = [each + 0.05 * (-1) ** stream * (stream < 4) for stream, each in enumerate(LOW)]
    found = concluded({"feedback": near, "yoked": LOW})
    assert found.verdict == "equivalent"
    assert "smaller than 5.0 points" in sentence(found)
    strict = settings_of(
        {arm: FULL[arm] for arm in ("feedback", "yoked")}, ("feedback", "yoked"), 0.01
    )
    narrow = conclude(played({"feedback": near, "yoked": LOW}), sessions=strict)
    assert narrow.verdict == "no evidence"
    assert "80 % power" in sentence(narrow)


def test_five_streams() -> None:
    """Five streams cannot be significant; the sentence says so and how many are needed."""
    found = concluded({"feedback": HIGH[:5], "yoked": LOW[:5]})
    assert found.primary is not None
    assert (found.primary.p, found.verdict) == (2 / 2**5, "no evidence")
    assert "0.0625" in sentence(found)
    assert "6 streams" in sentence(found)
    six = {"feedback": HIGH[:6], "yoked": LOW[:6], "none": LOW[:6]}
    assert concluded(six).verdict == "learned"


def test_stopped_early() -> None:
    """After early stopping the e-process decides instead of p."""
    roles = {arm: {**FULL[arm], "stopped_early": True} for arm in ("feedback", "yoked", "none")}
    recorded = settings_of(roles, ("feedback", "yoked"))

    def stopped(**late: Sequence[float]) -> Conclusion:
        return conclude(played(late), sessions=recorded)

    five = stopped(feedback=HIGH[:5], yoked=LOW[:5], none=LOW[:5])
    assert five.primary is not None
    assert not five.primary.significant
    assert five.verdict == "learned"
    assert five.primary.e_value == pytest.approx(28.8, abs=0.1)
    assert "stopped at an e-value of 28.8" in sentence(five)
    assert any("rests on e-values" in each for each in five.warnings)
    assert [rung.holds for rung in five.ladder] == [None, True, None, None]
    control = stopped(feedback=HIGH[:5], yoked=LOW[:5], none=HIGH_TOO[:5])
    assert control.verdict == "no evidence"
    assert "above 'none' (+0.0 points, an e-value of" in sentence(control)
    mixed = [0.0, *(each + 0.3 for each in LOW[1:])]
    near = stopped(feedback=mixed, yoked=LOW, none=LOW)
    assert near.primary is not None
    assert near.primary.above
    assert near.verdict == "no evidence"
    assert "needs 20" in sentence(near)
    assert near.ladder[1].holds is False


def test_no_negative_zero() -> None:
    """Differences that round to zero are printed without a minus sign."""
    differences = dict(enumerate([-1e-4, 1e-4, -2e-4, -1e-4, 1e-12 - 1e-11]))
    small = Contrast.of(("a", "b"), differences, dict.fromkeys(differences, 0.0))
    found = replace(concluded({"feedback": HIGH[:5], "yoked": HIGH[:5]}), primary=small)
    text = sentence(found) + "".join(map(shown, conclusion_tables(found)))
    assert not re.search(r"-0(\.0+)?(?![.\d])", text)
    assert "-0.0" not in json.dumps(small.differences[-1])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_descriptive_only(count: int) -> None:
    """Fewer than five streams are descriptive only, however large the difference."""
    found = concluded({"feedback": [1.0] * count, "yoked": [0.0] * count})
    assert found.primary is not None
    assert (found.primary.p, found.verdict) == (None, "descriptive only")
    assert sentence(found).startswith("Descriptive only: 'feedback' is 100.0 points above 'yoked'")
    assert "at least 6 streams" in sentence(found)


def test_incomplete_streams() -> None:
    """Streams that are incomplete in one arm are excluded and reported."""
    turns = played({"feedback": HIGH, "yoked": LOW})
    cut = turns.filter(~((pl.col("path") == "yoked-3") & (pl.col("turn") >= 35)))
    found = conclude(cut, ("feedback", "yoked"))
    assert found.primary is not None
    assert found.primary.streams == (0, 1, 2, 4, 5, 6, 7)
    assert any("1 of 8 streams" in warning for warning in found.warnings)
    nothing = conclude(turns.filter(pl.col("turn") < 35), ("feedback", "yoked"))
    assert nothing.verdict == "descriptive only"
    assert "no stream is finished" in sentence(nothing)


def test_ladder() -> None:
    """Every question of the ladder is answered if its arms were played, and otherwise not tested."""
    low = [0.0, 0.05, 0.0, 0.05, 0.0, 0.05, 0.0, 0.05]
    full = dict.fromkeys(FULL, low) | {"feedback": HIGH, "abstract": HIGH}
    found = concluded(full)
    assert [rung.holds for rung in found.ladder] == [True] * 4
    assert [[each.arms for each in rung.contrasts] for rung in found.ladder] == [
        [("feedback", "stateless")],
        [("feedback", "yoked")],
        [("feedback", "the most frequent label"), ("feedback", "stateless")],
        [("abstract", "abstract-none"), ("abstract", "chance")],
    ]
    flat = concluded(dict.fromkeys(FULL, low))
    assert [rung.holds for rung in flat.ladder] == [False] * 4
    two = concluded({"feedback": HIGH, "yoked": low})
    assert [rung.holds for rung in two.ladder] == [None, True, None, None]
    bare = conclude(played(full))
    assert [rung.holds for rung in bare.ladder] == [None] * 4


def test_format_learner_learns_nothing_new() -> None:
    """An answerer at chance in context and below it without gives nothing beyond prior knowledge."""
    chance = [0.1, 0.15, 0.05, 0.1, 0.15, 0.1, 0.05, 0.1]
    other = [0.1, 0.1, 0.1, 0.15, 0.1, 0.05, 0.1, 0.1]
    none = [0.0, 0.0, 0.05, 0.0, 0.0, 0.05, 0.0, 0.0]
    late = {"feedback": chance, "stateless": none, "abstract": chance, "abstract-none": other}
    found = concluded({**late, "abstract-stateless": none}, ("feedback", "stateless"))
    *_, new = found.ladder
    assert found.ladder[0].holds
    assert new.holds is False
    # Above its own none, but not above chance: it only recovers from worse than guessing.
    again = concluded({**late, "abstract-none": none}, ("feedback", "stateless"))
    assert [each.above for each in again.ladder[-1].contrasts] == [True, False]
    assert again.ladder[-1].holds is False


@pytest.mark.parametrize("seed", range(2))
def test_a_played_format_learner_learns_nothing_new(tmp_path: Path, seed: int) -> None:
    """A model that learns only the form of answers beats its stateless twin, and nothing else."""
    abstract, none = {"task": {"labels": "abstract"}}, {"feedback": {"kind": "none"}}
    arms = [
        {"name": "feedback", "probes": {"at": [60], "verdicts": ["told", "flipped"]}},
        {"name": "none", **none},
        {"name": "stateless", "context": {"policy": "stateless"}},
        {"name": "abstract", **abstract},
        {"name": "abstract-none", **abstract, **none},
    ]
    model, contrast = {"name": "simulated/format-learner"}, {"primary": ["feedback", "none"]}
    made = experiment(turns=60, streams=8, seed=seed, model=model, arms=arms, analysis=contrast)
    paths = asyncio.run(Run(made, tmp_path).play()).paths
    found = conclude(frame(paths), None, sessions(paths), probes(paths))
    assert found.controls == {"none", "probes"}
    assert found.verdict not in ("learned", "improved")
    context, content, frequent, new = found.ladder
    assert context.holds
    assert (content.holds, frequent.holds, new.holds) == (False, False, False)


def test_zero_shot_reader_needs_its_twin() -> None:
    """More than label frequencies needs the stateless twin, which a zero-shot reader does not beat."""
    late = {"feedback": HIGH, "stateless": HIGH_TOO}
    assert concluded(late, ("feedback", "stateless")).ladder[2].holds is False


def test_yoked_abstract_arm_counts() -> None:
    """Where a renamed arm has a yoked control, it must beat that, too."""
    yoked = {**FULL["abstract"], "feedback": "yoked", "donor": "abstract"}
    roles = {arm: FULL[arm] for arm in ("abstract", "abstract-none")} | {"yoked": yoked}
    for accuracy, holds in ((LOW, True), (HIGH_TOO, False)):
        turns = played({"abstract": HIGH, "abstract-none": LOW, "yoked": accuracy})
        found = conclude(turns, sessions=settings_of(roles, ("abstract", "abstract-none")))
        assert len(found.ladder[-1].contrasts) == 3
        assert found.ladder[-1].holds is holds


def test_most_frequent_label() -> None:
    """Always giving the most frequent label does not pass the label-frequency question."""
    turns = played({"feedback": HIGH, "yoked": LOW}, label=pl.lit("7")).with_columns(correct=True)
    found = conclude(turns, ("feedback", "yoked"))
    assert found.ladder[2].holds is False


def test_secondary_contrasts() -> None:
    """By default the first arm is compared with all others, and renamed arms with their own none."""
    found = concluded(dict.fromkeys(FULL, LOW))
    assert [each.contrast.arms for each in found.secondary] == [
        ("feedback", "none"),
        ("feedback", "stateless"),
        ("feedback", "abstract"),
        ("feedback", "abstract-none"),
        ("feedback", "abstract-stateless"),
        ("abstract", "abstract-none"),
    ]
    assert [each.p_adjusted for each in found.secondary] == adjusted(
        [each.contrast for each in found.secondary]
    )
    assert not any(each.exploratory for each in found.secondary)


def test_recorded_secondaries() -> None:
    """Recorded secondary contrasts replace the default ones; those chosen afterwards are exploratory."""
    late = {"feedback": HIGH, "yoked": LOW, "none": LOW, "stateless": LOW}
    roles = {arm: FULL[arm] for arm in late}
    pair = ("none", "stateless")
    recorded = settings_of(roles, ("feedback", "yoked"), secondary=[pair, ("feedback", "gone")])
    for named in (None, ("feedback", "none")):
        found = conclude(played(late), named, recorded)
        assert [(each.contrast.arms, each.exploratory) for each in found.secondary] == [
            (pair, False)
        ]
    unrecorded = settings_of(roles, ("feedback", "yoked"))
    found = conclude(played(late), ("feedback", "none"), unrecorded)
    assert all(each.exploratory for each in found.secondary)
    assert "Exploratory contrasts" in "".join(map(shown, conclusion_tables(found)))


def test_recorded_primary() -> None:
    """The recorded contrast is used; any other is reported as chosen afterwards."""
    turns = played({"feedback": HIGH, "yoked": LOW, "none": LOW})
    recorded = settings_of(
        {arm: FULL[arm] for arm in ("feedback", "yoked", "none")}, ("feedback", "yoked")
    )
    found = conclude(turns, sessions=recorded)
    assert found.primary is not None
    assert found.primary.arms == ("feedback", "yoked")
    assert found.recorded
    assert not any("after the turns" in warning for warning in found.warnings)
    other = conclude(turns, ("feedback", "none"), recorded)
    assert not other.recorded
    assert any("after the turns were played" in warning for warning in other.warnings)
    assert sentence(other).endswith("This contrast was chosen after the fact.")
    none = conclude(turns)
    assert (none.primary, none.verdict) == (None, None)
    assert any("no primary contrast was recorded" in warning for warning in none.warnings)


def test_primary_arm_without_turns() -> None:
    """There is no verdict while an arm of the primary contrast has no turns."""
    recorded = settings_of({"feedback": {}}, ("feedback", "yoked"))
    found = conclude(played({"feedback": HIGH}), sessions=recorded)
    assert found.verdict is None
    assert any("'yoked' of the primary contrast has no turns" in each for each in found.warnings)


def test_invalid_primary() -> None:
    """An unknown arm, an arm compared with itself and mixed experiments are errors."""
    turns = played({"feedback": HIGH, "yoked": LOW})
    with pytest.raises(InputError, match=r"no arm 'yokd'.*did you mean 'yoked'"):
        conclude(turns, ("feedback", "yokd"))
    with pytest.raises(InputError, match="'yoked' twice"):
        conclude(turns, ("yoked", "yoked"))
    several = pl.concat([turns, turns.with_columns(experiment=pl.lit("other"))])
    with pytest.raises(InputError, match="got 2"):
        conclude(several)
    assert [each.experiment for each in conclude_each(several)] == ["small", "other"]


# ---- from experiment to verdict ----------------------------------------------------------

LADDER = [
    {"name": "feedback", "feedback": {"kind": "label"}},
    {"name": "none", "feedback": {"kind": "none"}},
    {"name": "stateless", "feedback": {"kind": "label"}, "context": {"policy": "stateless"}},
    {"name": "abstract", "feedback": {"kind": "label"}, "task": {"labels": "abstract"}},
    {
        "name": "abstract-none",
        "feedback": {"kind": "none"},
        "task": {"labels": "abstract"},
    },
    {
        "name": "bare",
        "feedback": {"kind": "label"},
        "task": {"labels": "abstract"},
        "context": {"policy": "stateless"},
    },
]


@pytest.mark.parametrize(
    ("model", "learns"),
    [
        ("reference/nearest", True),
        ("simulated/chance", False),
        ("simulated/label-counter", False),
        ("simulated/bad-format", False),
    ],
)
async def test_verdict_on_built_in_models(tmp_path: Path, model: str, *, learns: bool) -> None:
    """In a full run, a learner is said to improve and other models are not."""
    made = experiment(
        turns=30,
        streams=6,
        arms=LADDER,
        model={"name": model},
        analysis={"primary": ["feedback", "none"]},
    )
    result = await Run(made, tmp_path).play()
    found = conclude(frame(result.paths), sessions=sessions(result.paths))
    assert found.recorded
    assert (found.verdict == "improved") == learns
    assert [rung.holds for rung in found.ladder][1] is None
    if learns:
        assert [rung.holds for rung in found.ladder] == [True, None, True, True]
        assert found.ladder[-1].contrasts[0].arms == ("abstract", "abstract-none")


# ---- requirements for "learned" ----------------------------------------------------------


def test_uncontrolled_contrasts() -> None:
    """A control that beats another arm does not show learning from feedback."""
    for first, second in (("none", "stateless"), ("yoked", "feedback"), ("feedback", "stateless")):
        found = concluded({first: HIGH, second: LOW}, (first, second))
        assert found.primary is not None
        assert found.primary.above
        assert found.verdict == "no evidence"
        assert "does not show learning" in sentence(found)


def test_mixed_sessions() -> None:
    """An arm whose sessions differ in settings or planned turns is an error."""
    roles = settings_of({"feedback": {}, "yoked": FULL["yoked"]}, ("feedback", "yoked"))
    other = roles.with_columns(feedback=pl.lit("label"), path=pl.col("path") + "b")
    turns = played({"feedback": HIGH, "yoked": LOW})
    with pytest.raises(TranscriptError, match=r"arm 'feedback' differ .*\(feedback\)"):
        conclude(turns, sessions=pl.concat([roles, other.filter(arm="feedback")]))
    of_stream_0 = pl.when(pl.col("stream") == 0)
    longer = turns.with_columns(turns=of_stream_0.then(999).otherwise(pl.col("turns")))
    with pytest.raises(TranscriptError, match=r"planned with .* turns"):
        conclude(longer, sessions=roles)


@pytest.mark.parametrize("plans", [(6, 8), (8, 6)])
def test_changed_numbers_of_streams(plans: tuple[int, int]) -> None:
    """Sessions planned with different numbers of streams give a warning without an order."""
    roles = settings_of({"feedback": {}, "yoked": FULL["yoked"]}, ("feedback", "yoked"))
    both = pl.concat([roles.with_columns(planned_streams=pl.lit(n, pl.Int64)) for n in plans])
    found = conclude(played({"feedback": HIGH, "yoked": LOW}), sessions=both)
    assert any("different numbers of streams (6 and 8)" in note for note in found.warnings)


@pytest.mark.parametrize(("played_streams", "is_unfinished"), [(2, True), (8, False)])
def test_controls_that_have_not_started(played_streams: int, *, is_unfinished: bool) -> None:
    """While planned streams are missing, streams are counted of all planned, and so are controls."""
    arms = {"feedback": {}, "none": FULL["none"]}
    planned = settings_of(arms, ("feedback", "none")).with_columns(
        planned_streams=pl.lit(8, pl.Int64)
    )
    late = {"feedback": HIGH[:played_streams], "none": LOW[:played_streams]}
    warnings = conclude(played(late), sessions=planned).warnings
    assert [f"arm {arm!r} has 2 of 8 streams" in warnings for arm in late] == [is_unfinished] * 2
    (about,) = [each for each in warnings if "'yoked' control" in each]
    assert ("turns yet" in about) == is_unfinished
    assert ("has no matching" in about) != is_unfinished


@given(st.lists(st.integers(-5, 5).map(lambda n: n / 10_000), min_size=1, max_size=9))
def test_equal_arms_are_called_equal(differences: list[float]) -> None:
    """A difference of 0 is called equal, and any other is never shown as 0.0 points."""
    values = dict(enumerate(differences))
    contrast = Contrast.of(("a", "b"), values, dict.fromkeys(values, 0.0))
    verdicts: list[Verdict] = ["descriptive only", "equivalent", "no evidence", "different"]
    for verdict in verdicts:
        found = Conclusion("small", None, contrast, verdict=verdict)
        said = sentence(found)
        assert not re.search(r"\b0\.0 points (above|below)", said)
        assert ("is equal to 'b'" in said) == (abs(sum(differences)) < 1e-9)


# ---- gates -------------------------------------------------------------------------------


def test_unreadable_answers_are_invalid() -> None:
    """With under half of the answers of a compared arm parsed, there is no claim of any kind."""
    turns = played({"feedback": HIGH, "yoked": LOW, "none": LOW})
    settings = settings_of({arm: FULL[arm] for arm in ("feedback", "yoked", "none")})
    for arm in ("feedback", "yoked", "none"):
        for share, verdict in ((0.6, "invalid"), (0.4, "learned")):
            broken = (pl.col("arm") == arm) & (pl.col("turn") % 10 >= 10 - 10 * share)
            lost = turns.with_columns(
                outcome=pl.when(broken).then(pl.lit("unreadable")).otherwise("outcome"),
                answer=pl.when(broken).then(None).otherwise("answer"),
            )
            found = conclude(lost, ("feedback", "yoked"), settings)
            assert found.verdict == verdict
            if found.failed_gate is not None:
                assert f"'{arm}' could be read" in sentence(found)


@pytest.mark.parametrize("answer", [None, "3"])
def test_collapse_is_not_equivalence(answer: str | None) -> None:
    """Arms that give no readable answer, or one and the same, are never equivalent."""
    turns = played({"feedback": HIGH, "yoked": LOW, "none": LOW}).with_columns(
        answer=pl.lit(answer, pl.String),
        outcome=pl.lit("ok" if answer else "unreadable"),
        correct=(pl.col("label") == pl.lit(answer, pl.String)).fill_null(value=False),
    )
    roles = {arm: FULL[arm] for arm in ("feedback", "yoked", "none")}
    found = conclude(turns, sessions=settings_of(roles, ("feedback", "yoked")))
    assert found.verdict == "invalid"
    assert "neither learning nor equivalence" in sentence(found)


def test_one_constant_arm_is_valid() -> None:
    """A control that gives one answer does not invalidate an arm that gives several."""
    is_none = pl.col("arm") == "none"
    turns = played({"feedback": HIGH, "none": LOW}).with_columns(
        answer=pl.when(is_none).then(pl.lit("3")).otherwise("answer"),
        correct=pl.when(is_none).then(pl.col("label") == "3").otherwise("correct"),
    )
    roles = {arm: FULL[arm] for arm in ("feedback", "none")}
    found = conclude(turns, sessions=settings_of(roles, ("feedback", "none")))
    assert found.verdict == "improved"


@given(st.sampled_from([0.0, 0.05, 0.3]), st.integers(5, 9))
def test_same_difference_everywhere(difference: float, streams: int) -> None:
    """The same difference in every stream is neither learning nor equivalence."""
    late = {"feedback": [0.2 + difference] * streams, "none": [0.2] * streams}
    found = concluded(late, ("feedback", "none"))
    assert found.verdict == "invalid"
    assert "same in every stream" in sentence(found)


async def test_invalid_verdict_quotes_a_reply(tmp_path: Path) -> None:
    """The sentence of an invalid verdict quotes a reply on one line, without control characters."""
    arms = [{"name": "feedback"}, {"name": "none", "feedback": {"kind": "none"}}]
    made = experiment(
        arms=arms,
        streams=5,
        model={"name": "simulated/bad-format", "params": {"rate": 1.0}},
        analysis={"primary": ["feedback", "none"]},
    )
    result = await Run(made, tmp_path).play()
    found = conclude(frame(result.paths), sessions=sessions(result.paths))
    assert found.verdict == "invalid"
    assert found.reply
    assert found.reply in sentence(found)


# ---- late accuracy -----------------------------------------------------------------------


def test_sessions_that_fill_their_window() -> None:
    """Late is the second half of the shortest session compared if the context window was full."""
    turns = played({"feedback": HIGH, "none": LOW}, turns=40)
    stop = {0: 20, 3: 10}
    cut = turns.filter(
        pl.col("turn") < pl.col("stream").replace_strict(stop, default=30, return_dtype=pl.Int64)
    ).with_columns(status=pl.lit("context_full"), correct=pl.col("turn").is_in([5, 6, 15]))
    found = conclude(cut, ("feedback", "none"))
    assert found.primary is not None
    assert found.primary.k == 8
    assert found.late == (5, 10)
    assert any("turns 6 to 10" in each for each in found.warnings)
    one = cut.filter((pl.col("arm") == "feedback") & pl.col("turn").is_between(5, 9))
    assert one["correct"].mean() == 0.4


def test_unfinished_sessions_are_excluded() -> None:
    """A session that was interrupted is left out, and does not shorten the others."""
    turns = played({"feedback": HIGH, "none": LOW})
    short = (pl.col("path") == "none-3") & (pl.col("turn") >= 5)
    cut = turns.filter(~short).with_columns(
        status=pl.when(path="none-3").then(None).otherwise("status")
    )
    found = conclude(cut, ("feedback", "none"))
    assert found.primary is not None
    assert (found.primary.k, found.late) == (7, (20, 40))


@given(st.lists(st.integers(0, 20), min_size=3, max_size=3))
def test_repeats_are_averaged(right: list[int]) -> None:
    """Sessions of one arm and stream are averaged before the difference is taken."""
    first, second, other = (each / 20 for each in right)
    one = played({"feedback": [first], "none": [other]})
    again = played({"feedback": [second]}).with_columns(path=pl.lit("again"))
    found = conclude(pl.concat([one, again]), ("feedback", "none"))
    assert found.primary is not None
    assert found.primary.differences == pytest.approx([(first + second) / 2 - other])
    assert not any("repeat" in each for each in found.warnings)


# ---- several models ----------------------------------------------------------------------


def of_models(**late: Sequence[float]) -> list[Conclusion]:
    """Return the conclusions about the arms `x_feedback`, `x_yoked` and `x_none` of models x."""
    return conclude_each(played(late), sessions=model_settings(late))


def model_settings(
    arms: object, primary: tuple[str, str] | None = ("a_feedback", "a_none")
) -> pl.DataFrame:
    """Return settings in which the first letter of an arm names its model."""
    names = [str(arm) for arm in arms]  # type: ignore[attr-defined]
    roles = {
        name: {
            **FULL[name[2:]],
            "setup": json.dumps({"model": {"name": f"model {name[0]}"}}),
            **({"donor": f"{name[0]}_feedback"} if name.endswith("yoked") else {}),
        }
        for name in names
    }
    return settings_of(roles, primary)


def test_verdict_per_model() -> None:
    """Each model gets its own verdict, with its own controls, and no contrast mixes models."""
    found = of_models(
        a_feedback=LOW, a_none=HIGH, a_yoked=LOW[::-1], b_yoked=LOW, b_none=LOW, b_feedback=HIGH
    )
    assert [each.model for each in found] == ["model a", "model b"]
    assert [each.verdict for each in found] == ["no evidence", "learned"]
    for each in found:
        assert each.primary is not None
        assert each.recorded
        contrasts = [each.primary, *each.needed, *(other.contrast for other in each.secondary)]
        assert {arm[0] for other in contrasts for arm in other.arms} == {str(each.model)[-1]}
        assert len(each.secondary) == 1
        assert sentence(each).startswith(f"{each.model}: ")


def test_differences_between_models() -> None:
    """Between models, the difference of their differences is tested stream by stream."""
    late = {"a_feedback": HIGH, "a_none": LOW, "b_feedback": LOW[::-1], "b_none": LOW}
    found = of_models(**late)
    [difference] = model_differences(found)
    assert difference.contrast.arms == ("model a", "model b")
    ours, theirs = (each.primary.differences for each in found if each.primary)
    assert difference.contrast.differences == pytest.approx(
        [one - other for one, other in zip(ours, theirs, strict=True)]
    )
    assert difference.verdict == "different"
    assert difference_sentence(difference) in " ".join(
        "".join(map(shown, difference_tables([difference]))).split()
    )
    [same] = model_differences(of_models(a_feedback=HIGH, a_none=LOW, b_feedback=HIGH, b_none=LOW))
    assert (same.verdict, same.contrast.equivalent) == ("invalid", True)
    assert "yes" not in "".join(map(shown, difference_tables([same]))).split()
    three = of_models(**late, c_feedback=HIGH_TOO, c_none=LOW[::-1])
    assert len(model_differences(three)) == 3
    assert [each.p_adjusted for each in model_differences(three)] == adjusted(
        [each.contrast for each in model_differences(three)]
    )
    assert model_differences(found[:1]) == []


def test_model_without_counterpart() -> None:
    """A model that did not play the arms of the primary contrast gets no verdict."""
    found = of_models(a_feedback=HIGH, a_none=LOW, b_feedback=HIGH)
    assert [each.verdict for each in found] == ["improved", None]
    assert "did not play" in sentence(found[1])
    assert model_differences(found) == []


@given(st.permutations(["a_feedback", "a_none", "b_feedback", "b_none"]))
def test_verdicts_do_not_depend_on_the_order_of_arms(arms: list[str]) -> None:
    """Counterparts are found by settings, not by place."""
    late = {"a_feedback": HIGH, "a_none": LOW, "b_feedback": LOW, "b_none": LOW[::-1]}
    found = of_models(**{arm: late[arm] for arm in arms})
    assert {each.model: each.verdict for each in found} == {
        "model a": "improved",
        "model b": "no evidence",
    }


def test_two_models_compared() -> None:
    """A primary contrast between two models gets a verdict on the difference, in either direction."""
    late = {"a_feedback": HIGH, "b_feedback": LOW, "a_none": LOW, "b_none": LOW[::-1]}
    for pair in (("a_feedback", "b_feedback"), ("b_feedback", "a_feedback")):
        [found] = conclude_each(played(late), sessions=model_settings(late, pair))
        assert (found.verdict, found.model) == ("different", None)
        assert "compares two models" in sentence(found)
    near = [each + 0.05 * (-1) ** stream for stream, each in enumerate(LOW)]
    alike = {**late, "a_feedback": LOW, "b_feedback": near}
    [found] = conclude_each(
        played(alike), sessions=model_settings(alike, ("a_feedback", "b_feedback"))
    )
    assert found.verdict in ("equivalent", "no evidence")
    assert "learning" not in sentence(found)


def test_models_of_the_same_name() -> None:
    """Models that differ in a setting alone are told apart by it; their address does not count."""
    late = {"a_feedback": HIGH, "a_none": LOW, "b_feedback": HIGH_TOO, "b_none": LOW}
    settings = model_settings(late)
    same = settings.with_columns(
        setup=pl.when(pl.col("arm").str.starts_with("a"))
        .then(pl.lit(json.dumps({"model": {"name": "m", "params": {"temperature": 0}}})))
        .otherwise(pl.lit(json.dumps({"model": {"name": "m", "params": {"temperature": 1}}})))
    )
    assert [each.model for each in conclude_each(played(late), sessions=same)] == [
        "m (params.temperature = 0)",
        "m (params.temperature = 1)",
    ]


# ---- recorded beforehand -----------------------------------------------------------------


@pytest.mark.parametrize("learns", [True, False])
async def test_probes_are_a_content_control(tmp_path: Path, *, learns: bool) -> None:
    """Probes with flipped verdicts stand for the yoked arm, and a model that ignores them has not learned."""
    arms = [{"name": "label"}, {"name": "none", "feedback": {"kind": "none"}}]
    made = experiment(
        turns=24,
        streams=6,
        feedback={"kind": "label"},
        arms=arms,
        model={"name": "reference/nearest" if learns else "simulated/chance"},
        probes={"at": [24], "count": 20, "verdicts": ["told", "flipped"]},
        analysis={"primary": ["label", "none"]},
    )
    result = await Run(made, tmp_path).play()
    known = sessions(result.paths)
    found = conclude(frame(result.paths), None, known, probes(result.paths))
    assert sorted(found.controls) == ["none", "probes"]
    assert len(found.needed) == 1
    assert (found.verdict == "learned") == learns
    assert found.ladder[1].holds is learns
    without = conclude(frame(result.paths), None, known)
    assert (without.verdict == "improved") == learns


def test_secondary_contrasts_of_an_experiment() -> None:
    """Secondary contrasts are recorded in every session; one with an unknown arm is an error."""
    arms = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    made = experiment(arms=arms, analysis={"primary": ["a", "b"], "secondary": [["b", "c"]]})
    assert {each.header().analysis.secondary for each in made.sessions()} == {(("b", "c"),)}
    for pair, said in ((["b", "d"], "no arm 'd'"), (["b", "b"], "two different arms")):
        with pytest.raises(InputError, match=rf"analysis\.secondary\[0\].*{said}"):
            experiment(arms=arms, analysis={"secondary": [pair]})
