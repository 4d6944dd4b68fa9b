"""Tests of frames, summaries, curves, probes and notes."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

import icl_loop
from builders import experiment, without_checksum
from icl_loop.analysis import (
    Estimate,
    arm_curves,
    checkpoints,
    conclude,
    frame,
    notes,
    probes,
    session_curves,
    summarise,
    warnings,
)
from icl_loop.analysis.curves import share_interval, summary_fields
from icl_loop.analysis.side_requests import note_usage
from icl_loop.context.window import to_spans
from icl_loop.core.errors import InputError, TranscriptError
from icl_loop.core.messages import Reply, Usage, user
from icl_loop.core.records import Feedback, Outcome, Span, Turn
from icl_loop.runner.run import Run
from icl_loop.transcripts import End, Header, read
from icl_loop.transcripts.files import find
from icl_loop.transcripts.header import DatasetIdentity
from icl_loop.transcripts.schema import EndStatus, line_fields

COLUMNS = [
    *("path", "experiment", "arm", "stream", "repeat"),
    *("turns", "chance", "complete", "status", "model"),
    *("turn", "sample", "label", "answer", "outcome", "correct"),
    *("told_right", "told_label", "told_after", "told_length", "exposure"),
    *("latency_s", "counted", "prefix"),
    *("prompt", "cached", "completion", "reasoning"),
    *("discarded_prompt", "discarded_completion", "finish_reason", "served_model"),
]
SERIES = st.lists(st.booleans(), min_size=1, max_size=40)


def header(
    arm: str = "a", stream: int = 0, turns: int = 20, experiment: str = "small"
) -> dict[str, object]:
    """Return the header line of a session with ten labels."""
    return Header(
        experiment=experiment,
        arm=arm,
        stream=stream,
        seed=0,
        turns=turns,
        settings={},
        labels=list("0123456789"),
        system="…",
        dataset=DatasetIdentity(name="none", sha256="", size=0),
    ).model_dump()


def turn(
    index: int,
    *,
    correct: bool = True,
    kept: tuple[Span, ...] = (),
    outcome: Outcome = "ok",
) -> dict[str, object]:
    """Return the line of one turn, with multi-byte text."""
    answer = None if outcome != "ok" else "三" if correct else "四"
    usage = Usage(prompt=10 + index, cached=index, completion=3, reasoning=1)
    return line_fields(
        Turn(
            index=index,
            sample=f"none/{index}",
            label="三",
            question=user("これは何ですか"),
            kept=kept,
            request="0" * 32,
            reply=Reply(f"答え: {answer}", usage, latency_s=0.25, at="2023-03-15"),
            answer=answer,
            outcome=outcome,
            feedback=Feedback(correct, "…"),
        )
    )


def end(status: EndStatus = "complete", turns: int = 20) -> dict[str, object]:
    """Return the end line of a session."""
    return End(status=status, turns=turns, at="2023-03-15").model_dump()


def transcript(*lines: Mapping[str, object]) -> bytes:
    """Return a transcript of these lines."""
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def session(
    correct: Sequence[bool],
    arm: str = "a",
    stream: int = 0,
    *,
    turns: int | None = None,
    experiment: str = "small",
) -> bytes:
    """Return the transcript of a session; unfinished if `turns` exceeds the turns played."""
    planned = len(correct) if turns is None else turns
    head = header(arm, stream, planned, experiment)
    played = [turn(index, correct=right) for index, right in enumerate(correct)]
    return transcript(head, *played, *[end(turns=planned)] * (len(correct) == planned))


@contextmanager
def saved(*sessions: bytes) -> Iterator[list[Path]]:
    """Save these transcripts in a temporary folder and yield their paths."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.jsonl") for number in range(len(sessions))]
        for path, data in zip(paths, sessions, strict=True):
            path.write_bytes(data)
        yield paths


def framed(*sessions: bytes) -> pl.DataFrame:
    """Return the frame of these transcripts."""
    with saved(*sessions) as paths:
        return frame(paths)


# ---- the frame ---------------------------------------------------------------------------


async def test_frame_matches_transcripts(tmp_path: Path) -> None:
    """A frame has the documented columns and one row per turn, with the values that `read` returns."""
    arms = [
        {"name": "label", "feedback": {"kind": "label"}},
        {"name": "last", "context": {"policy": "last(3)"}},
        {"name": "guess", "model": {"name": "simulated/chance"}},
    ]
    result = await Run(experiment(arms=arms), tmp_path).play()
    turns = frame(result.paths)
    assert turns.columns == COLUMNS
    expected = [
        (
            str(path),
            saved.header.experiment,
            saved.header.arm,
            saved.header.stream,
            saved.header.repeat,
            saved.header.turns,
            1 / len(saved.header.labels),
            saved.end is not None,
            saved.end and saved.end.status,
            "simulated/chance" if saved.header.arm == "guess" else "reference/nearest",
            each.index,
            each.sample,
            each.label,
            each.answer,
            each.outcome,
            each.feedback.correct,
            each.feedback.correct,
            each.label if saved.header.arm == "label" or each.feedback.correct else None,
            each.index,
            len(each.feedback.told),
            sum(last - first + 1 for first, last in each.kept),
            each.reply.latency_s,
            each.counted,
            each.prefix,
            each.reply.usage.prompt,
            each.reply.usage.cached,
            each.reply.usage.completion,
            each.reply.usage.reasoning,
            0,
            0,
            None,
            None,
        )
        for path in result.paths
        for saved in [read(path)]
        for each in saved.turns
    ]
    assert turns.rows() == expected
    assert frame([tmp_path]).sort("path", "turn").equals(turns.sort("path", "turn"))


def test_frame_columns_documented() -> None:
    """The docstring of `frame` names every column."""
    assert all(f"`{name}`" in str(frame.__doc__) for name in COLUMNS)


@settings(max_examples=25)
@given(data=st.data(), whole=st.integers(0, 3))
def test_torn_last_line_ignored(data: st.DataObject, whole: int) -> None:
    """A transcript cut anywhere in its last line loses only that turn."""
    before = session([True, False, True], turns=9)
    last = transcript(turn(3))
    torn = before + last[: data.draw(st.integers(0, len(last) - 1))]
    others = [session([True, False], stream=stream + 1) for stream in range(whole)]
    with saved(torn, *others) as paths:
        turns = frame(paths)
        assert turns.height == 3 + 2 * whole
        assert turns.filter(path=str(paths[0]))["turn"].to_list() == [0, 1, 2]
        assert len(read(paths[0]).turns) == 3


GOOD = header(), turn(0), turn(1, kept=((0, 0),))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", None),
        (b'{"type": "session"', None),
        (transcript(header()), None),
        (transcript(header(), end(turns=0)), None),
        (b"\n", 1),
        (b"# not JSON\n", 1),
        (b"\x89PNG\r\n\x1a\n", 1),
        (transcript({"type": "session"}), 1),
        (transcript({**header(), "version": 3}, turn(0)), 1),
        (transcript({**header(), "labels": []}, turn(0)), 1),
        (transcript(turn(0), turn(1)), 1),
        (transcript(*GOOD) + b"\n" + transcript(turn(2)), 4),
        (transcript(*GOOD) + b'{"type": "tu\n' + transcript(turn(2)), 4),
        (transcript(*GOOD)[:-1] + transcript(turn(2)), 3),
        (transcript(*GOOD) + b"[1, 2]\n" + transcript(turn(2)), 4),
        (transcript(*GOOD) + b"\xff\xfe\n" + transcript(turn(2)), 4),
        (transcript(*GOOD, {}, turn(2)), 4),
        (transcript(*GOOD, {"type": "remark"}, turn(2)), 4),
        (transcript(*GOOD, header(), turn(2)), 4),
        (transcript(*GOOD, turn(3)), 4),
        (transcript(*GOOD, turn(1)), 4),
        (transcript(*GOOD, end(), turn(2)), 5),
        (transcript(*GOOD, {"type": "end"}), 4),
        (transcript(*GOOD, {**turn(2), "turn": "2"}), 4),
        (transcript(*GOOD, {**turn(2), "turn": 2.5}), 4),
        (transcript(*GOOD, {**turn(2), "turn": 10**30}), 4),
        (transcript(*GOOD, {**turn(2), "correct": None}), 4),
        (transcript(*GOOD, {**turn(2), "correct": "yes"}), 4),
        (transcript(*GOOD, {**turn(2), "kept": [[0]]}), 4),
        (transcript(*GOOD, {**turn(2), "kept": [[0, None]]}), 4),
        (transcript(*GOOD, {**turn(2), "kept": [1]}), 4),
        (transcript(*GOOD, {**turn(2), "usage": 3}), 4),
        (transcript(*GOOD, {**turn(2), "usage": {"prompt": 3}}), 4),
    ],
)
def test_invalid_transcript(data: bytes, line: int | None) -> None:
    """An invalid transcript raises a TranscriptError that names the file and the line."""
    good = session([True])
    with saved(good, data) as paths:
        with pytest.raises(TranscriptError) as caught:
            frame(paths[1:])
        assert str(paths[1]) in str(caught.value)
        if line is not None:
            with pytest.raises(TranscriptError) as caught:
                frame(paths)
            assert re.search(rf"1\.jsonl, line {line}\b", str(caught.value))
        assert "\n" not in str(caught.value)


@given(place=st.integers(0, len(transcript(*GOOD)) - 1), byte=st.integers(0, 255))
def test_corrupt_byte(place: int, byte: int) -> None:
    """A transcript with one corrupt byte is read or raises TranscriptError."""
    data = bytearray(transcript(*GOOD, end("stopped", 2)))
    data[place] = byte
    with saved(bytes(data)) as paths:
        try:
            turns = frame(paths)
        except TranscriptError:
            return
        assert turns.columns == COLUMNS


def test_session_without_turns() -> None:
    """A session without turns adds no rows."""
    turns = framed(transcript(header(stream=0)), session([True, False], stream=1))
    assert turns["stream"].to_list() == [1, 1]


def test_unknown_finish_reasons_are_reported() -> None:
    """A caveat names each finish reason that is not known, with the number of replies."""
    served = {"model": "m", "system_fingerprint": None, "finish_reason": "paused"}
    odd = {**turn(0), "finish": "unknown", "served": served}
    turns = framed(transcript(header(), odd, turn(1), {**odd, "turn": 2}))
    assert turns["finish_reason"].to_list() == ["paused", None, "paused"]
    assert any("2 replies" in each and "'paused'" in each for each in conclude(turns).warnings)


def test_probes_not_in_frame() -> None:
    """A frame of turns contains no probes."""
    probe = {**turn(0), "type": "probe", "after_turn": 1, "sample": "none/9"}
    assert framed(transcript(header(), turn(0), probe, turn(1)))["turn"].to_list() == [0, 1]


def test_duplicate_paths(tmp_path: Path) -> None:
    """A file given several times, under any spelling of its path, is read once."""
    path = tmp_path / "sessions" / "a[0]*?.jsonl"
    path.parent.mkdir()
    path.write_bytes(session([True, False]))
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    roundabout = tmp_path / "sessions" / ".." / "sessions" / path.name
    assert find([path, link, tmp_path, roundabout, path]) == [path]
    assert frame([path, tmp_path, link]).equals(frame([path]))


def test_file_order(tmp_path: Path) -> None:
    """Files are read in the given order, those of a folder by name."""
    for name in "bca":
        (tmp_path / f"{name}.jsonl").write_bytes(session([True], arm=name))
    assert frame([tmp_path])["arm"].to_list() == ["a", "b", "c"]
    assert frame([tmp_path / "c.jsonl", tmp_path])["arm"].to_list() == ["c", "a", "b"]


def test_missing_transcripts(tmp_path: Path) -> None:
    """No paths, a missing path, an empty folder and a folder named like a file are errors."""
    with pytest.raises(TranscriptError, match="no transcripts were named"):
        frame([])
    with pytest.raises(TranscriptError, match=r"nowhere does not exist"):
        frame([tmp_path / "nowhere"])
    with pytest.raises(TranscriptError, match="holds no transcripts"):
        frame([tmp_path])
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(TranscriptError, match=r"folder\.jsonl cannot be read"):
        frame([tmp_path])


@given(st.sets(st.integers(0, 30)))
def test_exposure(shown: set[int]) -> None:
    """Exposure is the number of past turns in a request."""
    played = [turn(index) for index in range(31)]
    last = turn(31, kept=to_spans(sorted(shown)))
    assert framed(transcript(header(), *played, last))["exposure"].to_list()[-1] == len(shown)


@pytest.mark.parametrize(
    "kept", [[[0, 2]], [[-1, 0]], [[1, 0]], [[0, 10**9]], [[]], [[0]], [[0, 1, 1]]]
)
def test_invalid_kept_ranges(kept: list[list[int]]) -> None:
    """Every reader rejects a request that claims to show turns not yet played."""
    lines = transcript(header(), turn(0), turn(1), {**turn(2), "kept": kept})
    with saved(lines) as paths:
        for reader in (lambda: frame(paths), lambda: read(paths[0])):
            with pytest.raises(TranscriptError, match="line 4"):
                reader()


def test_repeated_streams_are_separate_runs(tmp_path: Path) -> None:
    """The same streams in two folders are two runs, named after their folders."""
    for run in ("one/small", "two/small", "three"):
        folder = tmp_path / run
        folder.mkdir(parents=True)
        (folder / "a-0.jsonl").write_bytes(session([True, False]))
        (folder / "b-0.jsonl").write_bytes(session([True, False], experiment="other" + run[:2]))
    summaries = summarise(frame([tmp_path]))
    assert {(each.experiment, each.sessions) for each in summaries if each.arm == "a"} == {
        *(("one/small", 1), ("two/small", 1), ("three/small", 1)),
        *(("otheron", 1), ("othertw", 1), ("otherth", 1)),
    }


def test_distinct_streams_are_one_run(tmp_path: Path) -> None:
    """Different streams of an experiment in several folders are one run."""
    for stream in range(3):
        (tmp_path / str(stream)).mkdir()
        data = session([True, False], stream=stream)
        (tmp_path / str(stream) / "a.jsonl").write_bytes(data)
    [summary] = summarise(frame([tmp_path]))
    assert (summary.experiment, summary.sessions) == ("small", 3)


# ---- estimates and summaries -------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=3, max_size=30))
def test_estimate_matches_scipy(values: list[float]) -> None:
    """The interval of an unbounded mean is scipy's t interval."""
    found = Estimate.of(np.array(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.interval is not None
    error = stats.sem(values)
    if error:
        wanted = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        assert found.interval == pytest.approx(wanted)
    else:
        assert found.interval == pytest.approx((values[0], values[0]))


SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(SHARES, st.integers(1, 200))
def test_shares_stay_within_bounds(values: list[float], turns: int) -> None:
    """The interval of shares lies within 0 to 1 around the mean; below three sessions there is none.

    Right and wrong are alike: the interval of 1 - share is the mirrored one.
    """
    found = Estimate.of_shares(np.array(values), turns * len(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.interval is None) == (len(values) < 3)
    if found.interval is None or found.mean is None:
        return
    low, high = found.interval
    assert 0 <= low <= found.mean <= high <= 1
    assert low < high
    other = Estimate.of_shares(1 - np.array(values), turns * len(values)).interval
    assert other == pytest.approx((1 - high, 1 - low))


@given(st.integers(3, 20), st.integers(1, 200), st.data())
def test_shares_of_independent_turns(count: int, turns: int, data: st.DataObject) -> None:
    """If sessions agree more than independent turns would, the interval is that of the turns.

    Its ends then satisfy (end - m)^2 = t^2 end (1 - end) / n (Wilson 1927).
    """
    right = data.draw(st.integers(0, turns))
    low, high = Estimate.of_shares(np.full(count, right / turns), count * turns).interval or (0, 0)
    quantile = stats.t.ppf(0.975, count - 1)
    share, trials = right / turns, count * turns
    for end in (low, high):
        assert (end - share) ** 2 == pytest.approx(
            quantile**2 * end * (1 - end) / trials, abs=1e-12
        )


@pytest.mark.parametrize("sessions", [3, 4, 6, 8, 12, 20])
@pytest.mark.parametrize("spread", [0, 0.02])
@pytest.mark.parametrize("accuracy", [0.01, 0.03, 0.1, 0.5, 0.9, 0.99])
def test_intervals_of_shares_cover(accuracy: float, spread: float, sessions: int) -> None:
    """Intervals cover the true accuracy in at least 93 % of studies, also close to 0 and 1.

    Accuracy differs between sessions as a beta distribution; its `spread` is the correlation of two
    turns of a session.
    """
    rng = np.random.default_rng([int(1000 * accuracy), int(1000 * spread), sessions])
    size, turns = (4_000, sessions), 20
    each = np.full(size, accuracy)
    if spread:
        total = 1 / spread - 1
        each = rng.beta(accuracy * total, (1 - accuracy) * total, size)
    played = rng.binomial(turns, each) / turns
    low, high = share_interval(played.mean(1), played.std(1, ddof=1), sessions, sessions * turns)
    assert ((low <= accuracy) & (accuracy <= high)).mean() > 0.93 - 0.008  # two standard errors


def mean_of_means(sessions: Sequence[Sequence[bool]]) -> float | None:
    """Return the mean of the session means, ignoring sessions without turns."""
    means = [float(np.mean(each)) for each in sessions if each]
    return float(np.mean(means)) if means else None


@settings(max_examples=25)
@given(
    sessions=st.lists(SERIES, min_size=1, max_size=4),
    planned=st.integers(1, 400) | st.integers(1, 40),
)
@example(sessions=[[True] * 20 + [False] * 20], planned=400)
def test_early_and_late(sessions: list[list[bool]], planned: int) -> None:
    """Early is the first min(20, T/10) of T planned turns; late is the second half."""
    sessions = [each[:planned] for each in sessions]
    data = [session(each, stream=k, turns=planned) for k, each in enumerate(sessions)]
    [summary] = summarise(framed(*data))
    early = max(1, min(20, planned // 10))
    assert summary.early.mean == pytest.approx(mean_of_means([each[:early] for each in sessions]))
    after = [[right for t, right in enumerate(each, 1) if t > planned / 2] for each in sessions]
    assert summary.late.mean == pytest.approx(mean_of_means(after))
    assert summary.late.sessions == sum(map(bool, after))
    assert summary.accuracy.mean == pytest.approx(mean_of_means(sessions))
    assert summary.turns == sum(map(len, sessions))
    assert summary.complete == sum(len(each) == planned for each in sessions)


@settings(max_examples=25)
@given(st.lists(SERIES, min_size=1, max_size=4))
def test_summary_windows(sessions: list[list[bool]]) -> None:
    """The windows of a summary cover all turns without gaps or overlap."""
    data = [session(each, stream=k, turns=60) for k, each in enumerate(sessions)]
    [summary] = summarise(framed(*data))
    ends = [0, *(window.last for window in summary.windows)]
    assert [window.first - 1 for window in summary.windows] == ends[:-1]
    assert ends[-1] == max(map(len, sessions))
    for window in summary.windows:
        part = [each[window.first - 1 : window.last] for each in sessions]
        assert window.accuracy.mean == pytest.approx(mean_of_means(part))
        assert window.accuracy.sessions == sum(map(bool, part))


def test_last_window_is_open() -> None:
    """The last window extends to the end of the longest session."""
    turns = framed(session([True]))
    long = pl.concat([turns] * 10_003).with_columns(turn=pl.int_range(pl.len()))
    [summary] = summarise(long)
    assert [window.first for window in summary.windows][-2:] == [5_001, 10_001]
    assert summary.windows[-1].last == 10_003


def test_arm_order() -> None:
    """Summaries and curves list arms in file order."""
    data = [
        session([True] * (2 + stream), arm, stream)
        for stream in range(2)
        for arm in ("b", "c", "a")
    ]
    turns = framed(*data)
    assert [each.arm for each in summarise(turns)] == ["b", "c", "a"]
    curves = arm_curves(session_curves(turns, 2))
    assert curves["arm"].to_list() == ["b", "b", "c", "c", "a", "a"]
    assert curves["turn"].to_list() == [1.5, 2.5] * 3


def test_few_sessions() -> None:
    """One or two sessions have no interval; a single one has a warning."""
    both = [session([True, False, right], stream=k) for k, right in enumerate((True, False))]
    [summary] = summarise(framed(*both))
    assert [summary.early.interval, summary.late.interval, summary.accuracy.interval] == [None] * 3
    turns = framed(both[0])
    [summary] = summarise(turns)
    assert [summary.early.interval, summary.late.interval, summary.accuracy.interval] == [None] * 3
    assert warnings([summary]) == ["arm 'a' has one session: descriptive only"]
    curves = arm_curves(session_curves(turns, 1))
    assert curves["low"].to_list() == curves["high"].to_list() == [None] * 3


def test_warnings() -> None:
    """Fewer than five sessions and unfinished ones give warnings; a full context window ends a session."""
    whole = [session([True, False], stream=k) for k in range(5)]
    assert warnings(summarise(framed(*whole))) == []
    assert warnings(summarise(framed(*whole[:4]))) == ["arm 'a' has 4 sessions: too few for a test"]
    cut = session([True], stream=5, turns=2)
    full = transcript(header(stream=6), turn(0), end("context_full", 1))
    assert warnings(summarise(framed(*whole, cut, full))) == ["arm 'a': 1 of 7 sessions unfinished"]
    other = session([True], experiment="other")
    assert warnings(summarise(framed(*whole, other))) == [
        "arm 'a' of 'other' has one session: descriptive only"
    ]


def test_outcomes() -> None:
    """Unparsed and refused answers are wrong, and counted by outcome."""
    lost = [turn(1, correct=False, outcome="unreadable"), turn(2, correct=False, outcome="refusal")]
    [summary] = summarise(framed(transcript(header(turns=3), turn(0), *lost)))
    assert summary.outcomes == {"ok": 1, "unreadable": 1, "refusal": 1}
    assert summary.accuracy.mean == pytest.approx(1 / 3)


@settings(max_examples=25)
@given(
    sessions=st.lists(SERIES, min_size=1, max_size=3),
    planned=st.integers(1, 200),
)
def test_summary_json(sessions: list[list[bool]], planned: int) -> None:
    """A summary survives a JSON round trip; undefined values are null."""
    sessions = [each[:planned] for each in sessions]
    data = [session(each, stream=k, turns=planned) for k, each in enumerate(sessions)]
    [summary] = summarise(framed(*data))
    fields = summary_fields(summary)
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert (fields["late"] is None) == (summary.late.sessions == 0)
    assert (fields["late_ci"] is None) == (summary.late.sessions < 3)
    assert [each["first"] for each in fields["windows"]] == [b.first for b in summary.windows]


# ---- curves ------------------------------------------------------------------------------


def of_series(
    sessions: Mapping[tuple[str, int], Sequence[bool]],
) -> pl.DataFrame:
    """Return a frame with the columns of curves from correct answers by (arm, stream)."""
    rows = [
        ("small", arm, stream, f"{arm}-{stream}", index, right)
        for (arm, stream), series in sessions.items()
        for index, right in enumerate(series)
    ]
    columns = ["experiment", "arm", "stream", "path", "turn", "correct"]
    return pl.DataFrame(rows, schema=columns, orient="row")


SESSIONS = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3)), SERIES, min_size=1, max_size=6
)


@given(sessions=SESSIONS, window=st.integers(1, 30), seed=st.integers(0, 9))
def test_session_curves(
    sessions: dict[tuple[str, int], list[bool]], window: int, seed: int
) -> None:
    """A point is the mean over a full window, whatever the row order.

    The window is at most as long as the longest session of the arm.
    """
    shuffled = of_series(sessions).sample(fraction=1, shuffle=True, seed=seed)
    curves = session_curves(shuffled, window)
    for (arm, stream), series in sessions.items():
        longest = max(len(other) for (name, _), other in sessions.items() if name == arm)
        size = min(window, longest)
        starts = range(len(series) - size + 1)
        mine = curves.filter(arm=arm, stream=stream).sort("turn")
        assert mine["accuracy"].to_list() == [np.mean(series[t : t + size]) for t in starts]
        middles = [np.mean(np.arange(t + 1, t + size + 1)) for t in starts]
        assert mine["turn"].to_list() == middles
        assert set(mine["window"]) <= {size}


@given(sessions=SESSIONS, window=st.integers(1, 30))
def test_arm_curves(sessions: dict[tuple[str, int], list[bool]], window: int) -> None:
    """An arm's curve is the mean over its sessions with the interval of shares."""
    single = session_curves(of_series(sessions), window)
    curves = arm_curves(single)
    assert curves.height == single.select("arm", "turn").n_unique()
    for arm, turn, accuracy, low, high, count in curves.drop("experiment").iter_rows():
        values = single.filter(arm=arm, turn=turn)["accuracy"].to_numpy()
        wanted = Estimate.of_shares(values, int(single.filter(arm=arm, turn=turn)["window"].sum()))
        assert (accuracy, count) == (pytest.approx(wanted.mean), len(values))
        interval = wanted.interval
        assert (low, high) == ((None, None) if interval is None else pytest.approx(interval))


def test_short_sessions_keep_window() -> None:
    """Sessions shorter than a window do not change the windows of others."""
    whole = [True, False] * 10
    alone = session_curves(of_series({("a", 0): whole}), 10)
    beside = session_curves(of_series({("a", 0): whole, ("a", 1): [True]}), 10)
    assert beside.equals(alone)
    other = session_curves(of_series({("a", 0): whole, ("b", 0): [True]}), 10)
    assert other.filter(arm="a").equals(alone)
    assert other.filter(arm="b")["window"].to_list() == [1]


def test_empty_window() -> None:
    """A window of no turns is an error."""
    with pytest.raises(InputError, match=r"window .* got 0"):
        session_curves(of_series({("a", 0): [True]}), 0)


# ---- imports, probes and notes -----------------------------------------------------------


def test_no_network_imports() -> None:
    """Analysis and plots import no network client."""
    home = str(Path(icl_loop.__file__).parent)
    code = (
        "import sys, types\n"
        "package = sys.modules['icl_loop'] = types.ModuleType('icl_loop')\n"
        f"package.__path__ = [{home!r}]\n"
        "import icl_loop.analysis, icl_loop.plots\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    clients = {"openai", "httpx", "requests", "urllib3", "aiohttp", "anyio", "tiktoken", "pooch"}
    assert not clients & set(ran.stdout.split())


async def test_probe_accuracy(tmp_path: Path) -> None:
    """Probe accuracy averages sessions and does not affect the accuracy of turns."""
    made = experiment(turns=20, streams=3, probes={"at": [0, 20], "count": 10})
    result = await Run(made, tmp_path).play()
    asked = probes(result.paths)
    assert asked.height == 3 * 2 * 10
    found = checkpoints(asked)
    assert [(each.arm, each.after_turn) for each in found] == [("feedback", 0), ("feedback", 20)]
    for each in found:
        shares = [
            np.mean([p.correct for p in read(path).probes if p.after_turn == each.after_turn])
            for path in result.paths
        ]
        assert each.accuracy == Estimate.of_shares(np.array(shares), 30)
        assert (each.right, each.asked) == (round(10 * sum(shares)), 30)
    assert frame(result.paths).height == 3 * 20
    (without,) = summarise(
        frame((await Run(experiment(turns=20, streams=3), tmp_path / "b").play()).paths)
    )
    (with_probes,) = summarise(frame(result.paths))
    assert without.accuracy == with_probes.accuracy


async def test_torn_probe(tmp_path: Path) -> None:
    """A torn probe line is ignored; one without its fields is an error."""
    made = experiment(turns=4, streams=1, probes={"at": [4], "count": 10})
    (path,) = (await Run(made, tmp_path).play()).paths
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:20])
    assert probes([path]).height == 9
    path.write_bytes(b"".join(lines[:-2]) + b'{"type":"probe"}\n')
    with pytest.raises(TranscriptError, match=r"line 15, probe\.kept: is missing"):
        probes([path])


async def test_note_usage(tmp_path: Path) -> None:
    """Note usage matches the saved notes; a note without its fields is an error."""
    made = experiment(turns=7, streams=2, context={"policy": "notes(3, 40)"})
    paths = (await Run(made, tmp_path).play()).paths
    lengths = [len(note.text) for path in paths for note in read(path).notes]
    (found,) = note_usage(notes(paths))
    assert (found.arm, found.sessions, found.fewest, found.most) == ("feedback", 2, 2, 2)
    assert (found.length, found.longest) == (float(np.mean(lengths)), max(lengths))
    lines = paths[0].read_bytes().splitlines(keepends=True)
    paths[0].write_bytes(lines[0] + b'{"type":"note","after_turn":0}\n')
    with pytest.raises(TranscriptError, match=r"line 2, note\.kept: is missing"):
        notes(paths)


async def test_edited_score(tmp_path: Path) -> None:
    """A turn whose score contradicts its answer is an error."""
    (path,) = (await Run(experiment(turns=10, streams=1), tmp_path).play()).paths
    whole = without_checksum(path.read_text())
    for old, new in (('"correct":true', '"correct":false'), ('"correct":false', '"correct":true')):
        path.write_text(whole.replace(old, new, 1))
        line = whole[: whole.index(old)].count("\n") + 1
        with pytest.raises(TranscriptError, match=f"line {line} .*answer.* do not agree"):
            frame([path])
