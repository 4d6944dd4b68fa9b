"""A session on the screen of a terminal: drawn in place, steered by keys."""

import time
from dataclasses import dataclass, replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.segment import Segment, SegmentLines
from rich.text import Text

from icl_loop.terminal.viewer.keyboard import Keyboard
from icl_loop.terminal.viewer.navigation import View, nearest_shown, press, step
from icl_loop.terminal.viewer.turn_view import Replay

KEYS = (
    "space play/pause",
    "→ next",
    "← back",
    "r reply",
    "w window",
    "t text",
    "e errors",
    "+ - speed",
    "g turn",
    "↑ ↓ scroll",
    "q quit",
)
_LOOK_S = 0.2
"""Seconds after which the size of the terminal is looked at again."""
_PLOT_LEAST, _PLOT_MOST = 3, 8
"""Lines of the plot; where there is no room for the least, there is none."""
_TURN_LEAST = 10
"""Lines of a turn that the plot leaves."""
_PLOT_WIDEST = 100
_AROUND = 5
"""Lines for what the session is, the caption, where it stands, and the keys."""

Lines = list[list[Segment]]


@dataclass(frozen=True, slots=True)
class Page:
    """A screen, line by line.

    Attributes:
        lines: As many lines as the terminal has.
        furthest: Lines of the turn that are too many, so how far it can be scrolled.
    """

    lines: Lines
    furthest: int


def watch(replay: Replay, view: View, console: Console, keyboard: Keyboard) -> View:
    """Show a session in place and obey the keys; return where it was left."""
    right = replay.right
    view, due = nearest_shown(view, right), time.monotonic() + 1 / view.speed
    with keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        drawn = None
        while not view.over:
            if drawn != (view, console.size):
                view = _draw(live, replay, view, console)
                drawn = view, console.size
            before, wait = view, due - time.monotonic() if view.playing else _LOOK_S
            for key in keyboard.pressed(min(wait, _LOOK_S)):
                view = press(view, key, right)
            if view.playing and _pace(view) == _pace(before) and time.monotonic() >= due:
                view = step(view, 1, right)
            if _pace(view) != _pace(before):
                due = time.monotonic() + 1 / view.speed
    return view


def _pace(view: View) -> tuple[int, bool, float]:
    """Return what decides when the next turn is due."""
    return view.at, view.playing, view.speed


def _draw(live: Live, replay: Replay, view: View, console: Console) -> View:
    """Draw a view, and return it with the scroll that it has."""
    drawn = page(replay, view, console)
    live.update(SegmentLines(drawn.lines, new_lines=True), refresh=True)
    return replace(view, scroll=min(view.scroll, drawn.furthest))


def page(replay: Replay, view: View, console: Console) -> Page:
    """Return the screen of a view: what the session is, the turn, the plot, where it stands, keys."""
    width, height = console.size
    head = _lines(console, _in_a_line(replay.heading()))
    turn = _lines(console, replay.turn(view.at, view.show))
    keys = _lines(console, _help(view, width))
    room = height - len(head) - len(keys) - 1
    plot = _plot(replay, view, console, room - min(len(turn), room))
    room = max(1, room - len(plot))
    furthest = max(0, len(turn) - room)
    start = min(view.scroll, furthest)
    body = turn[start : start + room]
    body += [[] for _ in range(room - len(body))]
    status = _lines(console, _in_a_line(_status(replay, view, furthest - start)))
    lines = [*head, *body, *plot, *status, *keys][:height]
    return Page([Segment.adjust_line_length(line, width) for line in lines], furthest)


def _plot(replay: Replay, view: View, console: Console, spare: int) -> Lines:
    """Return the plot and its caption in the lines that a turn spares, or that it can do without."""
    width, height = console.size
    rows = min(max(spare - 1, _PLOT_LEAST), _PLOT_MOST)
    if height < rows + _TURN_LEAST + _AROUND:
        return []
    plot = replay.curve(view.at, min(width, _PLOT_WIDEST), rows)
    return _lines(console, Group(plot, _in_a_line(replay.caption(view.at))))


def _status(replay: Replay, view: View, below: int) -> Text:
    if view.typed is not None:
        return Text(f"go to turn {view.typed}▁   enter goes, escape stays", "reverse")
    last = len(replay) - 1
    pace = f"▶ {view.speed:g} turns a second" if view.playing else "paused"
    parts = [f"turn {view.at} of 0 to {last}", pace if view.at < last else f"the end, {pace}"]
    if view.missed is not None:
        parts.insert(
            0, f"{'no error in' if view.missed <= last else 'there is no'} turn {view.missed}"
        )
    parts += ["only errors"] if view.errors else []
    parts += ["no errors at all"] if view.errors and all(replay.right) else []
    parts += [f"↓ {below} more lines"] if below else []
    return Text(" | ".join(parts), "reverse")


def _help(view: View, width: int) -> Text:
    """Return the keys in as many lines as they need, those whose effect is on in bold."""
    on = {"r": view.show.reply, "w": view.show.window, "t": view.show.text, "e": view.errors}
    help_, taken = Text(), 0
    for entry in KEYS:
        gap = "" if not taken else "  " if taken + 2 + len(entry) <= width else "\n"
        taken = len(entry) + (taken + 2 if gap == "  " else 0)
        help_.append(gap).append(entry, "bold" if on.get(entry[0]) else "dim")
    return help_


def _in_a_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _lines(console: Console, what: RenderableType) -> Lines:
    return console.render_lines(what, pad=False)
