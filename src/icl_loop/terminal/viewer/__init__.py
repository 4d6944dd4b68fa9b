"""Watching a saved session in a terminal: its turns, and the keys that steer through them."""

from icl_loop.terminal.viewer.accuracy_plot import curve
from icl_loop.terminal.viewer.keyboard import Keyboard, has_keys, keys_in
from icl_loop.terminal.viewer.navigation import View, press, step
from icl_loop.terminal.viewer.screen import Page, page, watch
from icl_loop.terminal.viewer.turn_view import Replay, Show

__all__ = [
    "Keyboard",
    "Page",
    "Replay",
    "Show",
    "View",
    "curve",
    "has_keys",
    "keys_in",
    "page",
    "press",
    "step",
    "watch",
]
