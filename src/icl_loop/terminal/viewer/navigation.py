"""Where a person stands in a session, and where each key leads: a value and functions of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from icl_loop.terminal.viewer.turn_view import NOTHING_MORE, Show

SLOWEST, FASTEST = 1 / 16, 64.0
_MOST_DIGITS = 9


@dataclass(frozen=True, slots=True)
class View:
    """Where a person stands in a session and how it goes on.

    Attributes:
        at: The turn that is shown.
        playing: Whether the next turn comes by itself.
        speed: Turns a second while it does.
        errors: Whether only turns with a wrong answer are shown.
        show: What of a turn is shown more fully.
        scroll: Lines of the turn above the first that is shown.
        typed: Digits of the turn to go to, None while none is asked for.
        missed: The turn that was asked for, if another is shown since it is not there.
        over: Whether to leave.
    """

    at: int = 0
    playing: bool = True
    speed: float = 2.0
    errors: bool = False
    show: Show = NOTHING_MORE
    scroll: int = 0
    typed: str | None = None
    missed: int | None = None
    over: bool = False


def press(view: View, key: str, right: Sequence[bool]) -> View:
    """Return the view after a key, in a session whose answers were right or not."""
    view = replace(view, missed=None)
    if key in ("q", "interrupt"):
        return replace(view, over=True)
    if view.typed is not None:
        return _type(view, view.typed, key, right)
    if key in _STEPS:
        return step(replace(view, playing=False), _STEPS[key], right)
    if key in _SHOWN:
        return replace(view, show=_switched(view.show, _SHOWN[key]), scroll=0)
    return _ACTIONS[key](view, right) if key in _ACTIONS else view


def step(view: View, by: int, right: Sequence[bool]) -> View:
    """Return the view at the next turn that is shown, or before; at either end playing stops."""
    places = range(view.at + by, len(right) if by > 0 else -1, by)
    for at in places:
        if not (view.errors and right[at]):
            return replace(view, at=at, scroll=0)
    return replace(view, playing=False)


def nearest_shown(view: View, right: Sequence[bool]) -> View:
    """Return the view at the turn that is shown nearest after where it stands, or else before."""
    if not view.errors or not right[view.at]:
        return view
    ahead = step(view, 1, right)
    return ahead if ahead.at != view.at else step(view, -1, right)


def go(view: View, at: int, right: Sequence[bool]) -> View:
    """Return the view at a turn, the last one if there are fewer, or near it if it is not shown."""
    place = min(max(at, 0), len(right) - 1)
    return nearest_shown(replace(view, at=place, playing=False, scroll=0), right)


def _type(view: View, typed: str, key: str, right: Sequence[bool]) -> View:
    if key.isdigit():
        return replace(view, typed=(typed + key)[:_MOST_DIGITS])
    if key == "backspace":
        return replace(view, typed=typed[:-1])
    if key == "enter" and typed:
        return _asked(replace(view, typed=None), int(typed), right)
    return replace(view, typed=None) if key in ("enter", "escape", "g") else view


def _asked(view: View, at: int, right: Sequence[bool]) -> View:
    """Return the view at a turn that was asked for, or near it, with what was missed."""
    there = go(view, at, right)
    return there if there.at == at else replace(there, missed=at)


def _switched(show: Show, name: str) -> Show:
    return replace(show, **{name: not getattr(show, name)})


def _play(view: View, right: Sequence[bool]) -> View:
    """Play on or stop; at the end, play from the beginning."""
    if view.playing:
        return replace(view, playing=False)
    playing = replace(view, playing=True)
    stuck = not step(playing, 1, right).playing
    return replace(go(view, 0, right), playing=True) if stuck else playing


def _only_errors(view: View, right: Sequence[bool]) -> View:
    return nearest_shown(replace(view, errors=not view.errors), right)


def _scrolled(view: View, lines: int) -> View:
    return replace(view, scroll=max(0, view.scroll + lines), playing=False)


def _paced(view: View, factor: float) -> View:
    return replace(view, speed=min(max(view.speed * factor, SLOWEST), FASTEST))


_PAGE = 10
_STEPS = {"enter": 1, "right": 1, "n": 1, "left": -1, "p": -1}
_SHOWN = {"r": "reply", "w": "window", "t": "text"}
_ACTIONS: Mapping[str, Callable[[View, Sequence[bool]], View]] = {
    " ": _play,
    "e": _only_errors,
    "g": lambda view, _: replace(view, typed="", playing=False),
    "home": lambda view, right: go(view, 0, right),
    "end": lambda view, right: go(view, len(right) - 1, right),
    "+": lambda view, _: _paced(view, 2),
    "=": lambda view, _: _paced(view, 2),
    "-": lambda view, _: _paced(view, 0.5),
    "up": lambda view, _: _scrolled(view, -1),
    "down": lambda view, _: _scrolled(view, 1),
    "page up": lambda view, _: _scrolled(view, -_PAGE),
    "page down": lambda view, _: _scrolled(view, _PAGE),
}
