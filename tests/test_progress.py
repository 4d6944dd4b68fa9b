"""The laws of the terminal: it shows what is, counts right, and nobody else steers it."""

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
from icl_loop.analysis import ArmSummary, Estimate
from icl_loop.analysis.curves import Block
from icl_loop.core.errors import ModelUnavailable
from icl_loop.core.records import Feedback, Turn
from icl_loop.experiment import Experiment
from icl_loop.runner.run import StoppedSession
from icl_loop.tasks.encodings import Pixels
from icl_loop.terminal.formatting import RECENT, printable
from icl_loop.terminal.progress import (
    LiveProgress,
    PlainProgress,
    ProgressDisplay,
    stops_table,
    summary_table,
    watch,
)
from icl_loop.terminal.session_view import draw
from terminal_text import HOSTILE, is_plain, shown

# ---- text --------------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=50) | st.text("\x1b[\u202e\u2028\x9b\r\n三a ", max_size=9))
def test_printable_text_steers_nothing(text: str) -> None:
    """Printable text has no control, format, private or line mark but the line end."""
    made = printable(text)
    assert is_plain(made)
    assert not {"Zl", "Zp"} & {unicodedata.category(mark) for mark in made}
    assert len(made) == len(text)


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), max_size=50))
def test_printable_text_keeps_what_people_write(text: str) -> None:
    """Letters, marks, numbers, signs and spaces of any script stay as they are."""
    assert printable(text) == text


@pytest.mark.parametrize("mark", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff"])
def test_what_steers_a_terminal_is_replaced(mark: str) -> None:
    """Escape, bell, CSI, overrides of direction and marks of no width become U+FFFD."""
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
    """A picture has a line for two rows, the last one alone if need be, lit from 0.5 on."""
    lines = draw(ink, colour=False).plain.split("\n")
    rows, columns = ink.shape
    assert len(lines) == (rows + 1) // 2
    assert {len(line) for line in lines} == {columns}
    lit = np.array([[BLOCKS[block][half] for block in line] for line in lines for half in (0, 1)])
    assert np.array_equal(lit[:rows], ink >= 0.5)
    assert not lit[rows:].any()


@given(PIXELS)
def test_a_coloured_picture_has_every_grey(ink: Pixels) -> None:
    """In colour, each pixel is one half of a block, as grey as it is bright."""
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


def follow(
    watcher: ProgressDisplay,
    plan: Experiment,
    turns: tuple[Turn, Turn],
    went: Sequence[tuple[str, bool]],
) -> None:
    """Show a run to a watcher: the arm of each turn, and whether it was right."""
    sessions = {each.arm: each for each in plan.sessions()}
    with watcher:
        for arm, right in went:
            watcher.turn(sessions[arm], turns[0] if right else turns[1])


ARMS = [{"name": "one"}, {"name": "other"}]
RUNS = st.tuples(st.sampled_from(["one", "other"]), st.booleans(), st.integers(1, 30))
WENT = st.lists(RUNS, max_size=8).map(
    lambda runs: [(arm, right) for arm, right, length in runs for _ in range(length)]
)


def recent(went: Sequence[tuple[str, bool]], arm: str, streams: int) -> str:
    """Return the accuracy of an arm over the latest `RECENT` turns of each of its streams."""
    latest = [right for name, right in went if name == arm][-RECENT * streams :]
    return f"{np.mean(latest):.1%}" if latest else "–"


def console_of(*, terminal: bool) -> tuple[Console, StringIO]:
    """Return a console, and what it writes to."""
    file = StringIO()
    return Console(file=file, width=120, force_terminal=terminal, color_system=None), file


@given(went=WENT, streams=st.integers(1, 2))
def test_plain_progress_counts_turns(
    turns: tuple[Turn, Turn], went: list[tuple[str, bool]], streams: int
) -> None:
    """Plain progress says at the start what there is to play, at the end what was played."""
    plan = experiment(arms=ARMS, turns=60, streams=streams)
    console, file = console_of(terminal=False)
    follow(watch(plan, console), plan, turns, went)
    first, last = file.getvalue().splitlines()
    total = 120 * streams
    assert first == f"playing {total} turns in arms one, other"
    assert last.startswith(f"{len(went)}/{total} turns, ")
    one, other = (recent(went, arm, streams) for arm in ("one", "other"))
    assert last.endswith(f" left, recent accuracy: one {one}, other {other}")


class Hasty(PlainProgress):
    """Plain progress that finds it time at every turn."""

    SECONDS = 0.0


def test_plain_progress_goes_on(turns: tuple[Turn, Turn]) -> None:
    """Whenever it is time, plain progress says how far it is and how long it will take."""
    plan = experiment(arms=ARMS, turns=3, streams=1)
    console, file = console_of(terminal=False)
    follow(Hasty(plan, console), plan, turns, [("one", True), ("other", False), ("one", False)])
    counts = [line.partition(" turns")[0] for line in file.getvalue().splitlines()[1:]]
    assert counts == ["1/6", "2/6", "3/6", "3/6"]
    assert "one 50.0%, other 0.0%" in file.getvalue()


class Impatient(PlainProgress):
    """Plain progress that bears no silence."""

    SILENCE = 0.01


def test_plain_progress_breaks_the_silence() -> None:
    """While every turn waits, plain progress still says how far it is."""
    console, file = console_of(terminal=False)
    with Impatient(experiment(arms=ARMS), console):
        until = time.monotonic() + 10
        while file.getvalue().count(" turns,") < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert file.getvalue().count("0/48 turns") >= 3


@settings(max_examples=15)
@given(went=WENT, streams=st.integers(1, 2))
def test_live_progress_counts_turns(
    turns: tuple[Turn, Turn], went: list[tuple[str, bool]], streams: int
) -> None:
    """Live progress ends with a bar for each arm: its turns and its recent accuracy."""
    plan = experiment(arms=ARMS, turns=60, streams=streams)
    console, file = console_of(terminal=True)
    follow(watch(plan, console), plan, turns, went)
    *_, one, other = (line for line in file.getvalue().splitlines() if "/" in line)
    for arm, line in (("one", one), ("other", other)):
        played = sum(name == arm for name, _ in went)
        assert arm in line
        assert f" {played}/{60 * streams} " in line
        assert f"accuracy {recent(went, arm, streams):>6} " in line


@pytest.mark.parametrize(("terminal", "kind"), [(True, LiveProgress), (False, PlainProgress)])
def test_lines_are_said_beside_progress(terminal: bool, kind: type[ProgressDisplay]) -> None:  # noqa: FBT001
    """A terminal has live progress and a pipe plain lines, and both say a line as it stands."""
    plan = experiment(arms=ARMS)
    console, file = console_of(terminal=terminal)
    watcher = watch(plan, console)
    assert isinstance(watcher, kind)
    with watcher:
        watcher.say("stopping [once more]")
    assert "stopping [once more]\n" in file.getvalue()


# ---- tables ------------------------------------------------------------------------------

SHARE = st.floats(0, 1)
ESTIMATES = st.one_of(
    st.just(Estimate(None, None, 0)),
    st.builds(lambda mean: Estimate(mean, None, 1), SHARE),
    st.builds(lambda mean, half: Estimate(mean, (mean - half, mean + half), 8), SHARE, SHARE),
)


@st.composite
def summaries(draw: st.DrawFn) -> list[ArmSummary]:
    """Return summaries of arms that were played to different lengths."""
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
            blocks=tuple(
                Block(start + 1, min(stop, played), draw(ESTIMATES))
                for start, stop in ((0, 20), (20, 50), (50, 100), (100, 200))
                if start < played
            ),
            outcomes={"ok": played - 1, "refusal": 1},
        )
        for arm in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
        for played in [draw(st.integers(1, 200))]
    ]


def percent(estimate: Estimate) -> list[str]:
    """Return the words of an estimate in the table."""
    if estimate.mean is None:
        return ["–"]
    mean = f"{100 * estimate.mean:.1f}"
    if estimate.interval is None:
        return [mean]
    low, high = estimate.interval
    return [mean, f"±{100 * (high - low) / 2:.1f}"]


@given(summaries())
def test_the_table_shows_every_arm_and_window(rows: list[ArmSummary]) -> None:
    """The table has a line for each arm and in it every estimate, under its window's heading."""
    table = shown(summary_table(rows), width=160)
    heading, _, *lines = table[table.index(" arm ") :].splitlines()
    longest = max(rows, key=lambda row: row.turns).blocks
    windows = [f"{block.first}-{block.last}" for block in longest]
    assert heading.split() == ["arm", "sessions", "early", "late", "all", *windows, "not", "read"]
    for row, line in zip(rows, lines, strict=False):
        words = [row.arm, str(row.sessions)]
        for estimate in (row.early, row.late, row.accuracy, *(b.accuracy for b in row.blocks)):
            words += percent(estimate)
        assert line.split() == [*words, "1"]


@given(summaries())
def test_a_narrow_table_loses_no_number(rows: list[ArmSummary]) -> None:
    """In eighty columns every number of the table is there, uncut."""
    text = shown(summary_table(rows), width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    for row in rows:
        for estimate in (row.early, row.late, row.accuracy, *(b.accuracy for b in row.blocks)):
            assert set(percent(estimate)) <= set(text.split())


def test_tables_show_hostile_names_as_they_are() -> None:
    """Names in tables neither steer the terminal nor are taken for markup."""
    none = Estimate(None, None, 0)
    row = ArmSummary("small", HOSTILE, 1, 1, 1, 0.1, none, none, none, (), {})
    text = shown(summary_table([row, replace(row, experiment="other")]))
    assert is_plain(text)
    assert "small / " in text
    assert "other / " in text
    assert "[bold]x[/nope]" in text
    [stopped] = experiment(streams=1).sessions()
    stops = shown(stops_table([StoppedSession(stopped, ModelUnavailable(f"no answer {HOSTILE}"))]))
    assert is_plain(stops)
    assert "feedback-0" in stops
    assert "[bold]x[/nope]" in stops
