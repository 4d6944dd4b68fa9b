"""Tests of contrasts, warnings about them, and session settings."""

import itertools
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from builders import experiment
from icl_loop.analysis import (
    Contrast,
    conclude,
    conclude_each,
    frame,
    sessions,
)
from icl_loop.analysis.contrasts import adjusted, e_process
from icl_loop.analysis.json_output import conclusions_fields
from icl_loop.analysis.session_settings import EARLY_STOP_NAME
from icl_loop.analysis.significance import (
    ALPHA,
    DRAWS,
    MOST_FOR_SIGN_FLIP,
    deciding_test,
    least_p,
)
from icl_loop.core.errors import TranscriptError
from icl_loop.runner.run import Run
from icl_loop.transcripts.columns import SESSION_SETTINGS
from studies import FULL, HIGH, LOW, played, settings_of

ACCURACIES = st.integers(0, 20).map(lambda right: right / 20)
DIFFERENCES = st.integers(-20, 20).map(lambda more: more / 20)


def values(least: int = 5, most: int = 10) -> st.SearchStrategy[list[float]]:
    """Return a strategy for the differences of a few streams."""
    return st.lists(DIFFERENCES, min_size=least, max_size=most)


def contrast(differences: Sequence[float], margin: float = 0.05) -> Contrast:
    """Return a contrast with these differences."""
    return Contrast.of(
        ("a", "b"),
        dict(enumerate(differences)),
        dict.fromkeys(range(len(differences)), 0.0),
        margin,
    )


# ---- one contrast ------------------------------------------------------------------------


def flipped_p(
    whole: Sequence[int], theta: Fraction = Fraction(0), *, one_sided: bool = False
) -> float:
    """Return the share of all flips with a sum as far from 0 as observed, or farther to its side."""
    moved = np.array(whole) * theta.denominator - theta.numerator
    flips = np.array(list(itertools.product((1, -1), repeat=len(whole))))
    sums = flips @ moved * (1 if moved.sum() > 0 else -1)
    return float(((sums if one_sided else np.abs(sums)) >= sums[0]).mean())


@given(values(1, 9))
def test_sign_flip_enumeration(differences: list[float]) -> None:
    """The sign-flip p is the share of all flips with a sum at least as extreme as the observed one."""
    assert deciding_test(np.array(differences)).p == flipped_p([round(20 * d) for d in differences])


@given(st.lists(st.integers(-9, 9), min_size=6, max_size=8), st.sampled_from([0.05, 0.1, 0.25]))
@settings(max_examples=30)
def test_interval_by_inversion(whole: list[int], alpha: float) -> None:
    """The interval holds exactly the effects that the test does not reject at its level.

    p changes only at means of subsets of streams, so these and points between and beyond are tried.
    """
    found = deciding_test(np.array(whole, dtype=np.float64)).interval(alpha)
    assert found is not None
    subsets = itertools.chain.from_iterable(
        itertools.combinations(whole, size) for size in range(1, len(whole) + 1)
    )
    means = sorted({Fraction(sum(each), len(each)) for each in subsets})
    low, high = (min(means, key=lambda mean: abs(mean - limit)) for limit in found)
    assert found == pytest.approx((float(low), float(high)))
    between = [(one + other) / 2 for one, other in itertools.pairwise(means)]
    for theta in (means[0] - 1, low, high, *means[::5], *between[::5], means[-1] + 1):
        assert (flipped_p(whole, theta) >= alpha) == (low <= theta <= high)
    for theta in (low - Fraction(1, 10**6), high + Fraction(1, 10**6)):
        assert flipped_p(whole, theta) < alpha


@given(values(6, 20))
@example([0.05] * 5 + [-0.05] * 3)
@example([0.0] * 7 + [0.05])
@settings(max_examples=60)
def test_p_agrees_with_interval(differences: list[float]) -> None:
    """The 95 % interval excludes 0 exactly if p < 0.05, contains the mean and stays within ± 1."""
    found = contrast(differences)
    assert found.p is not None
    assert found.theta is not None
    assert found.interval is not None
    low, high = found.interval
    assert (found.p < ALPHA) == (not low <= 0 <= high) == found.significant
    assert -1 <= low <= found.theta + 1e-12
    assert found.theta - 1e-12 <= high <= 1


@given(values(17, 24))
def test_t_test_matches_scipy(differences: list[float]) -> None:
    """With more than 16 streams, interval and p are those of scipy's t test."""
    found = deciding_test(np.array(differences))
    if len(set(differences)) > 1:
        wanted = stats.ttest_1samp(differences, 0)
        assert found.p == pytest.approx(wanted.pvalue)
        assert found.interval() == pytest.approx(tuple(wanted.confidence_interval(0.95)))


@given(values(1, 9))
def test_one_sided_p_is_half(differences: list[float]) -> None:
    """Unless the mean is 0, the one-sided p in its direction is half of the two-sided one."""
    whole = [round(20 * each) for each in differences]
    if sum(whole):
        assert 2 * flipped_p(whole, one_sided=True) == deciding_test(np.array(differences)).p


@given(values(5, 8), st.integers(1, 400))
@settings(max_examples=40)
def test_equivalence(differences: list[float], margin: int) -> None:
    """Arms are equivalent exactly if one-sided tests at 5 % reject both margins.

    The 90 % interval then lies within the margins, whichever test is used.
    """
    found = contrast(differences, margin / 800)
    low, high = deciding_test(np.array(differences)).interval(0.1) or (-1, 1)
    assert found.equivalent == (-found.margin < low and high < found.margin)
    whole = [round(20 * each) for each in differences]
    limits = [Fraction(side * margin, 40) for side in (-1, 1)]
    inside = limits[0] < Fraction(sum(whole), len(whole)) < limits[1]
    ps = [flipped_p(whole, limit, one_sided=True) for limit in limits]
    assert found.equivalent == (inside and max(ps) < ALPHA)


@given(st.lists(st.tuples(ACCURACIES, ACCURACIES), min_size=1, max_size=14))
def test_swapped_arms(pairs: list[tuple[float, float]]) -> None:
    """Swapping the arms negates effect and interval and keeps the p-values."""
    first, second = (dict(enumerate(each)) for each in zip(*pairs, strict=True))
    one = Contrast.of(("a", "b"), first, second)
    other = Contrast.of(("b", "a"), second, first)
    assert one.theta is not None
    assert other.theta == pytest.approx(-one.theta)
    if one.interval is not None:
        assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))
    assert (other.p, other.test, other.equivalent) == (one.p, one.test, one.equivalent)
    assert other.mde == pytest.approx(one.mde)


@given(st.lists(st.tuples(ACCURACIES, ACCURACIES, ACCURACIES), min_size=1, max_size=14))
def test_stream_difficulty_cancels(
    triples: list[tuple[float, float, float]],
) -> None:
    """Stream difficulty that affects both arms alike cancels out."""
    first, second, more = (dict(enumerate(each)) for each in zip(*triples, strict=True))
    one, other = ({stream: arm[stream] + more[stream] for stream in arm} for arm in (first, second))
    assert Contrast.of(("a", "b"), one, other) == Contrast.of(("a", "b"), first, second)


@given(
    first=st.dictionaries(st.integers(0, 9), ACCURACIES),
    second=st.dictionaries(st.integers(0, 9), ACCURACIES),
)
def test_common_streams(first: dict[int, float], second: dict[int, float]) -> None:
    """A contrast uses the streams of both arms, in order."""
    found = Contrast.of(("a", "b"), first, second)
    assert list(found.streams) == sorted(first.keys() & second.keys())
    assert found.k == len(found.differences)
    assert (found.theta is None) == (found.k == 0)


@given(values(0, 20))
@example([0.1, -0.05, *[0.02] * 14])
@example([0.1, -0.05, *[0.02] * 15])
def test_deciding_test(differences: list[float]) -> None:
    """Nothing is tested below 5 streams; sign-flip decides up to 16, then t. Below 6 there is no interval."""
    found = contrast(differences)
    varied = len(set(differences)) > 1
    assert (found.p is None) == (found.test is None) == (found.equivalent is None) == (found.k < 5)
    assert (found.interval is None) == (found.k < 6)
    assert (found.mde is None) == (found.k < 6 or not varied)
    if found.test is not None:
        assert found.test == ("t" if found.k > MOST_FOR_SIGN_FLIP and varied else "sign-flip")


@pytest.mark.parametrize("streams", [6, 8, 16, 17, 40])
def test_equal_differences(streams: int) -> None:
    """With equal differences the interval is a point and p is the smallest or the largest."""
    same = contrast([0.1 + 0.2 - 0.3 + 0.1] * streams)
    assert (same.theta, same.interval, same.mde) == (0.1, (0.1, 0.1), None)
    assert (same.p, same.test) == (least_p(streams), "sign-flip")
    nothing = contrast([0.0] * streams)
    assert (nothing.interval, nothing.p, nothing.equivalent) == ((0, 0), 1, True)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_late_accuracy(both: list[tuple[bool, bool]]) -> None:
    """Theta compares accuracy over turns T // 2 to T only."""
    first, second = (list(each) for each in zip(*both, strict=True))
    turns = played({"feedback": [0.0], "yoked": [0.0]}, turns=len(both))
    found = conclude(turns.with_columns(correct=pl.Series(first + second)), ("feedback", "yoked"))
    late = [np.mean(each[len(both) // 2 :]) for each in (first, second)]
    assert found.primary is not None
    assert found.primary.theta == pytest.approx(late[0] - late[1])


# ---- multiple contrasts and early stopping -----------------------------------------------

FAMILIES = st.integers(1, 9).flatmap(
    lambda streams: st.lists(values(streams, streams), min_size=1, max_size=5)
)


@given(FAMILIES, st.integers(0, 3))
def test_adjusted_p(family: list[list[float]], missing: int) -> None:
    """Adjusted p are at least the own p and at most 1; one contrast keeps its own, untested ones None."""
    contrasts = [contrast(each) for each in family]
    contrasts[0] = contrast(family[0][missing:])
    found = adjusted(contrasts)
    for each, p in zip(contrasts, found, strict=True):
        assert (p is None) == (each.p is None)
        assert p is None or each.p is None or each.p <= p <= 1
    assert adjusted(contrasts[:1]) == [contrasts[0].p]


@given(FAMILIES)
@settings(max_examples=40)
def test_adjusted_p_enumeration(family: list[list[float]]) -> None:
    """The adjusted p of the largest T is the share of flips in which any T is at least as large."""
    whole = np.array(family)
    whole = whole[np.abs(whole).sum(axis=1) > 0]
    if len(whole) and whole.shape[1] >= 5:
        scaled = whole / np.sqrt((whole**2).sum(axis=1, keepdims=True))
        flips = np.array(list(itertools.product((1, -1), repeat=whole.shape[1])))
        largest = np.abs(scaled @ flips.T).max(axis=0)
        wanted = (largest >= largest[0] - 1e-9).mean()
        first = int(np.abs(scaled.sum(axis=1)).argmax())
        assert adjusted([contrast(each) for each in whole])[first] == pytest.approx(wanted)


@given(st.integers(5, 9).flatmap(lambda k: st.lists(values(k, k), min_size=1, max_size=8)))
@settings(max_examples=30)
def test_least_adjusted_p(family: list[list[float]]) -> None:
    """The smallest attainable adjusted p does not depend on the number of contrasts.

    It is reached if the first arm is better in every stream and contrast.
    """
    found = adjusted([contrast([abs(each) + 0.05 for each in row]) for row in family])
    assert found == [least_p(len(family[0]))] * len(family)


def test_adjusted_p_by_draws() -> None:
    """With more than 16 streams, random flips that count the observed one are reproducible."""
    random = np.random.default_rng(4)
    shown, null = random.normal(0.4, 0.05, 30).tolist(), random.normal(0, 0.05, 30).tolist()
    family = [contrast(shown), contrast(null), contrast(null[:20])]
    found = adjusted(family)
    assert found == adjusted(family)
    assert found[0] == 1 / (1 + DRAWS)
    assert found[1:] > [each.p for each in family[1:]]


def test_family_wise_error() -> None:
    """If no arm differs, at most 6 % of studies find any of seven contrasts significant."""
    random, wrong, studies = np.random.default_rng(7), 0, 1_000
    for _ in range(studies):
        arms = random.binomial(50, 0.3, (8, 8)) / 50
        found = adjusted([contrast((arms[0] - each).tolist()) for each in arms[1:]])
        wrong += any(p is not None and p < ALPHA for p in found)
    assert wrong / studies <= 0.06


def test_ladder_of_eight_arms() -> None:
    """Seven contrasts over eight streams with effects of 25 points reach an adjusted p below .05."""
    random = np.random.default_rng(8)
    first = random.binomial(100, 0.55, 8) / 100
    others = random.binomial(100, 0.30, (7, 8)) / 100
    found = adjusted([contrast((first - each).tolist()) for each in others])
    assert all(p is not None and p < ALPHA for p in found)


@given(st.lists(DIFFERENCES, min_size=1, max_size=9))
def test_e_process_is_fair(sizes: list[float]) -> None:
    """The expected evidence over all signs is 1 after every stream."""
    flips = np.array(list(itertools.product((1, -1), repeat=len(sizes))))
    evidence = np.array([e_process(flip * np.array(sizes)) for flip in flips])
    assert evidence.mean(axis=0) == pytest.approx(np.ones(len(sizes)))
    assert (evidence > 0).all()


@given(st.lists(DIFFERENCES, min_size=1, max_size=9), DIFFERENCES)
def test_e_process_is_sequential(differences: list[float], more: float) -> None:
    """Evidence depends only on past streams and grows with a positive difference."""
    before, after = e_process(differences), e_process([*differences, more])
    assert after[:-1] == pytest.approx(before)
    assert (after[-1] > before[-1] or after[-1] == pytest.approx(before[-1])) == (more >= 0)


def test_e_process_formula() -> None:
    """Evidence is the mean over lambda of the products of 2 / (1 + exp(-2 lambda D))."""
    differences = [0.1, -0.02, 0.08]
    wanted = np.mean(
        [
            np.prod([2 / (1 + np.exp(-2 * rate * each)) for each in differences])
            for rate in (2, 5, 10, 20, 50, 100)
        ]
    )
    assert e_process(differences)[-1] == pytest.approx(wanted)
    assert e_process([]).shape == (0,)


@given(values(0, 4))
def test_e_value_of_four_streams(differences: list[float]) -> None:
    """Four streams cannot reach an e-value of 20."""
    assert contrast(differences).e_value < 20


# ---- warnings ----------------------------------------------------------------------------


def test_repeated_order_warning() -> None:
    """Sessions of an arm with the same sample order give a warning."""
    turns = played({"feedback": HIGH, "yoked": LOW})
    assert not any("same" in each for each in conclude(turns, ("feedback", "yoked")).warnings)
    one_order = turns.with_columns(sample=pl.format("none/{}", "turn"))
    found = conclude(one_order, ("feedback", "yoked")).warnings
    assert sum("7 of its sessions repeat" in each for each in found) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"told_length": pl.when(arm="yoked").then(4).otherwise(10)}, "characters a turn"),
        ({"sample": pl.format("{}/{}/{}", "arm", "stream", "turn")}, "different samples"),
    ],
)
def test_confounded_arms_warning(change: dict[str, pl.Expr], said: str) -> None:
    """Different feedback lengths or samples in the two arms give a warning."""
    turns = played({"feedback": HIGH, "yoked": LOW}).with_columns(**change)
    assert any(said in each for each in conclude(turns, ("feedback", "yoked")).warnings)


def test_missing_streams_warning() -> None:
    """An arm with missing streams gives a warning with both numbers."""
    found = conclude(played({"feedback": HIGH, "yoked": LOW[:6]}), ("feedback", "yoked"))
    assert "arm 'yoked' has 6 of 8 streams" in found.warnings


def test_header_warnings() -> None:
    """Mismatched donors and contradictory primary contrasts give warnings."""
    turns = played({"feedback": HIGH, "yoked": LOW})
    for donor, said in [
        ({"donor_stream": 0, "donor_id": "x"}, "the same stream"),
        ({"donor_stream": 1, "donor_id": "y"}, "not the saved session"),
        ({"donor_stream": 1, "donor_id": "x"}, None),
        ({"donor_stream": 2, "donor_id": "y"}, None),
    ]:
        roles = {"feedback": {"stream": 1, "id": "x"}, "yoked": {**FULL["yoked"], **donor}}
        recorded = settings_of(roles, ("feedback", "yoked"))
        found = conclude(turns, sessions=recorded).warnings
        donors = [each for each in found if "mismatched donor" in each]
        assert len(donors) == (said is not None)
        assert all(str(said) in each for each in donors)
    both = pl.concat([recorded, settings_of(roles, ("yoked", "feedback"))])
    assert any("different primary" in each for each in conclude(turns, sessions=both).warnings)


# ---- JSON and session headers ------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.lists(st.tuples(ACCURACIES, ACCURACIES, ACCURACIES), min_size=1, max_size=20),
    st.sampled_from([None, ("feedback", "yoked"), ("yoked", "none")]),
)
@example(triples=[(0.5, 0.1, place / 20) for place in range(18)], primary=("feedback", "none"))
def test_conclusion_json(
    triples: list[tuple[float, float, float]], primary: tuple[str, str] | None
) -> None:
    """A conclusion survives a JSON round trip and has all keys; undefined values are null."""
    late = dict(zip(("feedback", "yoked", "none"), zip(*triples, strict=True), strict=True))
    turns = played(late, turns=20)
    found = conclude(turns, primary, settings_of({arm: FULL[arm] for arm in late}))
    fields = conclusions_fields([found])
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert fields.keys() == {
        *(
            "experiment",
            "model",
            "primary",
            "needed",
            "secondary",
            "ladder",
            "sentence",
            "warnings",
        ),
    }
    assert (fields["primary"] is None) == (primary is None)


def test_several_experiments_as_json() -> None:
    """JSON of several experiments has an entry for each and prefixes every warning."""
    one = played({"feedback": HIGH, "yoked": LOW})
    found = conclude_each(pl.concat([one, one.with_columns(experiment=pl.lit("other"))]))
    fields = conclusions_fields(found)
    assert [each["experiment"] for each in fields["conclusions"]] == ["small", "other"]
    assert all(each.startswith(("small: ", "other: ")) for each in fields["warnings"])


HEADER = {
    "type": "session",
    "experiment": "small",
    "arm": "a",
    "stream": 0,
    "seed": 0,
    "turns": 2,
    "settings": {},
    "labels": ["0", "1"],
    "system": "",
    "dataset": {"name": "digits", "sha256": "", "size": 2},
}


async def test_sessions_match_frame(tmp_path: Path) -> None:
    """Sessions and turns use the same names for runs in different folders."""
    for folder in ("one", "two"):
        await Run(experiment(turns=2, streams=1), tmp_path / folder).play()
    names = {"one/small", "two/small"}
    assert set(sessions([tmp_path])["experiment"]) == set(frame([tmp_path])["experiment"]) == names


async def test_sessions(tmp_path: Path) -> None:
    """A row of `sessions` holds the recorded settings; unknown ones are null."""
    arms = [{"name": "feedback"}, {"name": "bare", "context": {"policy": "stateless"}}]
    result = await Run(experiment(arms=arms, turns=4), tmp_path).play()
    rows = sessions(result.paths)
    assert rows.columns == list(SESSION_SETTINGS)
    assert all(f"`{name}`" in str(sessions.__doc__) for name in SESSION_SETTINGS)
    assert rows["path"].to_list() == [str(path) for path in result.paths]
    by_arm = {row["arm"]: row for row in rows.rows(named=True)}
    assert by_arm["bare"]["policy"] == "stateless"
    assert by_arm["bare"]["setup"] == by_arm["feedback"]["setup"]
    assert (by_arm["feedback"]["feedback"], by_arm["feedback"]["labels"]) == (
        "correctness",
        "native",
    )
    assert (by_arm["feedback"]["seed"], by_arm["feedback"]["dataset"]) == (7, "digits")
    assert by_arm["feedback"]["donor"] is None
    found = conclude(frame(result.paths), ("feedback", "bare"), rows)
    assert found.ladder[0].contrasts
    assert not rows["stopped_early"].any()
    (result.folder / EARLY_STOP_NAME).write_text("{}")
    assert sessions(result.paths)["stopped_early"].all()


def test_recorded_analysis(tmp_path: Path) -> None:
    """The recorded contrast and margin are read; a value of the wrong type is an error."""
    path = tmp_path / "a-0.jsonl"
    for analysis, expected in [
        ({"primary": ["a", "b"], "margin": 0.1, "effect": None}, (["a", "b"], 0.1)),
        ({"primary": None}, (None, 0.05)),
    ]:
        path.write_text(json.dumps({**HEADER, "analysis": analysis}) + "\n")
        assert sessions([path]).select("primary", "margin").row(0) == expected
    path.write_text(json.dumps({**HEADER, "analysis": {"margin": "wide"}}) + "\n")
    with pytest.raises(TranscriptError, match=r"a-0\.jsonl, line 1, analysis\.margin"):
        sessions([path])


def test_invalid_session(tmp_path: Path) -> None:
    """A file without a session header is an error that names it."""
    for text in ("", "nothing\n", "[]\n", '{"type": "turn"}\n'):
        path = tmp_path / "a-0.jsonl"
        path.write_text(text)
        with pytest.raises(TranscriptError, match=r"a-0\.jsonl"):
            sessions([path])
