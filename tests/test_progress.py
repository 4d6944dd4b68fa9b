"""Progress, pictures and tables in the terminal: right numbers, and no control characters."""

import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rich.console import Console

from builders import experiment, played, session
from icl_loop.analysis import ArmSummary, Checkpoint, Estimate
from icl_loop.analysis.curves import WindowAccuracy
from icl_loop.core.errors import ModelUnavailable
from icl_loop.core.messages import Usage
from icl_loop.core.names import printable
from icl_loop.core.records import Feedback, Turn
from icl_loop.experiment import Experiment
from icl_loop.models.limits import Budget
from icl_loop.runner.run import StoppedSession
from icl_loop.tasks.encodings import Pixels
from icl_loop.terminal.console import print_text
from icl_loop.terminal.formatting import RECENT
from icl_loop.terminal.progress import RunProgress, WorkProgress
from icl_loop.terminal.results_tables import accuracy_table, probes_table, stops_table
from icl_loop.terminal.session_view import draw
from terminal_text import HOSTILE, is_plain, shown

# ---- text --------------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=50) | st.text("\x1b[\u202e\u2028\x9b\r\n三a ", max_size=9))
def test_printable_text_has_no_control_characters(text: str) -> None:
    """Printable text has no control, format or private characters, and no line ends but newlines."""
    made = printable(text)
    assert is_plain(made)
    assert not {"Zl", "Zp"} & {unicodedata.category(mark) for mark in made}
    assert len(made) == len(text)


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), max_size=50))
def test_printable_text_keeps_what_people_write(text: str) -> None:
    """Letters, marks, numbers, punctuation, symbols and spaces of any script are kept."""
    assert printable(text) == text


@pytest.mark.parametrize("mark", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff"])
def test_control_characters_are_replaced(mark: str) -> None:
    """Escape, bell, CSI, direction overrides and zero-width characters become U+FFFD."""
    assert printable(f"a{mark}b") == "a\ufffdb"


# ---- pictures ----------------------------------------------------------------------------

PIXELS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(0, 1, width=32) | st.just(np.float32(0.5)),
)
BLOCKS = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}


@given(PIXELS)
def test_a_picture_lights_what_is_bright(ink: Pixels) -> None:
    """Each line of a picture has two rows of pixels, which are lit from a brightness of 0.5."""
    lines = draw(ink, colour=False).plain.split("\n")
    rows, columns = ink.shape
    assert len(lines) == (rows + 1) // 2
    assert {len(line) for line in lines} == {columns}
    lit = np.array([[BLOCKS[block][half] for block in line] for line in lines for half in (0, 1)])
    assert np.array_equal(lit[:rows], ink >= 0.5)
    assert not lit[rows:].any()


@given(PIXELS)
def test_a_coloured_picture_has_every_grey(ink: Pixels) -> None:
    """In colour, each pixel is half a block in its grey level."""
    picture = draw(ink, colour=True)
    rows, columns = ink.shape
    assert picture.plain == "\n".join(["▀" * columns] * ((rows + 1) // 2))
    styles = [str(span.style) for span in picture.spans]
    for at in np.ndindex(rows, columns):
        halves = styles[at[0] // 2 * columns + at[1]].split(" on ")
        grey = round(255 * float(ink[at]))
        assert halves[at[0] % 2] == f"rgb({grey},{grey},{grey})"


# ---- progress ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def turns() -> tuple[Turn, Turn]:
    """A right turn and a wrong one."""
    import asyncio

    [one] = asyncio.run(played(session(1)))
    right, wrong = Feedback(correct=True, told=""), Feedback(correct=False, told="")
    return replace(one, feedback=right), replace(one, feedback=wrong)


def console_of(*, terminal: bool) -> tuple[Console, StringIO]:
    """Return a console and the file that it writes to."""
    file = StringIO()
    return Console(file=file, width=120, force_terminal=terminal, color_system=None), file


Run = Sequence[tuple[str, bool]]
"""The arm of each turn, and whether its answer is right."""


def show_run(plan: Experiment, turns: tuple[Turn, Turn], run: Run, *, terminal: bool) -> list[str]:
    """Return the lines of the progress of a run."""
    console, file = console_of(terminal=terminal)
    sessions = {each.arm: each for each in plan.sessions()}
    with RunProgress(plan, console, Budget()) as progress:
        for arm, right in run:
            progress.turn(sessions[arm], turns[0] if right else turns[1])
    return file.getvalue().splitlines()


ARMS = [{"name": "one"}, {"name": "other"}]
PARTS = st.tuples(st.sampled_from(["one", "other"]), st.booleans(), st.integers(1, 30))
RUNS = st.lists(PARTS, max_size=8).map(
    lambda parts: [(arm, right) for arm, right, length in parts for _ in range(length)]
)


def recent_accuracy(run: Run, arm: str, streams: int) -> str:
    """Return the accuracy of an arm over the last `RECENT` turns of each of its streams."""
    latest = [right for name, right in run if name == arm][-RECENT * streams :]
    return f"{np.mean(latest):.1%}" if latest else "–"


@given(run=RUNS, streams=st.integers(1, 2))
def test_a_pipe_gets_plain_lines(turns: tuple[Turn, Turn], run: Run, streams: int) -> None:
    """Without a terminal, the first line and the last tell turns and recent accuracy."""
    plan = experiment(arms=ARMS, turns=60, streams=streams)
    first, last = show_run(plan, turns, run, terminal=False)
    total = 120 * streams
    assert first == f"0 of {total} turns; recent accuracy: one –, other –"
    assert last.startswith(f"{len(run)} of {total} turns")
    one, other = (recent_accuracy(run, arm, streams) for arm in ("one", "other"))
    assert last.endswith(f"; recent accuracy: one {one}, other {other}")


class Fast(RunProgress):
    """Progress that prints a line at once when something changes."""

    INTERVAL_S, POLL_S = 0.0, 0.01


def wait_for(text: str, file: StringIO) -> None:
    """Wait until a text has been printed."""
    until = time.monotonic() + 10
    while text not in file.getvalue() and time.monotonic() < until:
        time.sleep(0.01)
    assert text in file.getvalue()


def test_a_line_appears_only_when_something_changes(turns: tuple[Turn, Turn]) -> None:
    """Without a terminal, a change prints one line, and no time without a change prints any."""
    plan = experiment(arms=ARMS)
    console, file = console_of(terminal=False)
    with Fast(plan, console, Budget()) as progress:
        for count, one in enumerate(plan.sessions(), start=1):
            time.sleep(0.05)
            progress.turn(one, turns[0])
            wait_for(f"{count} of ", file)
    counts = [line.split()[0] for line in file.getvalue().splitlines()]
    assert counts == [*map(str, range(plan.count() + 1)), counts[-1]]


def test_lines_keep_their_distance(turns: tuple[Turn, Turn]) -> None:
    """Changes within the interval print no line of their own."""

    class Slow(Fast):
        INTERVAL_S = 60.0

    plan = experiment(arms=ARMS)
    console, file = console_of(terminal=False)
    with Slow(plan, console, Budget()) as progress:
        for one in plan.sessions():
            progress.turn(one, turns[0])
            time.sleep(0.03)
    assert len(file.getvalue().splitlines()) == 2


@pytest.mark.parametrize("terminal", [True, False])
def test_a_silent_endpoint_is_reported(turns: tuple[Turn, Turn], *, terminal: bool) -> None:
    """After some time without a reply the progress says for how long, until the next reply."""

    class Impatient(Fast):
        QUIET_S = 1

    plan = experiment(arms=ARMS)
    console, file = console_of(terminal=terminal)
    with Impatient(plan, console, Budget(in_flight=1)) as progress:
        assert "no reply" not in progress.status()
        wait_for("no reply for 1 s; tokens", file)
        progress.turn(next(plan.sessions()), turns[0])
        assert "no reply" not in progress.status()


def test_the_time_left_is_that_of_turns_played_since_the_start(turns: tuple[Turn, Turn]) -> None:
    """Turns that were saved before say nothing about the time left; others count since the start."""
    plan = experiment(arms=ARMS, turns=100, streams=1)
    console, file = console_of(terminal=True)
    saved, new = (replace(turns[0], reply=replace(turns[0].reply, latency_s=s)) for s in (60, 0))
    first = next(plan.sessions())
    with RunProgress(plan, console, Budget()) as progress:
        for _ in range(20):
            progress.turn(first, saved)
        assert " left" not in progress.line()
        time.sleep(0.5)
        progress.turn(first, new)
        assert re.search(r", [1-9] min left", progress.line())
    assert re.search(r"one .* \d+ s left", file.getvalue())


@settings(max_examples=15)
@given(run=RUNS, streams=st.integers(1, 2))
def test_a_terminal_gets_a_bar_per_arm(turns: tuple[Turn, Turn], run: Run, streams: int) -> None:
    """On a terminal, the bars end at the turns and the recent accuracy of each arm."""
    plan = experiment(arms=ARMS, turns=60, streams=streams)
    lines = show_run(plan, turns, run, terminal=True)
    *_, one, other = (line for line in lines if "/" in line)
    for arm, line in (("one", one), ("other", other)):
        assert arm in line
        assert f" {sum(name == arm for name, _ in run)}/{60 * streams} " in line
        assert f"accuracy {recent_accuracy(run, arm, streams):>6} " in line


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_the_budget(*, terminal: bool) -> None:
    """Tokens, money, requests in flight and the most common retry are shown if there are any."""
    console, file = console_of(terminal=terminal)
    budget = Budget(spent=Usage(prompt=1_200, cached=300, completion=45), usd=0.5, in_flight=3)
    budget.retries.update([f"429 {HOSTILE}", f"429 {HOSTILE}", "500"])
    with RunProgress(experiment(arms=ARMS), console, budget) as progress:
        assert is_plain(progress.status())
    for part in (
        "tokens: 1,200 in (300 cached), 45 out; $0.5000; 3 requests in flight; 3 retries, ",
        "2 of them: 429",
    ):
        assert part in file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_what_is_waited_for(*, terminal: bool) -> None:
    """The longest wait is shown with its reason while it lasts, however short its requests were."""
    console, file = console_of(terminal=terminal)
    budget = Budget(in_flight=1)
    for number, seconds in enumerate((0.5, 30, 200)):
        budget.note_wait(number, seconds, f"as the endpoint asks: {HOSTILE}")
    with RunProgress(experiment(arms=ARMS), console, budget) as progress:
        assert is_plain(progress.status())
    assert "waiting 3 min (2 requests) as the endpoint asks: " in file.getvalue()
    budget.waits.update({number: replace(wait, until=0.0) for number, wait in budget.waits.items()})
    assert "waiting" not in progress.status()


@pytest.mark.parametrize("terminal", [True, False])
def test_messages_are_printed_beside_progress(*, terminal: bool) -> None:
    """A message is printed as it is, whether there are bars or plain lines."""
    console, file = console_of(terminal=terminal)
    with RunProgress(experiment(arms=ARMS), console, Budget()):
        print_text("stopping [once more]", console)
    assert "stopping [once more]\n" in file.getvalue()


def test_progress_is_without_colour_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR, the bars have no colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    file = StringIO()
    console = Console(file=file, width=120, force_terminal=True)
    with RunProgress(experiment(arms=ARMS), console, Budget()):
        pass
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", file.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("total", [2, None])
def test_only_long_work_shows_progress(*, terminal: bool, total: int | None) -> None:
    """Work that ends before the delay prints nothing; longer work prints how far it is."""
    quick, quick_file = console_of(terminal=terminal)
    with WorkProgress(quick, "baking", "pies", total) as progress:
        progress.add()
    assert quick_file.getvalue() == ""

    long, long_file = console_of(terminal=terminal)
    with WorkProgress(long, "baking", "pies", total, delay_s=0.01) as progress:
        progress.add(2)
        until = time.monotonic() + 10
        while "baking" not in long_file.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
    if terminal:
        assert re.search(rf"baking .* 2/{total or '[?]'} pies", long_file.getvalue())
    else:
        assert long_file.getvalue() == f"baking: 2{' of 2' if total else ''} pies\n"


# ---- tables ------------------------------------------------------------------------------

SHARE = st.floats(0, 1)
ESTIMATES = st.one_of(
    st.just(Estimate(None, None, 0)),
    st.builds(lambda mean: Estimate(mean, None, 1), SHARE),
    st.builds(
        lambda low, mean, high: Estimate(mean, (min(low, mean), max(mean, high)), 8),
        *(SHARE, SHARE, SHARE),
    ),
)


@st.composite
def summaries(draw: st.DrawFn) -> list[ArmSummary]:
    """Return summaries of arms with different numbers of turns."""
    return [
        ArmSummary(
            experiment="small",
            arm=arm,
            sessions=draw(st.integers(1, 99)),
            complete=0,
            turns=played,
            chance=0.1,
            accuracy=draw(ESTIMATES),
            early=draw(ESTIMATES),
            late=draw(ESTIMATES),
            windows=tuple(
                WindowAccuracy(start + 1, min(stop, played), draw(ESTIMATES))
                for start, stop in ((0, 20), (20, 50), (50, 100), (100, 200))
                if start < played
            ),
            outcomes={"ok": played - 1, "refusal": 1},
        )
        for arm in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
        for played in [draw(st.integers(1, 200))]
    ]


def percent(estimate: Estimate) -> list[str]:
    """Return the words that show an estimate in the table."""
    if estimate.mean is None:
        return ["–"]
    mean = f"{100 * estimate.mean:.1f}"
    if estimate.interval is None:
        return [mean]
    low, high = estimate.interval
    return [mean, f"{100 * low:.0f}–{100 * high:.0f}"]


@given(summaries())
def test_the_table_shows_every_arm_and_window(rows: list[ArmSummary]) -> None:
    """The table has a line per arm with every estimate, and a heading per window."""
    table = shown(accuracy_table(rows), width=160)
    heading, _, *lines = table[table.index(" arm ") :].splitlines()
    longest = max(rows, key=lambda row: row.turns).windows
    windows = [f"{block.first}-{block.last}" for block in longest]
    assert heading.split() == ["arm", "sessions", "early", "late", "all", *windows, "unparsed"]
    for row, line in zip(rows, lines, strict=False):
        words = [row.arm, str(row.sessions)]
        for estimate in (row.early, row.late, row.accuracy, *(b.accuracy for b in row.windows)):
            words += percent(estimate)
        assert line.split() == [*words, "1"]


@given(summaries())
def test_a_narrow_table_loses_no_number(rows: list[ArmSummary]) -> None:
    """In 80 columns, the table still has every number in full."""
    text = shown(accuracy_table(rows), width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    for row in rows:
        for estimate in (row.early, row.late, row.accuracy, *(b.accuracy for b in row.windows)):
            assert set(percent(estimate)) <= set(text.split())


def test_the_table_names_the_model() -> None:
    """One model is named in the title of the table; several have a column."""
    none = Estimate(None, None, 0)
    row = ArmSummary("small", "a", 1, 1, 1, 0.1, none, none, none, (), {}, "m-1")
    assert "Accuracy of m-1 in %" in shown(accuracy_table([row, replace(row, arm="b")]))
    several = shown(accuracy_table([row, replace(row, arm="b", model="m-2")]))
    first, second = (line.split()[:2] for line in several.strip().splitlines()[-2:])
    assert (first, second) == (["a", "m-1"], ["b", "m-2"])


def test_probes_of_each_experiment_have_a_row() -> None:
    """Arms of the same name in two experiments have rows and checkpoints of their own."""
    asked = [
        Checkpoint(experiment, "label", after, Estimate(share, None, 1), asked=4, right=2)
        for experiment, after, share in (("one", 0, 0.25), ("one", 9, 0.5), ("two", 9, 0.75))
    ]
    first, second = shown(probes_table(asked)).strip().splitlines()[-2:]
    assert first.split() == ["one", "/", "label", "25.0", "50.0"]
    assert second.split() == ["two", "/", "label", "–", "75.0"]


def test_tables_show_hostile_names_as_they_are() -> None:
    """Names in tables have no control characters and are not parsed as markup."""
    none = Estimate(None, None, 0)
    row = ArmSummary("small", HOSTILE, 1, 1, 1, 0.1, none, none, none, (), {})
    text = shown(accuracy_table([row, replace(row, experiment="other")]))
    assert is_plain(text)
    assert "small / " in text
    assert "other / " in text
    assert "[bold]x[/nope]" in text
    [stopped] = experiment(streams=1).sessions()
    stops = shown(stops_table([StoppedSession(stopped, ModelUnavailable(f"no answer {HOSTILE}"))]))
    assert is_plain(stops)
    assert "feedback-0" in stops
    assert "[bold]x[/nope]" in stops
