"""The laws of watching a session: it shows what was saved, keys lead where they say, all is left as it was."""

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from builders import play_on, played, session
from icl_loop.context import from_spans
from icl_loop.core.messages import Reply, Usage, user
from icl_loop.core.records import Feedback, Note, Probe, Turn
from icl_loop.tasks.encodings import get_encoding, to_pixels
from icl_loop.terminal.progress import RECENT, draw
from icl_loop.terminal.viewer import Replay, Show, View, curve, keys_in, page, press
from icl_loop.terminal.viewer.accuracy_plot import running
from icl_loop.terminal.viewer.navigation import FASTEST, SLOWEST
from icl_loop.transcripts import End, Header, Transcript
from terminal_text import HOSTILE, is_plain, shown

WHOLE = Show(reply=True)
SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"
NEEDS_A_TERMINAL = pytest.mark.skipif(
    importlib.util.find_spec("termios") is None, reason="this platform has no pseudo-terminals"
)

# ---- replay ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved() -> Transcript:
    """One small session as it would be read."""
    chosen = session(RECENT + 5, model="simulated/chance")
    end = End(status="complete", turns=RECENT + 5, at="")
    return Transcript(
        Path("a-0.jsonl"), chosen.header(), tuple(asyncio.run(played(chosen))), end, 0
    )


def test_replay_shows_each_turn(saved: Transcript) -> None:
    """A turn is shown with picture, answer, truth, verdict, what was told, and the recent window."""
    replay, grid = Replay(saved, colour=False), get_encoding("grid")
    samples = session(RECENT + 5).task.samples
    for index, turn in enumerate(saved.turns):
        text = shown(replay.turn(index))
        verdict = "right" if turn.feedback.correct else "wrong"
        assert f"turn {index}: answered {turn.answer}, it is {turn.label}: {verdict}\n" in text
        assert f"reply: {turn.reply.text}\n" in text
        assert f"told: {turn.feedback.told}\n" in text
        recent = [each.feedback.correct for each in saved.turns[: index + 1]][-RECENT:]
        assert f"shown {index} past turns; {sum(recent)} of the last {len(recent)} right" in text
        picture = to_pixels(samples[index].image, 20)
        assert text.startswith(draw(grid.decode(grid.encode(picture)), colour=False).plain)


def test_replay_says_which_session_it_is(saved: Transcript) -> None:
    """The heading names experiment, arm, stream, model and data, and how far the session went."""
    heading = "small / feedback, stream 0: simulated/chance, digits, 25 of 25 turns, "
    assert Replay(saved, colour=False).heading().plain == heading + "complete"
    unfinished = replace(saved, end=None)
    assert Replay(unfinished, colour=False).heading().plain == heading + "unfinished"


def test_a_hostile_session_steers_nothing(saved: Transcript) -> None:
    """Whatever a saved session says, its replay has no control characters, nor is it markup."""
    turn = saved.turns[0]
    hostile = replace(
        turn,
        label=HOSTILE,
        answer=HOSTILE,
        question=user(HOSTILE),
        reply=replace(turn.reply, text=HOSTILE),
        feedback=Feedback(correct=False, told=HOSTILE),
    )
    header = saved.header.model_copy(update={"experiment": HOSTILE, "arm": HOSTILE})
    replay = Replay(replace(saved, header=header, turns=(hostile,)), colour=False)
    for text in (shown(replay.turn(0), width=500), shown(replay.heading(), width=500)):
        assert is_plain(text)
        assert "[bold]x[/nope]" in text


def test_an_answer_that_was_not_read_says_why(saved: Transcript) -> None:
    """A turn without an answer names its outcome."""
    lost = replace(saved.turns[0], answer=None, outcome="refusal")
    text = shown(Replay(replace(saved, turns=(lost,)), colour=False).turn(0))
    assert "answered none (refusal), it is" in text


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"task": None},
        {"task": []},
        {"task": {}, "model": "gpt"},
        {"task": {"prompts": "nowhere.toml", "encoding": "grid"}},
        {"task": {"prompts": "plain", "encoding": "unheard-of"}},
        {"task": {"prompts": "plain", "encoding": "sparse"}},
        {"task": {"prompts": "plain-ja", "encoding": "grid"}},
    ],
)
def test_a_question_that_cannot_be_drawn_is_shown(
    saved: Transcript, settings: dict[str, object]
) -> None:
    """Where the settings do not tell how the picture was written, the question is shown as text."""
    header: Header = saved.header.model_copy(update={"settings": settings})
    replay = Replay(replace(saved, header=header), colour=False)
    assert saved.turns[0].question.text.splitlines()[-1] in shown(replay.turn(0))
    assert ": ?, digits" in replay.heading().plain


def test_a_long_reply_is_cut(saved: Transcript) -> None:
    """A reply is shown in one line of bounded length, its own lines parted by slashes."""
    turn = saved.turns[0]
    long = replace(turn, reply=replace(turn.reply, text="first\n\n second\n" + "x" * 1_000))
    text = shown(Replay(replace(saved, turns=(long,)), colour=False).turn(0), width=300)
    [line] = [line for line in text.splitlines() if "reply: " in line]
    assert line.startswith("  reply: first /  second / xxx")
    assert line.endswith("x …")
    assert len(line) < 220


@pytest.fixture(scope="module")
def windowed() -> Transcript:
    """A session that shows the three newest turns, with tokens as an endpoint would report them."""
    chosen = session(9, policy="last(3)", feedback="correctness")
    turns = tuple(
        replace(turn, reply=replace(turn.reply, usage=Usage(1_000 + turn.index, turn.index)))
        for turn in asyncio.run(played(chosen))
    )
    return Transcript(Path("a-0.jsonl"), chosen.header(), turns, None, 0)


def test_the_window_is_told(windowed: Transcript) -> None:
    """Asked for the window, a turn names the runs of turns that its request showed, and its tokens."""
    replay = Replay(windowed, colour=False)
    for turn in windowed.turns:
        text = shown(replay.turn(turn.index, Show(window=True)))
        [line] = [line for line in text.splitlines() if "window: " in line]
        found = re.fullmatch(r"  window: (\d+) turns?:?((?: \d+(?:-\d+)?)*); (.*)", line)
        assert found is not None
        runs = [run.split("-") for run in found[2].split()]
        shows = [index for run in runs for index in range(int(run[0]), int(run[-1]) + 1)]
        assert shows == list(from_spans(turn.kept))
        assert int(found[1]) == len(shows)
        assert found[3] == (
            f"{turn.counted:,} tokens, the first {turn.prefix:,} as in the request before;"
            f" reported 1,00{turn.index}, {turn.index} of them cached"
        )
        assert "window: " not in shown(replay.turn(turn.index))


def test_a_whole_reply_is_shown(saved: Transcript) -> None:
    """Asked for the reply, every line of it is shown, tabs as spaces."""
    turn = saved.turns[0]
    long = "first\r\n\n\tsecond\n" + "\n".join(f"line {number}" for number in range(300))
    other = replace(turn, reply=replace(turn.reply, text=long))
    text = shown(Replay(replace(saved, turns=(other,)), colour=False).turn(0, Show(reply=True)))
    lines = [line.strip() for line in text.splitlines()]
    start = lines.index("reply:") + 1
    assert lines[start : start + 303] == [line.strip() for line in long.splitlines()]


def test_a_question_is_shown_as_it_was_seen(saved: Transcript) -> None:
    """Asked for the text, a turn begins with the question as the model saw it."""
    replay = Replay(saved, colour=False)
    for turn in saved.turns:
        assert shown(replay.turn(turn.index, Show(text=True))).startswith(turn.question.text)


def probe(after: int, *, correct: bool) -> Probe:
    """Return a probe that was asked after some turns."""
    return Probe(
        after, "digits/1", "3", "3", "ok", correct, kept=(), request="", reply=Reply(HOSTILE)
    )


def test_probes_are_shown_between_turns(saved: Transcript) -> None:
    """Probes are counted in a line before the turn that followed them, or after the last turn."""
    asked = [probe(0, correct=True), probe(5, correct=True), probe(5, correct=False)]
    asked += [probe(len(saved.turns), correct=False)]
    replay = Replay(replace(saved, probes=tuple(asked)), colour=False)
    lines = {
        0: "probes after 0 turns: 1 of 1 right (100%)",
        5: "probes after 5 turns: 1 of 2 right (50%)",
        24: "probes after 25 turns: 0 of 1 right (0%)",
    }
    for turn in saved.turns:
        text = shown(replay.turn(turn.index)).splitlines()
        assert [line for line in text if "probes" in line] == [
            line for at, line in lines.items() if at == turn.index
        ]
    assert shown(replay.turn(24)).splitlines()[-1] == lines[24]


async def test_notes_are_shown_between_turns() -> None:
    """A note is shown in a line before the turn that first saw it, or whole with the replies."""
    chosen = session(9, policy="notes(4)")
    playing = play_on(chosen)
    went = [event async for event in playing]
    turns = tuple(event for event in went if isinstance(event, Turn))
    notes = tuple(event for event in went if isinstance(event, Note))
    replay = Replay(
        Transcript(Path("a-0.jsonl"), chosen.header(), turns, None, 0, notes=notes), colour=False
    )
    for turn in turns:
        due = [note for note in notes if note.after_turn == turn.index]
        text = shown(replay.turn(turn.index))
        assert text.count("note after") == len(due)
        for note in due:
            lines = note.text.splitlines()
            assert f"note after {turn.index} turns: {' / '.join(lines)}\n" in text
            whole = [each.rstrip() for each in shown(replay.turn(turn.index, WHOLE)).splitlines()]
            assert whole[: 1 + len(lines)] == [
                f"note after {turn.index} turns:",
                *(f"    {line}" for line in lines),
            ]
    assert [note.after_turn for note in notes] == [4, 8]


# ---- the curve ---------------------------------------------------------------------------

RIGHT = st.lists(st.booleans(), min_size=1, max_size=120)


@given(RIGHT)
def test_the_curve_is_of_the_latest_turns(right: list[bool]) -> None:
    """After each turn the running accuracy is the mean of the latest turns, as many as there are."""
    expected = [np.mean(right[max(0, stop - RECENT) : stop]) for stop in range(1, len(right) + 1)]
    assert np.allclose(running(right), expected)


@given(RIGHT, st.integers(0, 120), st.integers(6, 90), st.integers(1, 9))
def test_the_plot_keeps_to_its_place(right: list[bool], more: int, width: int, height: int) -> None:
    """The plot has the lines and columns it was given and is drawn up to the turn it stands at."""
    planned = len(right) + more
    plot = curve(right, planned, 0.1, width, height)
    lines = plot.plain.split("\n")
    assert len(lines) == height
    assert {len(line) for line in lines} == {width}
    columns = {column for _, column in drawn(plot, width)}
    last = -(-2 * (width - 5) * len(right) // planned) - 1
    assert columns == set(range(last // 2 + 1))


def drawn(plot: Text, width: int) -> set[tuple[int, int]]:
    """Return line and column, behind the scale, of the marks through which the curve goes."""
    places = (at for span in plot.spans if span.style == "cyan" for at in range(*span[:2]))
    return {(at // (width + 1), at % (width + 1) - 5) for at in places}


@pytest.mark.parametrize(("right", "place"), [(True, 0), (False, 4)])
def test_the_plot_rises_with_accuracy(right: bool, place: int) -> None:  # noqa: FBT001
    """A session that is always right runs along the upper edge, one never right along the lower."""
    plot = curve([right] * 50, 50, 0.5, 55, 5)
    assert drawn(plot, 55) == {(place, column) for column in range(50)}


# ---- steering ----------------------------------------------------------------------------

NAMED = ("enter", "left", "right", "up", "down", "home", "end", "escape", "backspace")
KEYS = st.sampled_from([*"nprwte+-=g 0129x", *NAMED, "page up", "page down"])


@given(RIGHT, st.lists(KEYS, max_size=60))
def test_keys_never_lead_astray(right: list[bool], keys: list[str]) -> None:
    """Whatever is pressed, a turn of the session is shown, a wrong one if only those are wanted."""
    view = View()
    for key in keys:
        view = press(view, key, right)
        assert 0 <= view.at < len(right)
        assert not (view.errors and right[view.at]) or all(right)
        assert SLOWEST <= view.speed <= FASTEST
        assert view.scroll >= 0
        assert not view.over
    assert press(view, "q", right).over
    assert press(view, "interrupt", right).over


@given(RIGHT, st.integers(0, 119), st.booleans())
def test_forwards_and_backwards_undo_each_other(
    right: list[bool],
    at: int,
    errors: bool,  # noqa: FBT001
) -> None:
    """Where there is a next turn to show, going on and back again leads to the same turn."""
    view = View(min(at, len(right) - 1))
    view = press(view, "e", right) if errors else view
    there = press(view, "n", right)
    if there.at != view.at and not (errors and right[view.at]):
        assert press(there, "p", right).at == view.at
        between = right[view.at + 1 : there.at]
        assert all(between) if errors else between == []


@given(RIGHT, st.integers(0, 10**9 - 1))
def test_a_number_leads_to_its_turn(right: list[bool], number: int) -> None:
    """`g`, a number and enter show that turn, or the last and that there are fewer."""
    view = View(playing=True)
    for key in ["g", *str(number), "enter"]:
        view = press(view, key, right)
    last = len(right) - 1
    assert view == View(min(number, last), playing=False, missed=number if number > last else None)
    assert press(view, "r", right).missed is None


@given(RIGHT, st.text("0123456789", max_size=9))
def test_a_number_can_be_taken_back(right: list[bool], digits: str) -> None:
    """Escape forgets the number that was typed; backspace its last digit."""
    view = press(View(playing=False), "g", right)
    for key in [*digits, "escape"]:
        view = press(view, key, right)
    assert view == View(playing=False)
    for key in ["g", "0", "0", "7", "backspace", "backspace", "backspace", "0", "enter"]:
        view = press(view, key, right)
    assert view == View(playing=False)


@pytest.mark.parametrize(("key", "name"), [("r", "reply"), ("w", "window"), ("t", "text")])
def test_a_switch_is_undone_by_itself(key: str, name: str) -> None:
    """Each switch shows one thing more of a turn, and pressed again hides it."""
    on = press(View(), key, [True])
    assert on.show == Show(**{name: True})
    assert press(on, key, [True]) == View()


def test_playing_stops_at_the_end_and_begins_anew() -> None:
    """At the last turn that is shown playing stops; played again, the session begins anew."""
    right = [True, False, True, False, True]
    for errors, first, last in ((False, 0, 4), (True, 1, 3)):
        view = View(last, playing=False, errors=errors)
        assert press(view, "n", right) == view
        assert press(view, " ", right) == replace(view, at=first, playing=True)


# ---- keys --------------------------------------------------------------------------------


@given(st.binary(max_size=30))
def test_whatever_is_sent_is_read_as_keys(data: bytes) -> None:
    """Any bytes are read, and every key is a printable mark or has a name."""
    for key in keys_in(data):
        assert key.isprintable()
        assert key


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"\x1b[C\x1bOC\x1b[D", ["right", "right", "left"]),
        (b"\x1b[5~\x1b[6~", ["page up", "page down"]),
        (b"\x1b[1;5C\x1b[200~", []),
        (b"\x1b", ["escape"]),
        (b"\r\n\x7f\x08", ["enter", "enter", "backspace", "backspace"]),
        (b"\x03", ["interrupt"]),
        ("né三q".encode(), ["n", "q"]),
    ],
)
def test_keys_have_names(sent: bytes, keys: list[str]) -> None:
    """Keys that send several bytes are one key; what is no key of ours is dropped."""
    assert keys_in(sent) == keys


# ---- the screen --------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.integers(1, 130),
    st.integers(1, 60),
    st.builds(
        View,
        at=st.integers(0, RECENT + 4),
        playing=st.booleans(),
        errors=st.booleans(),
        show=st.builds(Show, st.booleans(), st.booleans(), st.booleans()),
        scroll=st.integers(0, 99),
        typed=st.none() | st.just("12"),
    ),
)
def test_a_page_fills_the_screen(saved: Transcript, width: int, height: int, view: View) -> None:
    """A page has exactly the lines and columns of the terminal, however small."""
    console = Console(file=StringIO(), width=width, height=height, color_system=None)
    lines = page(Replay(saved, colour=False), view, console).lines
    assert len(lines) == height
    assert {sum(segment.cell_length for segment in line) for line in lines} == {width}


def test_all_of_a_turn_can_be_scrolled_to(saved: Transcript) -> None:
    """A turn that is longer than the screen is seen whole by scrolling, and the keys all the time."""
    turn = saved.turns[3]
    long = "\n".join(f"thought {number}." for number in range(100))
    turns = (*saved.turns[:3], replace(turn, reply=replace(turn.reply, text=long)))
    replay = Replay(replace(saved, turns=turns), colour=False)
    console = Console(file=StringIO(), width=60, height=24, color_system=None)
    view, seen = View(3, show=Show(reply=True)), set()
    furthest = page(replay, view, console).furthest
    for scroll in range(furthest + 1):
        text = text_of(page(replay, replace(view, scroll=scroll), console).lines)
        seen |= set(text)
        assert "q quit" in text[-1]
        assert any(line.startswith("turn 3 of 0 to 3 ") for line in text)
    assert {f"thought {number}." for number in range(100)} <= {line.strip() for line in seen}
    beyond = page(replay, replace(view, scroll=10_000), console)
    assert text_of(beyond.lines) == text


def text_of(lines: Sequence[Sequence[object]]) -> list[str]:
    """Return what is written on a page."""
    return ["".join(segment.text for segment in line).rstrip() for line in lines]  # type: ignore[attr-defined]


# ---- a real terminal ---------------------------------------------------------------------

ALT_SCREEN, NORMAL_SCREEN, CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"
_STEERING = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Terminal:
    """A pseudo-terminal, what was written to it, and the program that runs in it."""

    master: int
    slave: int
    program: subprocess.Popen[bytes]
    written: bytes = b""

    def press(self, keys: bytes) -> Self:
        """Send keys, and forget what was written before."""
        self.written = b""
        os.write(self.master, keys)
        return self

    def until(self, words: str) -> str:
        """Return what was written, once it holds `words`."""
        until = time.monotonic() + 60
        while words not in self.text and time.monotonic() < until:
            self.read(0.1)
        assert words in self.text, self.text
        return self.text

    def read(self, seconds: float) -> None:
        """Take what is written within some time."""
        import select

        while select.select([self.master], [], [], seconds)[0]:
            self.written += os.read(self.master, 65_536)

    @property
    def text(self) -> str:
        """What was written, without what steers the terminal."""
        return _STEERING.sub(b"", self.written).decode(errors="replace")

    def modes(self) -> list[object]:
        """Return how the terminal is set."""
        import termios

        return list(termios.tcgetattr(self.slave))

    def ended(self) -> int:
        """Return the exit code, once the program has ended."""
        until = time.monotonic() + 60
        while self.program.poll() is None and time.monotonic() < until:
            self.read(0.05)
        self.read(0.05)
        return self.program.wait(1)


@contextmanager
def terminal(*arguments: object, columns: int = 80, rows: int = 30) -> Iterator[Terminal]:
    """Run the command line in a pseudo-terminal of its own."""
    import pty
    import termios

    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (rows, columns))
    environment = {**os.environ, "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        environment.pop(name, None)
    code = "from icl_loop.cli import main; main()"
    program = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    try:
        yield Terminal(master, slave, program)
    finally:
        program.kill()
        program.wait()
        os.close(master)
        os.close(slave)


@NEEDS_A_TERMINAL
def test_a_session_is_steered_by_keys() -> None:
    """In a terminal each key does what its line says, and leaving leaves the terminal as it was."""
    with terminal("replay", SAMPLE, "--session", "label-0", "--step") as there:
        before = there.modes()
        there.until("turn 0 of 0 to 24 | paused")
        assert ALT_SCREEN in there.written
        assert there.modes() != before
        there.press(b"n").until("turn 1 of 0 to 24")
        there.press(b"\x1b[C").until("turn 2 of 0 to 24")
        there.press(b"p").until("turn 1 of 0 to 24")
        there.press(b"e").until("only errors")
        there.press(b"t").until("Image:")
        there.press(b"tw").until("window: 1 turn: 0;")
        there.press(b"r").until("reply:  ")
        there.press(b"g12").until("go to turn 12")
        there.press(b"\r").until("turn 12 of 0 to 24")
        there.press(b"eg99\r").until("there is no turn 99 | turn 24 of 0 to 24")
        there.press(b"g12\r").until("turn 12 of 0 to 24")
        there.press(b"++++++ ").until("turn 24 of 0 to 24 | the end, paused")
        there.press(b"q")
        assert there.ended() == 0
        assert there.written.count(NORMAL_SCREEN) == 1
        assert CURSOR in there.written
        assert there.text.endswith("left at turn 24; --from 24 goes on there\r\n")
        assert there.modes() == before


@NEEDS_A_TERMINAL
@pytest.mark.parametrize(("how", "code"), [("Ctrl-C", 0), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_terminal_is_left_as_it_was(how: str, code: int) -> None:
    """However a session is left while it plays, the terminal shows, echoes and collects as before."""
    with terminal("replay", SAMPLE / "none-0.jsonl", columns=60, rows=24) as there:
        before = there.modes()
        there.until("▶ 2 turns a second")
        if how == "Ctrl-C":
            there.press(b"\x03")
        else:
            there.program.send_signal(getattr(signal, how))
        assert there.ended() == code
        assert NORMAL_SCREEN in there.written
        assert CURSOR in there.written
        assert "Traceback" not in there.text
        assert there.modes() == before


@NEEDS_A_TERMINAL
def test_a_page_follows_the_terminal() -> None:
    """A terminal that becomes another size is drawn anew in that size."""
    import termios

    with terminal("replay", SAMPLE / "none-0.jsonl", "--step") as there:
        there.until("latest 20 turns")
        there.written = b""
        termios.tcsetwinsize(there.slave, (12, 40))
        lines = there.until("q quit").split("\r\n")
        assert len(lines) == 12
        assert {cell_len(line) for line in lines} == {40}
