"""The laws of analysis: what was played is what is counted, and what is undefined stays so."""

import json
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
    as_json,
    checkpoints,
    find,
    frame,
    note_usage,
    notes,
    probes,
    session_curves,
    summarise,
    warnings,
)
from icl_loop.context import to_spans
from icl_loop.core.errors import InputError, TranscriptError
from icl_loop.core.messages import Reply, Usage, user
from icl_loop.core.records import Feedback, Outcome, Span, Turn
from icl_loop.runner.run import Run
from icl_loop.transcripts import DatasetIdentity, End, EndStatus, Header, line_fields, read

COLUMNS = [
    *("path", "experiment", "arm", "stream", "turns", "chance", "complete"),
    *("turn", "sample", "label", "answer", "outcome", "correct"),
    *("told_length", "exposure"),
    *("latency_s", "counted", "prefix"),
    *("prompt", "cached", "completion", "reasoning"),
]
SERIES = st.lists(st.booleans(), min_size=1, max_size=40)


def header(
    arm: str = "a", stream: int = 0, turns: int = 20, experiment: str = "small"
) -> dict[str, object]:
    """Return the first line of a session of ten labels."""
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
    """Return the line of one turn, in an alphabet of several bytes a letter."""
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
    """Return the last line of a session."""
    return End(status=status, turns=turns, at="2023-03-15").model_dump()


def written(*lines: Mapping[str, object]) -> bytes:
    """Return the bytes of a transcript that holds these lines."""
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def session(
    correct: Sequence[bool],
    arm: str = "a",
    stream: int = 0,
    *,
    turns: int | None = None,
    experiment: str = "small",
) -> bytes:
    """Return the transcript of a session that went like this; unfinished if `turns` are more."""
    planned = len(correct) if turns is None else turns
    head = header(arm, stream, planned, experiment)
    played = [turn(index, correct=right) for index, right in enumerate(correct)]
    return written(head, *played, *[end(turns=planned)] * (len(correct) == planned))


@contextmanager
def saved(*sessions: bytes) -> Iterator[list[Path]]:
    """Put these transcripts into files of a folder that goes away."""
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


async def test_a_frame_is_what_was_read_turn_by_turn(tmp_path: Path) -> None:
    """A frame has the documented columns and one row a turn, which says what `read` says."""
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
            saved.header.turns,
            1 / len(saved.header.labels),
            saved.end is not None,
            each.index,
            each.sample,
            each.label,
            each.answer,
            each.outcome,
            each.feedback.correct,
            len(each.feedback.told),
            sum(last - first + 1 for first, last in each.kept),
            each.reply.latency_s,
            each.counted,
            each.prefix,
            each.reply.usage.prompt,
            each.reply.usage.cached,
            each.reply.usage.completion,
            each.reply.usage.reasoning,
        )
        for path in result.paths
        for saved in [read(path)]
        for each in saved.turns
    ]
    assert turns.rows() == expected
    assert frame([tmp_path]).sort("path", "turn").equals(turns.sort("path", "turn"))


def test_the_columns_are_documented() -> None:
    """Every column of a frame is named in the description of `frame`."""
    assert all(f"`{name}`" in str(frame.__doc__) for name in COLUMNS)


@settings(max_examples=25)
@given(data=st.data(), whole=st.integers(0, 3))
def test_a_torn_last_line_is_left_out(data: st.DataObject, whole: int) -> None:
    """Cut at any byte of the last line, a transcript has all turns but that one."""
    before = session([True, False, True], turns=9)
    last = written(turn(3))
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
        (written(header()), None),
        (written(header(), end(turns=0)), None),
        (b"\n", 1),
        (b"# not JSON\n", 1),
        (b"\x89PNG\r\n\x1a\n", 1),
        (written({"type": "session"}), 1),
        (written({**header(), "version": 3}, turn(0)), 1),
        (written({**header(), "labels": []}, turn(0)), 1),
        (written(turn(0), turn(1)), 1),
        (written(*GOOD) + b"\n" + written(turn(2)), 4),
        (written(*GOOD) + b'{"type": "tu\n' + written(turn(2)), 4),
        (written(*GOOD)[:-1] + written(turn(2)), 3),
        (written(*GOOD) + b"[1, 2]\n" + written(turn(2)), 4),
        (written(*GOOD) + b"\xff\xfe\n" + written(turn(2)), 4),
        (written(*GOOD, {}, turn(2)), 4),
        (written(*GOOD, {"type": "remark"}, turn(2)), 4),
        (written(*GOOD, header(), turn(2)), 4),
        (written(*GOOD, turn(3)), 4),
        (written(*GOOD, turn(1)), 4),
        (written(*GOOD, end(), turn(2)), 5),
        (written(*GOOD, {"type": "end"}), 4),
        (written(*GOOD, {**turn(2), "turn": "2"}), 4),
        (written(*GOOD, {**turn(2), "turn": 2.5}), 4),
        (written(*GOOD, {**turn(2), "turn": 10**30}), 4),
        (written(*GOOD, {**turn(2), "correct": None}), 4),
        (written(*GOOD, {**turn(2), "correct": "yes"}), 4),
        (written(*GOOD, {**turn(2), "kept": [[0]]}), 4),
        (written(*GOOD, {**turn(2), "kept": [[0, None]]}), 4),
        (written(*GOOD, {**turn(2), "kept": [1]}), 4),
        (written(*GOOD, {**turn(2), "usage": 3}), 4),
        (written(*GOOD, {**turn(2), "usage": {"prompt": 3}}), 4),
    ],
)
def test_what_is_no_transcript_is_refused(data: bytes, line: int | None) -> None:
    """A file that is no transcript is one TranscriptError that names the file, and its bad line."""
    good = session([True])
    with saved(good, data) as paths:
        with pytest.raises(TranscriptError) as caught:
            frame(paths[1:])
        assert str(paths[1]) in str(caught.value)
        if line is not None:
            with pytest.raises(TranscriptError) as caught:
                frame(paths)
            assert f"{paths[1]}, line {line} " in str(caught.value)
        assert "\n" not in str(caught.value)


@given(place=st.integers(0, len(written(*GOOD)) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_is_read_or_refused(place: int, byte: int) -> None:
    """Whatever one byte of a transcript becomes, it is read or it is a TranscriptError."""
    data = bytearray(written(*GOOD, end("stopped", 2)))
    data[place] = byte
    with saved(bytes(data)) as paths:
        try:
            turns = frame(paths)
        except TranscriptError:
            return
        assert turns.columns == COLUMNS


def test_a_session_without_turns_is_left_out() -> None:
    """A session that has no turn yet, among others that have some, adds no row."""
    turns = framed(written(header(stream=0)), session([True, False], stream=1))
    assert turns["stream"].to_list() == [1, 1]


def test_probes_are_no_turns() -> None:
    """A probe between two turns is neither counted nor refused."""
    probe = {"type": "probe", "after_turn": 0, "sample": "none/9"}
    assert framed(written(header(), turn(0), probe, turn(1)))["turn"].to_list() == [0, 1]


def test_a_file_named_twice_counts_once(tmp_path: Path) -> None:
    """However a file is spelled and however often, its turns are counted once."""
    path = tmp_path / "sessions" / "a[0]*?.jsonl"
    path.parent.mkdir()
    path.write_bytes(session([True, False]))
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    roundabout = tmp_path / "sessions" / ".." / "sessions" / path.name
    assert find([path, link, tmp_path, roundabout, path]) == [path]
    assert frame([path, tmp_path, link]).equals(frame([path]))


def test_files_keep_their_order(tmp_path: Path) -> None:
    """Files come in the order in which they are named, those of a folder in the order of names."""
    for name in "bca":
        (tmp_path / f"{name}.jsonl").write_bytes(session([True], arm=name))
    assert frame([tmp_path])["arm"].to_list() == ["a", "b", "c"]
    assert frame([tmp_path / "c.jsonl", tmp_path])["arm"].to_list() == ["c", "a", "b"]


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    """No path, a path that is not there, an empty folder, a folder for a file: each is refused."""
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
def test_exposure_counts_the_turns_shown(shown: set[int]) -> None:
    """Exposure is the number of past turns in the runs that a request kept."""
    played = [turn(index) for index in range(31)]
    last = turn(31, kept=to_spans(sorted(shown)))
    assert framed(written(header(), *played, last))["exposure"].to_list()[-1] == len(shown)


@pytest.mark.parametrize(
    "kept", [[[0, 2]], [[-1, 0]], [[1, 0]], [[0, 10**9]], [[]], [[0]], [[0, 1, 1]]]
)
def test_runs_of_turns_not_played_are_refused(kept: list[list[int]]) -> None:
    """A turn that claims to have been shown what was not played before is named, by all readers."""
    lines = written(header(), turn(0), turn(1), {**turn(2), "kept": kept})
    with saved(lines) as paths:
        for reader in (lambda: frame(paths), lambda: read(paths[0])):
            with pytest.raises(TranscriptError, match="line 4"):
                reader()


def test_runs_of_one_experiment_are_told_apart(tmp_path: Path) -> None:
    """Sessions of the same streams in two folders are two runs, named by their folders."""
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


def test_parts_of_one_run_stay_together(tmp_path: Path) -> None:
    """Sessions of one experiment in several folders are one run if no stream recurs."""
    for stream in range(3):
        (tmp_path / str(stream)).mkdir()
        data = session([True, False], stream=stream)
        (tmp_path / str(stream) / "a.jsonl").write_bytes(data)
    [summary] = summarise(frame([tmp_path]))
    assert (summary.experiment, summary.sessions) == ("small", 3)


# ---- estimates and summaries -------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_interval_is_students(values: list[float]) -> None:
    """The interval of a mean is the t interval over the values, as scipy gives it."""
    found = Estimate.of(np.array(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.interval is not None
    error = stats.sem(values)
    if error:
        wanted = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        assert found.interval == pytest.approx(wanted)
    else:
        assert found.interval == pytest.approx((values[0], values[0]))


def test_the_interval_is_the_one_of_the_tables() -> None:
    """Of the values 1 to 5 the mean is 3, give or take 2.776 times the root of 2.5 / 5."""
    found = Estimate.of(np.arange(1.0, 6.0))
    assert found.mean == 3
    assert found.interval == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-4)


def mean_of_means(sessions: Sequence[Sequence[bool]]) -> float | None:
    """Return the mean over sessions of their own means, leaving out sessions without turns."""
    means = [float(np.mean(each)) for each in sessions if each]
    return float(np.mean(means)) if means else None


@settings(max_examples=25)
@given(
    sessions=st.lists(SERIES, min_size=1, max_size=4),
    planned=st.integers(1, 400) | st.integers(1, 40),
)
@example(sessions=[[True] * 20 + [False] * 20], planned=400)
def test_early_and_late_are_parts_of_the_plan(sessions: list[list[bool]], planned: int) -> None:
    """Early is the first min(20, T/10) turns, late those after T/2, T being the turns planned."""
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
def test_windows_of_the_table_are_all_turns(sessions: list[list[bool]]) -> None:
    """The windows of a summary follow one another from the first to the last turn played."""
    data = [session(each, stream=k, turns=60) for k, each in enumerate(sessions)]
    [summary] = summarise(framed(*data))
    ends = [0, *(block.last for block in summary.blocks)]
    assert [block.first - 1 for block in summary.blocks] == ends[:-1]
    assert ends[-1] == max(map(len, sessions))
    for block in summary.blocks:
        part = [each[block.first - 1 : block.last] for each in sessions]
        assert block.accuracy.mean == pytest.approx(mean_of_means(part))
        assert block.accuracy.sessions == sum(map(bool, part))


def test_no_turn_is_beyond_the_last_window() -> None:
    """A session longer than the last edge of the table has its last turns in the last window."""
    turns = framed(session([True]))
    long = pl.concat([turns] * 10_003).with_columns(turn=pl.int_range(pl.len()))
    [summary] = summarise(long)
    assert [block.first for block in summary.blocks][-2:] == [5_001, 10_001]
    assert summary.blocks[-1].last == 10_003


def test_arms_keep_their_order() -> None:
    """Summaries and curves have the arms in the order of the files, however streams alternate."""
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


def test_one_session_is_descriptive_only() -> None:
    """One session has no interval, and a warning says that it supports no claim."""
    turns = framed(session([True, False, True]))
    [summary] = summarise(turns)
    assert [summary.early.interval, summary.late.interval, summary.accuracy.interval] == [None] * 3
    assert warnings([summary]) == ["arm 'a' has one session: descriptive only"]
    curves = arm_curves(session_curves(turns, 1))
    assert curves["low"].to_list() == curves["high"].to_list() == [None] * 3


def test_warnings_say_what_is_missing() -> None:
    """Fewer than five sessions and unfinished sessions are warned of, enough whole ones are not."""
    whole = [session([True, False], stream=k) for k in range(5)]
    assert warnings(summarise(framed(*whole))) == []
    assert warnings(summarise(framed(*whole[:4]))) == ["arm 'a' has 4 sessions: too few for a test"]
    cut = session([True], stream=5, turns=2)
    full = written(header(stream=6), turn(0), end("context_full", 1))
    assert warnings(summarise(framed(*whole, cut, full))) == ["arm 'a': 2 of 7 sessions unfinished"]
    other = session([True], experiment="other")
    assert warnings(summarise(framed(*whole, other))) == [
        "arm 'a' of 'other' has one session: descriptive only"
    ]


def test_what_was_not_read_is_counted_apart() -> None:
    """An answer that could not be read is a wrong turn and an outcome of its own."""
    lost = [turn(1, correct=False, outcome="unreadable"), turn(2, correct=False, outcome="refusal")]
    [summary] = summarise(framed(written(header(turns=3), turn(0), *lost)))
    assert summary.outcomes == {"ok": 1, "unreadable": 1, "refusal": 1}
    assert summary.accuracy.mean == pytest.approx(1 / 3)


@settings(max_examples=25)
@given(
    sessions=st.lists(SERIES, min_size=1, max_size=3),
    planned=st.integers(1, 200),
)
def test_json_holds_no_nan(sessions: list[list[bool]], planned: int) -> None:
    """A summary as JSON reads back as it was, and what is undefined in it is null."""
    sessions = [each[:planned] for each in sessions]
    data = [session(each, stream=k, turns=planned) for k, each in enumerate(sessions)]
    [summary] = summarise(framed(*data))
    fields = as_json(summary)
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert (fields["late"] is None) == (summary.late.sessions == 0)
    assert (fields["late_ci"] is None) == (summary.late.sessions < 2)
    assert [each["first"] for each in fields["windows"]] == [b.first for b in summary.blocks]


# ---- curves ------------------------------------------------------------------------------


def of_series(
    sessions: Mapping[tuple[str, int], Sequence[bool]],
) -> pl.DataFrame:
    """Return the columns of a frame that curves are made of, from correct-series by (arm, stream)."""
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
def test_windowed_accuracy_is_the_mean_of_whole_windows(
    sessions: dict[tuple[str, int], list[bool]], window: int, seed: int
) -> None:
    """A point of a curve is the mean of a whole window around it, whatever order the rows are in.

    The window is the one asked for, or as long as the longest session of the arm.
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
def test_the_curve_of_an_arm_is_the_mean_of_its_sessions(
    sessions: dict[tuple[str, int], list[bool]], window: int
) -> None:
    """An arm's curve is mean and t interval over the sessions that have the window, cut to 0..1."""
    single = session_curves(of_series(sessions), window)
    curves = arm_curves(single)
    assert curves.height == single.select("arm", "turn").n_unique()
    for arm, turn, accuracy, low, high, count in curves.drop("experiment").iter_rows():
        values = single.filter(arm=arm, turn=turn)["accuracy"].to_numpy()
        wanted = Estimate.of(values)
        assert (accuracy, count) == (pytest.approx(wanted.mean), len(values))
        interval = wanted.interval and tuple(np.clip(wanted.interval, 0, 1))
        assert (low, high) == ((None, None) if interval is None else pytest.approx(interval))


def test_a_session_cut_short_does_not_shorten_windows() -> None:
    """Sessions that broke off before their first whole window leave the windows of others alone."""
    whole = [True, False] * 10
    alone = session_curves(of_series({("a", 0): whole}), 10)
    beside = session_curves(of_series({("a", 0): whole, ("a", 1): [True]}), 10)
    assert beside.equals(alone)
    other = session_curves(of_series({("a", 0): whole, ("b", 0): [True]}), 10)
    assert other.filter(arm="a").equals(alone)
    assert other.filter(arm="b")["window"].to_list() == [1]


def test_a_window_has_a_turn() -> None:
    """A window of no turns is refused, with its size."""
    with pytest.raises(InputError, match=r"window .* got 0"):
        session_curves(of_series({("a", 0): [True]}), 0)


# ---- the room ----------------------------------------------------------------------------


def test_analysis_and_plots_bring_no_network_client() -> None:
    """Analysis and plots by themselves import no client of the network and no vendor's."""
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


async def test_probes_are_counted_apart(tmp_path: Path) -> None:
    """Accuracy on probes is that of the probes saved, a session a value, and moves no turn's."""
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
        assert each.accuracy == Estimate.of(np.array(shares))
        assert (each.right, each.asked) == (round(10 * sum(shares)), 30)
    assert frame(result.paths).height == 3 * 20
    (without,) = summarise(
        frame((await Run(experiment(turns=20, streams=3), tmp_path / "b").play()).paths)
    )
    (with_probes,) = summarise(frame(result.paths))
    assert without.accuracy == with_probes.accuracy


async def test_a_torn_probe_is_left_out(tmp_path: Path) -> None:
    """A probe whose line was cut is not counted; one without its fields is named."""
    made = experiment(turns=4, streams=1, probes={"at": [4], "count": 10})
    (path,) = (await Run(made, tmp_path).play()).paths
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:20])
    assert probes([path]).height == 9
    path.write_bytes(b"".join(lines[:-2]) + b'{"type":"probe"}\n')
    with pytest.raises(TranscriptError, match=r"line 15, probe\.kept: is missing"):
        probes([path])


async def test_notes_are_counted_as_they_are_saved(tmp_path: Path) -> None:
    """Notes of an arm and their length are those saved; one that is not whole is named."""
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


async def test_a_judgement_that_was_edited_is_refused(tmp_path: Path) -> None:
    """A turn that is called right though its answer is not the label is named, and so the reverse."""
    (path,) = (await Run(experiment(turns=10, streams=1), tmp_path).play()).paths
    whole = without_checksum(path.read_text())
    for old, new in (('"correct":true', '"correct":false'), ('"correct":false', '"correct":true')):
        path.write_text(whole.replace(old, new, 1))
        line = whole[: whole.index(old)].count("\n") + 1
        with pytest.raises(TranscriptError, match=f"line {line} .*answer .* do not agree"):
            frame([path])
