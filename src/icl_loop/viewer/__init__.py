"""Watching a saved session in a terminal: its turns, and the keys that steer through them."""

from icl_loop.viewer.curve import curve
from icl_loop.viewer.keyboard import Keyboard, has_keys, keys_in
from icl_loop.viewer.replay import Replay, Show
from icl_loop.viewer.stage import Page, page, watch
from icl_loop.viewer.steering import View, press, step

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
