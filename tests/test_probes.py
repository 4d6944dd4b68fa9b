"""Counterfactual probes: the same samples after the same answers, with other verdicts on these."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from builders import experiment, transcripts_of, without_checksum
from icl_loop import Run
from icl_loop.analysis import (
    Contrast,
    checkpoints,
    counterfactual_contrast,
    frame,
    probes,
    verdict_effects,
)
from icl_loop.context.window import from_spans
from icl_loop.core.errors import InputError, ReplayMismatch
from icl_loop.core.messages import Message, Reply, merged
from icl_loop.core.records import Probe, Turn, Verdicts
from icl_loop.core.tokens import REQUEST_TOKENS, count_messages
from icl_loop.experiment import Session
from icl_loop.export import export
from icl_loop.plots import probe_chart
from icl_loop.replay.verification import verify
from icl_loop.report import page
from icl_loop.runner.session import Entry, play_session
from icl_loop.terminal.session_view import BRIEF, SessionView
from icl_loop.transcripts import read
from icl_loop.transcripts.columns import table_path

ALL = list(get_args(Verdicts))
PROBED = {"at": [0, 6, 12], "count": 3, "verdicts": ALL}
FORMS: list[dict[str, Any]] = [
    {},
    {"only": "positive"},
    {"only": "negative"},
    {"delay": 2},
    {"delay": 1, "only": "positive"},
    {"noise": 0.3},
]
"""Forms of right and wrong."""


class Scripted:
    """A model that gives answers in turn and keeps the requests."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.requests: list[Sequence[Message]] = []
        self._answers = answers

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Keep the request; answer by the number of turns shown, so that forks change nothing."""
        self.requests.append(list(messages))
        turn = sum(message.role == "assistant" for message in messages)
        return Reply(f"Answer: {self._answers[turn % len(self._answers)]}")


def one(**changes: Any) -> Session:  # noqa: ANN401  any setting
    """Return a session of 12 turns with counterfactual probes."""
    (chosen,) = experiment(streams=1, **{"probes": PROBED, **changes}).sessions()
    return chosen


async def asked(
    session: Session, answers: Sequence[str] = "0123456789"
) -> list[tuple[Entry, Sequence[Message]]]:
    """Play a session with these answers and return its entries with their requests."""
    model = Scripted(answers)
    entries = [entry async for entry in play_session(session, (), model)]
    return list(zip(entries, model.requests, strict=True))


def told_in(request: Sequence[Message]) -> list[str]:
    """Return the feedback on the turns that a request shows."""
    return [message.text for message in request[3::3]]


async def feedback_shown(session: Session, answers: Sequence[str]) -> Mapping[str, list[str]]:
    """Return the feedback that the last probe of a session shows, by its verdicts."""
    pairs = await asked(session, answers)
    return {
        entry.verdicts: told_in(request)
        for entry, request in pairs
        if isinstance(entry, Probe) and entry.after_turn == 12
    }


ANSWERS = st.lists(st.sampled_from("0123456789?"), min_size=12, max_size=12)


# ---- the requests ------------------------------------------------------------------------


@given(answers=ANSWERS, kind=st.sampled_from(["correctness", "label", "flipped"]))
@settings(max_examples=10)
async def test_only_verdicts_differ(answers: list[str], kind: str) -> None:
    """Probes show the same turns and replies, ask the same samples, and differ in feedback alone."""
    pairs = await asked(one(feedback={"kind": kind}), answers)
    probed = [(entry, request) for entry, request in pairs if isinstance(entry, Probe)]
    assert len(probed) == 3 * (1 + 4 + 4)
    by_sample: dict[tuple[int, str], list[tuple[Probe, Sequence[Message]]]] = {}
    for entry, request in probed:
        by_sample.setdefault((entry.after_turn, entry.sample), []).append((entry, request))
    for (after, _), same in by_sample.items():
        assert [entry.verdicts for entry, _ in same] == (ALL if after else ["told"])
        (first, as_told), *others = same
        assert (
            as_told[1 : 3 * after + 1 : 3]
            == [entry.question for entry, _ in pairs if isinstance(entry, Turn)][:after]
        )
        for entry, request in others:
            assert entry.kept == first.kept == ((0, after - 1),)
            assert len(request) == len(as_told)
            assert [m for i, m in enumerate(request) if i % 3 or not i] == [
                m for i, m in enumerate(as_told) if i % 3 or not i
            ]


@given(answers=ANSWERS, form=st.sampled_from(FORMS))
@settings(max_examples=15)
async def test_flipped_verdicts_are_those_of_flipped_feedback(
    answers: list[str], form: dict[str, Any]
) -> None:
    """Flipped verdicts read as in a session with the same answers and the feedback `flipped`."""
    straight, flipped = [
        await feedback_shown(one(feedback={"kind": kind, **form}), answers)
        for kind in ("correctness", "flipped")
    ]
    assert straight["flipped"] == flipped["told"]
    assert flipped["flipped"] == straight["told"]


@given(answers=ANSWERS, form=st.sampled_from(FORMS))
@settings(max_examples=15)
async def test_shuffled_and_removed_verdicts(answers: list[str], form: dict[str, Any]) -> None:
    """Shuffled verdicts are the told ones in another order; removed ones are those of `none`."""
    shown = await feedback_shown(one(feedback=form), answers)
    none = await feedback_shown(one(feedback={"kind": "none"}), answers)
    assert sorted(shown["shuffled"]) == sorted(shown["told"])
    assert shown["removed"] == none["told"]
    assert list(none) == ["told"]


async def test_the_order_of_shuffled_verdicts_depends_on_the_stream() -> None:
    """The order is the same for every sample of a checkpoint, and another in each stream."""
    answers = [*"0123456789", "?", "?"]
    orders = []
    for session in experiment(streams=2, probes=PROBED, feedback={"delay": 1}).sessions():
        pairs = await asked(session, answers)
        shown = [
            tuple(told_in(request))
            for entry, request in pairs
            if isinstance(entry, Probe) and (entry.after_turn, entry.verdicts) == (12, "shuffled")
        ]
        assert len(set(shown)) == 1
        orders.append(shown[0])
    assert orders[0] != orders[1]


@given(answers=ANSWERS)
@settings(max_examples=15)
async def test_a_revealed_label_fits_the_verdict(answers: list[str]) -> None:
    """With labels revealed, a verdict "correct" names the answer, and "incorrect" another label."""
    session = one(feedback={"kind": "label"})
    pairs = await asked(session, answers)
    turns = [entry for entry, _ in pairs if isinstance(entry, Turn)]
    shown = await feedback_shown(session, answers)
    parse = session.task.prompts.parse_feedback
    for verdicts in ("told", "flipped", "shuffled"):
        for turn, told in zip(turns, shown[verdicts], strict=True):
            (parsed,) = parse(told)
            assert parsed.label in session.task.labels
            if turn.answer is not None:
                assert (parsed.label == turn.answer) == parsed.correct
            if verdicts == "flipped":
                assert parsed.correct is not turn.feedback.correct


@pytest.mark.parametrize(
    "changes",
    [
        {"feedback": {"kind": "none"}},
        {"feedback": {"kind": "demonstrations"}},
        {"context": {"policy": "stateless"}},
        {"context": {"policy": "last(0)"}},
    ],
    ids=str,
)
async def test_without_verdicts_only_those_told_are_asked(changes: dict[str, Any]) -> None:
    """An arm whose requests show no verdicts asks its probes as told, beside arms that ask all.

    An experiment in which no arm shows verdicts is rejected.
    """
    pairs = await asked(one(**changes))
    assert {entry.verdicts for entry, _ in pairs if isinstance(entry, Probe)} == {"told"}
    with pytest.raises(InputError, match=r"probes\.verdicts = .*no request shows a verdict"):
        experiment(probes=PROBED, **changes).check()
    arms = [{"name": "feedback"}, {"name": "other", **changes}]
    experiment(probes=PROBED, arms=arms).check()


@pytest.mark.parametrize("verdicts", [["flipped"], [], ["told", "told"], ["told", "swapped"]])
def test_invalid_verdicts_are_rejected(verdicts: list[str]) -> None:
    """The verdicts of probes are known ones, each once, and those told are among them."""
    with pytest.raises(InputError, match=r"probes\.verdicts"):
        experiment(probes={"at": [1], "verdicts": verdicts})


@pytest.mark.parametrize("policy", ["within", "block", "last(8)", "reservoir(6)", "only_incorrect"])
@pytest.mark.parametrize("merged_roles", [True, False])
async def test_every_fork_fits_the_window(policy: str, merged_roles: bool) -> None:  # noqa: FBT001
    """In a full window, all probes of a sample show the same turns, fit, and are counted exactly."""
    window = {"name": "simulated/chance", "context_window": 2_600, "merge_roles": merged_roles}
    session = one(model=window, context={"policy": policy, "reserve": 200}, turns=30)
    counter = session.window.counter
    kept: dict[tuple[int, str], set[Any]] = {}
    for entry, request in await asked(session):
        sent = merged(request) if merged_roles else request
        tokens = count_messages(counter, sent) + REQUEST_TOKENS
        assert entry.counted is not None
        assert tokens <= entry.counted <= 2_400
        assert merged_roles or tokens == entry.counted
        if isinstance(entry, Probe):
            kept.setdefault((entry.after_turn, entry.sample), set()).add(entry.kept)
            assert len(told_in(request)) == len(from_spans(entry.kept))
    assert all(len(each) == 1 for each in kept.values())


# ---- transcripts -------------------------------------------------------------------------


async def test_the_default_leaves_transcripts_as_they_were(tmp_path: Path) -> None:
    """Without other verdicts, neither settings nor probes record any."""
    for name, verdicts in (("plain", {}), ("told", {"verdicts": ["told"]})):
        made = experiment(streams=1, probes={"at": [0, 6], "count": 3, **verdicts})
        await Run(made, tmp_path / name).play()
    plain, told = (transcripts_of(tmp_path / name / "small") for name in ("plain", "told"))
    assert plain == told
    assert b"verdicts" not in plain["feedback-0.jsonl"]


async def test_forks_do_not_change_the_session(tmp_path: Path) -> None:
    """Turns and probes as told are those of a session without other verdicts, and all verify."""
    await Run(experiment(probes=PROBED), tmp_path / "all").play()
    await Run(experiment(probes={**PROBED, "verdicts": ["told"]}), tmp_path / "told").play()
    for path in sorted((tmp_path / "told" / "small").glob("*.jsonl")):
        every, plain = read(tmp_path / "all" / "small" / path.name), read(path)
        assert [turn.request for turn in every.turns] == [turn.request for turn in plain.turns]
        assert [p.request for p in every.probes if p.verdicts == "told"] == [
            p.request for p in plain.probes
        ]
        groups = groupby(every.probes, key=lambda probe: (probe.after_turn, probe.verdicts))
        order = [(key, len(list(group))) for key, group in groups]
        assert order == [((0, "told"), 3), *(((n, each), 3) for n in (6, 12) for each in ALL)]
        assert await verify(every) == 12


async def test_a_session_cut_at_any_probe_is_resumed(tmp_path: Path) -> None:
    """A session with counterfactual probes that is cut anywhere and resumed equals the whole one."""
    made = experiment(streams=1, turns=6, probes={"at": [3, 6], "count": 2, "verdicts": ALL})
    await Run(made, tmp_path / "whole").play()
    whole = transcripts_of(tmp_path / "whole" / "small")
    lines = (tmp_path / "whole" / "small" / "feedback-0.jsonl").read_bytes().splitlines(True)
    assert len(lines) == 1 + 6 + 2 * 2 * 4 + 1
    for count in range(1, len(lines), 3):
        folder = tmp_path / f"cut{count}" / "small"
        folder.mkdir(parents=True)
        (folder / "feedback-0.jsonl").write_bytes(b"".join(lines[:count]) + lines[count][:9])
        await Run(made, folder.parent).play()
        assert transcripts_of(folder) == whole


async def test_exports_hold_the_verdicts(tmp_path: Path) -> None:
    """An export gives the same probes; in one of an earlier version, all show what was told."""
    (path,) = (await Run(experiment(streams=1, probes=PROBED), tmp_path).play()).paths
    done = export([path], "parquet", tmp_path / "out.parquet").places[-1]
    saved = probes([path])
    assert_frame_equal(probes([done]).drop("path"), saved.drop("path"))
    table = table_path(done, "probes")
    pl.read_parquet(table).drop("verdicts").write_parquet(table)
    assert set(probes([done])["verdicts"]) == {"told"}


async def test_edited_verdicts_are_detected(tmp_path: Path) -> None:
    """A probe that names other verdicts than it showed does not verify."""
    made = experiment(streams=1, probes={"at": [6], "count": 2, "verdicts": ["told", "flipped"]})
    (path,) = (await Run(made, tmp_path).play()).paths
    text = without_checksum(path.read_text())
    assert text.count('"verdicts":"flipped"') == 2
    path.write_text(text.replace('"verdicts":"flipped"', '"verdicts":"removed"', 1))
    with pytest.raises(ReplayMismatch, match="verdicts is"):
        await verify(read(path))


async def test_the_viewer_tells_forks_apart(tmp_path: Path) -> None:
    """The lines about probes name the verdicts unless they are as told."""
    made = experiment(streams=1, probes={"at": [6], "count": 2, "verdicts": ["told", "removed"]})
    (path,) = (await Run(made, tmp_path).play()).paths
    shown = SessionView(read(path), colour=False).notes_and_probes(6, BRIEF)
    starts = [line.plain.partition(":")[0] for line in shown]
    assert starts == ["probes after 6 turns", "probes after 6 turns with verdicts removed"]


# ---- analysis ----------------------------------------------------------------------------


def probed(rows: Sequence[tuple[int, str, str, str, bool]]) -> pl.DataFrame:
    """Return probes after 9 turns from stream, session, sample, verdicts, and whether it is right."""
    names = ("stream", "path", "sample", "verdicts", "correct")
    kept = pl.Series([[[0, 8]]], dtype=pl.List(pl.List(pl.Int64)))
    table = pl.DataFrame(rows, schema=names, orient="row")
    same = pl.lit(kept).first()
    return table.with_columns(
        experiment=pl.lit("e"), arm=pl.lit("a"), after_turn=pl.lit(9, pl.Int64), kept=same
    )


def test_probes_are_paired_by_sample_within_a_session() -> None:
    """Only samples asked both ways count; sessions of a stream count equally, and so do streams."""
    rows = [
        (0, "s0", "x", "told", True),
        (0, "s0", "x", "flipped", False),
        (0, "s0", "y", "told", False),  # not asked again
        (0, "s1", "x", "told", True),
        (0, "s1", "x", "flipped", True),
        (0, "s1", "y", "told", True),
        (0, "s1", "y", "flipped", True),
        (1, "s2", "x", "told", False),
        (1, "s2", "x", "flipped", True),
    ]
    (effect,) = verdict_effects(probed(rows))
    assert (effect.arm, effect.after_turn, effect.verdicts, effect.pairs) == ("a", 9, "flipped", 4)
    assert effect.contrast.streams == (0, 1)
    assert effect.contrast.differences == (0.5, -1.0)
    table = probed(rows)
    cut = pl.when(pl.col("path") == "s1", pl.col("verdicts") == "flipped")
    shorter = table.with_columns(kept=cut.then(pl.col("kept").list.head(0)).otherwise("kept"))
    (effect,) = verdict_effects(shorter)
    assert effect.contrast.differences == (1.0, -1.0)


async def effects_of(
    model: str,
    folder: Path,
    count: int = 10,
    **changes: Any,  # noqa: ANN401  settings
) -> tuple[dict[str, Contrast], pl.DataFrame]:
    """Return the effects of the verdicts at the end of sessions of a model, and its probes."""
    asked_at = {"at": [10, 60], "count": count, "verdicts": ALL}
    made = experiment(turns=60, streams=6, model={"name": model}, probes=asked_at, **changes)
    result = await Run(made, folder).play()
    found = probes(result.paths)
    effects = [each for each in verdict_effects(found) if each.after_turn == 60]
    return {each.verdicts: each.contrast for each in effects}, found


async def test_a_learner_depends_on_its_verdicts(tmp_path: Path) -> None:
    """Propagation loses more than 20 points if its verdicts are flipped, and as much if removed.

    The content control is the effect of flipping at the last checkpoint.
    """
    effects, found = await effects_of("reference/propagation", tmp_path)
    assert list(effects) == ["flipped", "shuffled", "removed"]
    assert all(each.theta is not None and each.theta > 0.2 for each in effects.values())
    control = counterfactual_contrast(found, "feedback")
    assert control == effects["flipped"]
    assert control.above
    assert counterfactual_contrast(found.filter(verdicts="told"), "feedback") is None


@pytest.mark.parametrize("model", ["chance", "win-stay-lose-shift", "format-learner"])
async def test_models_that_learn_nothing_do_not(tmp_path: Path, model: str) -> None:
    """Verdicts make no difference to the accuracy of models that cannot learn from them."""
    effects, _ = await effects_of(f"simulated/{model}", tmp_path)
    for contrast in effects.values():
        assert contrast.interval is not None
        assert contrast.interval[0] <= 0 <= contrast.interval[1]


async def test_accuracy_by_verdicts(tmp_path: Path) -> None:
    """Accuracy is reported by checkpoint and verdicts, and each has its line in chart and report."""
    made = experiment(streams=3, probes=PROBED)
    paths = (await Run(made, tmp_path).play()).paths
    found = checkpoints(probes(paths))
    assert [(each.after_turn, each.verdicts) for each in found] == [
        (0, "told"),
        *((after, verdicts) for after in (6, 12) for verdicts in ALL),
    ]
    turns = frame(paths)
    chart, report = json.dumps(probe_chart(turns, found).to_dict()), page(turns)
    for verdicts in ALL[1:]:
        assert f'"feedback, {verdicts}"' in chart
        assert f"<bdi>feedback</bdi>, {verdicts}</th>" in report
        assert f"<bdi>feedback</bdi></th><td>{verdicts}</td><td>12</td>" in report
