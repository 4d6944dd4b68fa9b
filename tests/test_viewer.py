"""The replay viewer and the printed replay of saved sessions."""

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
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input, OptionList
from textual.widgets._footer import FooterKey

from builders import play_on, played, session
from icl_loop.context.window import from_spans
from icl_loop.core.messages import Reply, Usage, user
from icl_loop.core.records import Feedback, Note, Probe, Turn
from icl_loop.tasks.encodings import get_encoding, to_pixels
from icl_loop.terminal.formatting import RECENT
from icl_loop.terminal.session_picker import SessionPicker
from icl_loop.terminal.session_view import Display, SessionView, draw
from icl_loop.terminal.viewer import FASTEST, HELP, SLOWEST, Viewer
from icl_loop.transcripts import End, Header, Transcript
from terminal_text import HOSTILE, is_plain, shown

WHOLE = Display(reply=True)
SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"
NEEDS_A_TERMINAL = pytest.mark.skipif(
    importlib.util.find_spec("termios") is None, reason="this platform has no pseudo-terminals"
)

# ---- replay ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved() -> Transcript:
    """A small saved session."""
    chosen = session(RECENT + 5, model="simulated/chance")
    end = End(status="complete", turns=RECENT + 5, at="")
    return Transcript(
        Path("a-0.jsonl"), chosen.header(), tuple(asyncio.run(played(chosen))), end, 0
    )


def plain(saved: Transcript, **changes: Any) -> SessionView:  # noqa: ANN401  any field of a transcript
    """Return the view of a session, with some fields replaced, without colour."""
    return SessionView(replace(saved, **changes), colour=False)


def test_replay_shows_each_turn(saved: Transcript) -> None:
    """A printed turn has the picture, answer, label, verdict, feedback and recent accuracy."""
    replay, grid = plain(saved), get_encoding("grid")
    samples = session(RECENT + 5).task.samples
    for index, turn in enumerate(saved.turns):
        text = shown(replay.turn(index))
        verdict = "right" if turn.feedback.correct else "wrong"
        assert f"turn {index}: answered {turn.answer}, label {turn.label}: {verdict}\n" in text
        assert f"reply: {turn.reply.text}\n" in text
        assert f"told: {turn.feedback.told}\n" in text
        recent = [each.feedback.correct for each in saved.turns[: index + 1]][-RECENT:]
        turns = "1 turn" if index == 1 else f"{index} turns"
        assert f"{turns} shown; {sum(recent)} of the last {len(recent)} right" in text
        picture = to_pixels(samples[index].image, 20)
        assert text.startswith(draw(grid.decode(grid.encode(picture)), colour=False).plain)


def test_the_heading_identifies_the_session(saved: Transcript) -> None:
    """The heading names the experiment, arm, stream, model, dataset, turns and status."""
    heading = "small / feedback, stream 0: simulated/chance, digits, 25 of 25 turns, "
    assert plain(saved).heading().plain == heading + "complete"
    assert plain(saved, end=None).heading().plain == heading + "unfinished"


def hostile(saved: Transcript) -> Transcript:
    """Return a session in which every text is hostile."""
    turn = replace(
        saved.turns[0],
        label=HOSTILE,
        answer=HOSTILE,
        question=user(HOSTILE),
        reply=replace(saved.turns[0].reply, text=HOSTILE),
        feedback=Feedback(correct=False, told=HOSTILE),
    )
    header = saved.header.model_copy(update={"experiment": HOSTILE, "arm": HOSTILE})
    return replace(saved, header=header, turns=(turn,))


def test_a_hostile_session_prints_as_plain_text(saved: Transcript) -> None:
    """Printed turns and headings contain no control characters, and interpret no markup."""
    view = plain(hostile(saved))
    for text in (shown(view.turn(0, Display()), width=500), shown(view.heading(), width=500)):
        assert is_plain(text)
        assert "[bold]x[/nope]" in text


def test_a_missing_answer_shows_its_outcome(saved: Transcript) -> None:
    """A turn without an answer shows its outcome."""
    lost = replace(saved.turns[0], answer=None, outcome="refusal")
    text = shown(plain(saved, turns=(lost,)).turn(0))
    assert "answered none (refusal), label" in text


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
def test_a_question_that_cannot_be_decoded_is_shown_as_text(
    saved: Transcript, settings: dict[str, object]
) -> None:
    """If the recorded settings do not say how pictures are encoded, the question is shown as text."""
    header: Header = saved.header.model_copy(update={"settings": settings})
    replay = plain(saved, header=header)
    assert saved.turns[0].question.text.splitlines()[-1] in shown(replay.turn(0))
    assert ": ?, digits" in replay.heading().plain


def test_a_long_reply_is_cut(saved: Transcript) -> None:
    """A long reply is cut to one line, with slashes between its own lines."""
    turn = saved.turns[0]
    long = replace(turn, reply=replace(turn.reply, text="first\n\n second\n" + "x" * 1_000))
    text = shown(plain(saved, turns=(long,)).turn(0), width=300)
    [line] = [line for line in text.splitlines() if "reply: " in line]
    assert line.startswith("  reply: first /  second / xxx")
    assert line.endswith("x …")
    assert len(line) < 220


@pytest.fixture(scope="module")
def windowed() -> Transcript:
    """A session under `last(3)`, with token counts as an endpoint reports them."""
    chosen = session(9, policy="last(3)", feedback="correctness")
    turns = tuple(
        replace(turn, reply=replace(turn.reply, usage=Usage(1_000 + turn.index, turn.index)))
        for turn in asyncio.run(played(chosen))
    )
    return Transcript(Path("a-0.jsonl"), chosen.header(), turns, None, 0)


def test_the_window_is_listed(windowed: Transcript) -> None:
    """With `window`, a turn lists the past turns in its request, and its tokens."""
    replay = plain(windowed)
    for turn in windowed.turns:
        text = shown(replay.turn(turn.index, Display(window=True)))
        [line] = [line for line in text.splitlines() if "window: " in line]
        found = re.fullmatch(r"  window: (\d+) turns?:?((?: \d+(?:-\d+)?)*); (.*)", line)
        assert found is not None
        runs = [run.split("-") for run in found[2].split()]
        shows = [index for run in runs for index in range(int(run[0]), int(run[-1]) + 1)]
        assert shows == list(from_spans(turn.kept))
        assert int(found[1]) == len(shows)
        assert found[3] == (
            f"{turn.counted:,} tokens, {turn.prefix:,} of them shared with the last request;"
            f" 1,00{turn.index} reported, {turn.index} of them cached"
        )
        assert "window: " not in shown(replay.turn(turn.index))


def test_a_whole_reply_is_shown(saved: Transcript) -> None:
    """With `reply`, every line of the reply is shown, with tabs as spaces."""
    turn = saved.turns[0]
    long = "first\r\n\n\tsecond\n" + "\n".join(f"line {number}" for number in range(300))
    other = replace(turn, reply=replace(turn.reply, text=long))
    text = shown(plain(saved, turns=(other,)).turn(0, Display(reply=True)))
    lines = [line.strip() for line in text.splitlines()]
    start = lines.index("reply:") + 1
    assert lines[start : start + 303] == [line.strip() for line in long.splitlines()]


def test_reasoning_is_shown_before_the_reply(saved: Transcript) -> None:
    """The reasoning beside a reply is shown on one line, or in full with `reply`; it can be found."""
    turn = saved.turns[0]
    reply = replace(turn.reply, text="Answer: 3", reasoning_text="A loop.\n\x1b[31mNo, two.")
    view = plain(saved, turns=(replace(turn, reply=reply),))
    brief, whole = (shown(view.turn(0, Display(reply=each))) for each in (False, True))
    assert re.search(r"reasoning: A loop. / .*No, two.\n  reply: Answer: 3", brief)
    assert re.search(r"reasoning: *\n    A loop. *\n    .*No, two. *\n  reply: *\n", whole)
    pane = view.reply(0, Display()).plain
    assert pane.startswith("reasoning: A loop.")
    assert pane.endswith("\nAnswer: 3")
    assert is_plain(brief + whole + pane)
    assert view.contains(0, "no, TWO")
    assert "reasoning" not in shown(plain(saved).turn(0))


def test_a_question_is_shown_as_the_model_saw_it(saved: Transcript) -> None:
    """With `text`, a turn starts with the question as the model saw it."""
    replay = plain(saved)
    for turn in saved.turns:
        assert shown(replay.turn(turn.index, Display(text=True))).startswith(turn.question.text)


def probe(after: int, *, correct: bool) -> Probe:
    """Return a probe asked after this many turns."""
    return Probe(
        after, "digits/1", "3", "3", "ok", correct, kept=(), request="", reply=Reply(HOSTILE)
    )


def test_probes_are_shown_between_turns(saved: Transcript) -> None:
    """A line before each turn counts the probes since the turn before; one follows the last turn."""
    asked = [probe(0, correct=True), probe(5, correct=True), probe(5, correct=False)]
    asked += [probe(len(saved.turns), correct=False)]
    replay = plain(saved, probes=tuple(asked))
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
    """A note is shown before the turn that follows it, and whole with `reply`."""
    chosen = session(9, policy="notes(4)")
    events = [event async for event in play_on(chosen)]
    turns = tuple(event for event in events if isinstance(event, Turn))
    notes = tuple(event for event in events if isinstance(event, Note))
    saved = Transcript(Path("a-0.jsonl"), chosen.header(), turns, None, 0, notes=notes)
    replay = plain(saved)
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


# ---- the chart ---------------------------------------------------------------------------

RIGHT = st.lists(st.booleans(), min_size=1, max_size=120)


def view_of(saved: Transcript, right: Sequence[bool], planned: int) -> SessionView:
    """Return the view of a session with these scores and a planned number of turns."""
    first = saved.turns[0]
    turns = tuple(
        replace(first, index=index, kept=(), feedback=Feedback(correct=correct, told=""))
        for index, correct in enumerate(right)
    )
    header = saved.header.model_copy(update={"turns": planned})
    return plain(saved, header=header, turns=turns)


@given(RIGHT, st.integers(0, 120), st.integers(8, 90), st.integers(2, 9))
def test_the_chart_fills_its_area(
    saved: Transcript, right: list[bool], more: int, width: int, height: int
) -> None:
    """Chart lines have the requested width and height; bars end at the current turn."""
    planned = len(right) + more
    view = view_of(saved, right, planned)
    *lines, _ = view.chart(len(right) - 1, width, height).plain.split("\n")
    assert len(lines) == height - 1
    assert {len(line) for line in lines} == {width}
    bottom = lines[-1][7:]
    bars = [mark not in " ┈" for mark in bottom]
    turn_of = [column * planned // len(bottom) for column in range(len(bottom))]
    assert bars == [turn < len(right) for turn in turn_of]
    assert [view.turn_at(column + 7, width) for column in range(len(bottom))] == [
        turn if turn < len(right) else None for turn in turn_of
    ]


@pytest.mark.parametrize(("right", "filled"), [(True, "█"), (False, " ")])
def test_the_chart_rises_with_accuracy(saved: Transcript, right: bool, filled: str) -> None:  # noqa: FBT001
    """A session that is always right fills the chart; one that is always wrong leaves it empty."""
    chart = view_of(saved, [right] * 50, 50).chart(49, 57, 6).plain.split("\n")
    assert chart[0] == f"  100% {filled * 50}"
    share = "100%" if right else "0%"
    caption = f"accuracy in the last 20 turns: {share} after turn 49; chance 10%"
    assert chart[-1].strip() == caption


def test_the_window_strip_marks_past_turns(windowed: Transcript) -> None:
    """The strip marks exactly the turns that the request contained, and the current turn."""
    view = plain(windowed)
    for turn in windowed.turns:
        marks = view.window_strip(turn.index, 7 + len(windowed.turns)).plain[7:]
        assert [at for at, mark in enumerate(marks) if mark == "█"] == list(from_spans(turn.kept))
        assert marks.index("▲") == turn.index


# ---- the viewer --------------------------------------------------------------------------


def viewer(saved: Transcript, start: int = 0, *, playing: bool = False) -> Viewer:
    """Return a viewer of a session."""
    view = plain(saved)
    return Viewer(view, Display(), start, FASTEST, playing=playing)


def pane(app: Viewer, name: str) -> str:
    """Return the text of a pane."""
    widget = app.query_one(f"#{name}")
    return "\n".join(widget.render_line(row).text.rstrip() for row in range(widget.size.height))


async def press(pilot: Pilot[int], keys: str) -> None:
    """Press keys that are separated by spaces."""
    await pilot.press(*keys.split())
    await pilot.pause()


async def test_panes_show_the_turn(windowed: Transcript) -> None:
    """The panes show picture, reply, feedback, window and accuracy of the current turn."""
    app = viewer(windowed)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "right right w")
        turn = windowed.turns[2]
        verdict = "right" if turn.feedback.correct else "wrong"
        expected = f"turn 2: answered {turn.answer}, label {turn.label}: {verdict}"
        assert pane(app, "verdict") == expected
        assert turn.reply.text in pane(app, "reply")
        assert turn.feedback.told in pane(app, "told")
        assert "2 turns: 0-1; " in pane(app, "details")
        assert "chance 10%" in pane(app, "chart")
        assert "▀" in pane(app, "question")
        assert pane(app, "status") == "turn 2 of 0 to 8 | paused"
        await press(pilot, "t")
        assert turn.question.text.splitlines()[-1] in pane(app, "question")
        await press(pilot, "t w")
        assert "▀" in pane(app, "question")
        assert not app.query_one("#details").display


KEYS = "n p r w t e plus minus g slash space 0 1 2 9 enter left right up down home end escape"


@settings(max_examples=12)
@given(st.data())
async def test_keys_always_lead_to_a_turn(saved: Transcript, data: st.DataObject) -> None:
    """After any keys the viewer shows a turn of the session, a wrong one if only those are shown."""
    keys = data.draw(st.lists(st.sampled_from(KEYS.split()), max_size=25))
    app = viewer(saved)
    async with app.run_test(size=(70, 20)) as pilot:
        for key in keys:
            await pilot.press(key)
            turn = saved.turns[app.index]
            assert not (app.shown.errors and turn.feedback.correct)
            assert SLOWEST <= app.speed <= FASTEST
        await pilot.press("ctrl+c")
    assert app.return_value == app.index


async def test_errors_only_skips_right_answers(saved: Transcript) -> None:
    """With `e`, stepping visits the wrong answers in order, forwards and back; `e` ends it."""
    wrong = [turn.index for turn in saved.turns if not turn.feedback.correct]
    app = viewer(saved)
    async with app.run_test() as pilot:
        await press(pilot, "home e")
        visited = [app.index]
        for _ in wrong[1:]:
            await press(pilot, "n")
            visited.append(app.index)
        assert visited == wrong
        await press(pilot, "n")
        assert app.index == wrong[-1]
        await press(pilot, "p")
        assert app.index == wrong[-2]
        assert "errors only" in pane(app, "status")
        await press(pilot, "e home")
        assert app.index == 0


async def test_g_goes_to_a_turn(saved: Transcript) -> None:
    """`g`, a number and Enter go to a turn, or to the last one with a message; Escape cancels."""
    app = viewer(saved)
    async with app.run_test() as pilot:
        await press(pilot, "g 1 2 enter")
        assert app.index == 12
        await press(pilot, "g 7 escape")
        assert app.index == 12
        assert not app.query_one("#prompt").display
        await press(pilot, "g q 9 backspace 5 enter")
        assert app.index == 5
        await press(pilot, "g 9 9 enter")
        assert app.index == 24
        assert pane(app, "status").startswith("turn 99 does not exist | turn 24 of 0 to 24 | end")


async def test_while_asking_only_the_keys_that_answer_are_offered(saved: Transcript) -> None:
    """The bottom line offers to go or cancel while the viewer asks, and no other key acts."""
    app = viewer(saved)

    def offered() -> set[str]:
        bindings = app.screen.active_bindings.values()
        return {each.binding.description for each in bindings if each.binding.show}

    async with app.run_test() as pilot:
        assert {"find", "turn", "next"} <= offered()
        await press(pilot, "g")
        assert offered() == {"go", "cancel"}
        await press(pilot, "1 up home pagedown n slash enter")
        assert app.index == 1
        assert {"find", "turn", "next"} <= offered()
        await press(pilot, "slash n escape n")
        assert app.index == 2


async def test_slash_finds_a_turn(saved: Transcript) -> None:
    """`/` goes to the next turn with a text in its reply, and around; the last text is offered."""
    turns = list(saved.turns)
    for index in (3, 9):
        turns[index] = replace(turns[index], reply=replace(turns[index].reply, text="A Needle [b]"))
    app = viewer(replace(saved, turns=tuple(turns)))
    async with app.run_test() as pilot:
        visited = []
        await press(pilot, "slash n e e d l e space left_square_bracket enter")
        for _ in range(3):
            visited.append(app.index)
            await press(pilot, "slash enter")
        assert visited == [3, 9, 3]
        await press(pilot, "slash x y left_square_bracket enter")
        assert app.index == 9
        assert "'xy[' not found" in pane(app, "status")


async def test_playing_stops_at_the_end_and_restarts(saved: Transcript) -> None:
    """The viewer plays to the last turn and stops; played again, it starts from the first."""
    app = viewer(saved, start=23, playing=True)
    async with app.run_test() as pilot:
        while app.playing:
            await pilot.pause(0.02)
        assert app.index == 24
        assert "end | paused" in pane(app, "status")
        await press(pilot, "minus minus minus minus minus minus minus minus minus space")
        assert (app.index, app.playing) == (0, True)
        assert "0.125 turns/s" in pane(app, "status")
        await press(pilot, "space")
        assert not app.playing


async def test_all_of_a_turn_can_be_scrolled_to(saved: Transcript) -> None:
    """A whole reply that is longer than the screen can be read by scrolling."""
    long = "\n".join(f"thought {number}." for number in range(60))
    turns = (replace(saved.turns[0], reply=Reply(long)), *saved.turns[1:])
    app = viewer(replace(saved, turns=turns))
    async with app.run_test(size=(60, 24)) as pilot:
        assert "thought 0. / thought 1." in pane(app, "reply")
        await press(pilot, "r")
        lines = pane(app, "reply").splitlines()
        assert [f"thought {n}." in line for n, line in enumerate(lines)] == [True] * 60
        await press(pilot, "pagedown pagedown down")
        assert app.query_one("#body").scroll_y == 21
        await press(pilot, "up right")
        assert app.query_one("#body").scroll_y == 0


async def test_the_mouse_works(saved: Transcript) -> None:
    """A click on the chart goes to the turn in that column; a click on a key presses it."""
    app = viewer(saved)
    async with app.run_test(size=(57, 24)) as pilot:
        await pilot.click("#chart", offset=(7 + 20, 1))
        assert app.index == 10
        await pilot.click("#window", offset=(7 + 3, 0))
        assert app.index == 1
        await pilot.click("#chart", offset=(2, 1))
        assert app.index == 1
        next_key = next(key for key in app.query(FooterKey) if key.description == "next")
        await pilot.click(next_key)
        assert app.index == 2


async def test_help_names_every_key(saved: Transcript) -> None:
    """`?` shows and hides the help, which fits into 80 columns."""
    app = viewer(saved)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "question_mark")
        assert "find a turn by reply" in pane(app, "help")
        assert all(len(line) <= 80 for line in HELP.splitlines())
        await press(pilot, "question_mark")
        assert not app.query_one("#help").display


@pytest.mark.parametrize("rows", [18, 21, 22, 24])
async def test_a_turn_is_whole_on_a_low_terminal(saved: Transcript, rows: int) -> None:
    """With 18 rows and more, picture, answer, reply, feedback and accuracy are on the screen at once."""
    app = viewer(saved, start=5)
    async with app.run_test(size=(80, rows)) as pilot:
        await pilot.pause()
        body = app.query_one("#body").region
        for name in ("question", "verdict", "reply", "told"):
            assert body.contains_region(app.query_one(f"#{name}").region)
        assert app.query_one("#recent").display == (rows < 22)
        assert app.query_one("#chart").display == (rows >= 22)
        shown = pane(app, "recent" if rows < 22 else "chart")
        assert "accuracy in the last 20 turns: " in shown
        assert "after turn 5; chance 10%" in shown


@pytest.mark.parametrize("size", [(1, 1), (20, 5), (40, 12), (200, 60)])
async def test_the_viewer_fits_any_terminal(saved: Transcript, size: tuple[int, int]) -> None:
    """The viewer works in any size; a low terminal has no chart."""
    app = viewer(saved)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "n t w r e question_mark slash escape")
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert "chance" in pane(app, "chart")


async def test_a_hostile_session_is_harmless_in_the_viewer(saved: Transcript) -> None:
    """No pane interprets markup or contains control characters, nor do messages."""
    app = viewer(hostile(saved))
    async with app.run_test(size=(200, 40)) as pilot:
        await press(pilot, "r w t slash")
        app.query_one("#prompt", Input).value = f"{HOSTILE}!"
        await press(pilot, "enter")
        for name in ("heading", "question", "verdict", "reply", "told", "status"):
            assert is_plain(pane(app, name))
            assert "[bold]x[/nope]" in pane(app, name)


# ---- the list of sessions ----------------------------------------------------------------

ROWS = ["label-0  mini", "label-1  large", "none-0  mini", f"none-1  {HOSTILE}"]


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ("enter", 0),
        ("down down enter", 2),
        ("up enter", 3),
        ("n o n e down enter", 3),
        ("M I N I space O enter", 2),
        ("x x enter escape", None),
        ("l a backspace backspace down enter", 1),
        ("escape", None),
        ("ctrl+c", None),
    ],
)
async def test_a_session_is_chosen(keys: str, chosen: int | None) -> None:
    """The arrows move, typed words filter in any order and case, Enter chooses, Escape leaves."""
    app = SessionPicker(ROWS)
    async with app.run_test(size=(60, 12)) as pilot:
        await press(pilot, keys)
    assert app.return_value == chosen


async def test_how_sessions_are_listed() -> None:
    """The chosen row is marked without colour; hostile names are harmless; a click chooses."""
    app = SessionPicker(ROWS, 1)
    async with app.run_test(size=(60, 12)) as pilot:
        await press(pilot, "down down")
        prompts = [str(each.prompt) for each in app.query_one(OptionList).options]
        assert [text[:1] for text in prompts] == [" ", " ", " ", ">"]
        assert all(map(is_plain, prompts))
        assert "[bold]x[/nope]" in prompts[3]
        await pilot.click("#sessions", offset=(3, 2))
    assert app.return_value == 2


# ---- a real terminal ---------------------------------------------------------------------

ALT_SCREEN, NORMAL_SCREEN, CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"
_STEERING = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Terminal:
    """A program in a pseudo-terminal, and its output."""

    master: int
    slave: int
    program: subprocess.Popen[bytes]
    written: bytes = b""

    def press(self, keys: bytes) -> Self:
        """Send keys and clear the output."""
        self.written = b""
        os.write(self.master, keys)
        return self

    def until(self, words: str) -> str:
        """Return the output as soon as it contains `words`."""
        until = time.monotonic() + 60
        while words not in self.text and time.monotonic() < until:
            self.read(0.1)
        assert words in self.text, self.text
        return self.text

    def read(self, seconds: float) -> None:
        """Read the output until there is none for some seconds."""
        import select

        while select.select([self.master], [], [], seconds)[0]:
            self.written += os.read(self.master, 65_536)

    @property
    def text(self) -> str:
        """The output without control sequences."""
        return _STEERING.sub(b"", self.written).decode(errors="replace")

    def modes(self) -> list[object]:
        """Return the modes of the terminal."""
        import termios

        return list(termios.tcgetattr(self.slave))

    def ended(self) -> int:
        """Wait for the program to end and return its exit code."""
        until = time.monotonic() + 60
        while self.program.poll() is None and time.monotonic() < until:
            self.read(0.05)
        self.read(0.05)
        return self.program.wait(1)


@contextmanager
def terminal(
    *arguments: object, columns: int = 80, rows: int = 30, **variables: str
) -> Iterator[Terminal]:
    """Run `icl-loop` in a new pseudo-terminal, with further environment variables."""
    import pty
    import termios

    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (rows, columns))
    environment = {**os.environ, "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        environment.pop(name, None)
    environment |= variables
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
def test_a_session_is_driven_by_keys() -> None:
    """Keys work in a real terminal, and quitting leaves the terminal as it was."""
    with terminal("replay", SAMPLE, "--session", "label-0", "--step") as there:
        before = there.modes()
        there.until("turn 0 of 0 to 24 | paused")
        assert ALT_SCREEN in there.written
        assert there.modes() != before
        there.press(b"n").until("turn 1")
        there.press(b"\x1b[C").until("turn 2")
        there.press(b"g").until("turn number")
        there.press(b"12\r").until("turn 12")
        there.press(b"g7\x7f8\rnn").until("turn 10")  # all at once, as on a slow connection
        there.press(b"/xyz\r").until("'xyz' not found")
        there.press(b"++++++ ").until("end | paused")
        there.press(b"q")
        assert there.ended() == 0
        assert there.written.count(NORMAL_SCREEN) == 1
        assert CURSOR in there.written
        assert there.text.endswith("left at turn 24; continue with --from 24\r\n")
        assert there.modes() == before


@NEEDS_A_TERMINAL
@pytest.mark.parametrize(("how", "code"), [("Ctrl-C", 0), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_terminal_is_left_as_it_was(how: str, code: int) -> None:
    """However a playing session is left, the terminal works as before."""
    with terminal("replay", SAMPLE / "none-0.jsonl", columns=60, rows=24) as there:
        before = there.modes()
        there.until("▶ 2 turns/s")
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
def test_a_folder_opens_the_list_of_its_sessions() -> None:
    """Of several sessions one is chosen, and after it another; then the terminal is as before."""
    with terminal("replay", SAMPLE, "--step") as there:
        before = there.modes()
        there.until("10 sessions")
        there.press(b"label").press(b"\r").until("turn 0 of 0 to 24 | paused")
        there.press(b"nn").until("turn 2 of")
        there.press(b"q").until("10 sessions")
        there.press(b"\x1b")
        assert there.ended() == 0
        assert there.text.endswith("left at turn 2; continue with --from 2\r\n")
        assert "sample / label, stream 0" in there.text
        assert there.modes() == before


@NEEDS_A_TERMINAL
@pytest.mark.parametrize("paths", [[SAMPLE], [SAMPLE / "none-0.jsonl", "--step"]])
def test_no_color(paths: list[object]) -> None:
    """With NO_COLOR, no control sequence sets a colour but the default one."""
    with terminal("replay", *paths, NO_COLOR="1") as there:
        there.until("10 sessions" if len(paths) == 1 else "turn 0 of 0 to 24")
        there.read(0.2)
        codes = re.findall(rb"\x1b\[([0-9;]*)m", there.written)
        assert codes
        plain = {b"", *(str(code).encode() for code in (*range(30), 39, 49))}
        assert {part for code in codes for part in code.split(b";")} <= plain
