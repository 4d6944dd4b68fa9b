"""The replay viewer: shows a saved session on the whole terminal, driven by keys and mouse."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Click, Event, Key
from textual.widget import Widget
from textual.widgets import Footer, Input, Static
from textual.widgets.input import Selection

from icl_loop.core.names import printable
from icl_loop.terminal.session_view import Display, SessionView

SLOWEST, FASTEST = 1 / 16, 64.0
"""Limits of the speed, in turns per second."""
_READING = frozenset({"play", "step", "show", "ask", "help", "go", "scroll", "speed"})
"""Actions that are not possible while the viewer asks for a turn or a text."""
HELP = """\
 Space      play or pause              g  go to a turn by its number
 → n Enter  next turn                  /  find a turn by reply, label or answer
 ← p        previous turn              r  whole reply, or its beginning
 Home End   first turn, last turn      w  which past turns the request contained
 ↑ ↓        scroll; also Page Up/Down  t  question as text, or as a picture
 + -        play faster, slower        e  errors only, or all turns
 q Ctrl-C   quit                       ?  close this help

 Click the chart or the window strip to go to a turn. In the window strip,
 █ marks the past turns that the request contained, · those it left out,
 and ▲ the current turn.
"""


class Drawing(Widget):
    """A pane that is drawn in whatever size it has."""

    def __init__(self, name: str, draw: Callable[[int, int], Text]) -> None:
        super().__init__(id=name)
        self._draw = draw

    def render(self) -> Text:
        """Return the drawing for the current size."""
        return self._draw(*self.size)


class Prompt(Input, inherit_bindings=False):
    """A line of input whose keys the application handles one by one."""

    BINDINGS: ClassVar = [
        replace(each, priority=True)
        for each in Input.BINDINGS
        if isinstance(each, Binding) and each.key != "enter"
    ]

    def type_in(self, character: str) -> None:
        """Insert a character in place of the selection."""
        self.replace(character, *self.selection)


class Viewer(App[int]):
    """Shows one turn at a time; returns the index of the turn it was left at."""

    AUTO_FOCUS = None
    ENABLE_COMMAND_PALETTE = False
    VERTICAL_BREAKPOINTS = [(0, "-low"), (22, "-high")]  # noqa: RUF012  declared so by textual
    CSS = """
    #heading, #recent, #status, #window { height: 1; }
    .-low #chart, .-high #recent { display: none; }
    #heading, #recent, #status, #help { text-wrap: nowrap; text-overflow: ellipsis; }
    #body { height: 1fr; }
    #turn, #answer { height: auto; }
    #question, #reply, #told { border: round $primary; padding: 0 1; }
    #question { width: auto; max-width: 60%; }
    #chart { height: 20%; min-height: 6; }
    #status { background: $panel; }
    #status:nocolor { text-style: reverse; }
    #help, #prompt { display: none; }
    """
    # The application handles every key itself, one by one: keys that follow each other quickly would
    # otherwise reach a widget before the one that they are meant for has the focus.
    BINDINGS: ClassVar = [
        replace(binding, priority=True)
        for binding in (
            Binding("space", "play", "play", key_display="space"),
            Binding("left,p", "step(-1)", "back", key_display="←"),
            Binding("right,n,enter", "step(1)", "next", key_display="→"),
            Binding("r", "show('reply')", "reply"),
            Binding("w", "show('window')", "window"),
            Binding("t", "show('text')", show=False),
            Binding("e", "show('errors')", "errors"),
            Binding("g", "ask('turn')", "turn"),
            Binding("slash", "ask('text')", "find", key_display="/"),
            Binding("question_mark", "help", "help", key_display="?"),
            Binding("q", "leave", "quit"),
            Binding("ctrl+c", "leave", show=False),
            Binding("enter", "submit", "go", key_display="Enter"),
            Binding("escape", "cancel", "cancel", key_display="Esc"),
            Binding("escape", "close", show=False),
            Binding("plus,equals_sign", "speed(2)", show=False),
            Binding("minus", "speed(0.5)", show=False),
            Binding("home", "go(0)", show=False),
            Binding("end", "go(-1)", show=False),
            Binding("up", "scroll(-1)", show=False),
            Binding("down", "scroll(1)", show=False),
            Binding("pageup", "scroll(-10)", show=False),
            Binding("pagedown", "scroll(10)", show=False),
        )
    ]

    def __init__(
        self, session: SessionView, display: Display, start: int, speed: float, *, playing: bool
    ) -> None:
        # without colour, textual draws greys unless colours are those of the terminal
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self.index, self.speed, self.playing = start, speed, playing
        self.shown = display
        self._session = session
        self._sought = ""
        self._asking = ""
        self._helping = False

    def compose(self) -> ComposeResult:
        """Lay out the panes."""
        yield Static(self._session.heading(), id="heading")
        yield Static(HELP, id="help", markup=False)
        with VerticalScroll(id="body", can_focus=False), Horizontal(id="turn"):
            yield Static(id="question")
            with Vertical(id="answer"):
                for name in ("verdict", "reply", "told", "notes"):
                    yield Static(id=name)
        yield Drawing("window", lambda width, _: self._session.window_strip(self.index, width))
        yield Static(id="details")
        yield Drawing("chart", lambda *size: self._session.chart(self.index, *size))
        yield Static(id="recent")
        yield Static(id="status")
        yield Prompt(id="prompt", compact=True, select_on_focus=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Start playing; quit on a signal, so that the terminal is restored."""
        for pane in ("question", "reply", "told"):
            self.query_one(f"#{pane}").border_title = pane
        self._timer = self.set_interval(1 / self.speed, self._tick)
        self._go_to(self.index)
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # on Windows
            for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
                loop.add_signal_handler(number, self.exit, self.index, 128 + number)

    async def on_event(self, event: Event) -> None:
        """Handle an event; characters that are typed for the prompt are inserted at once."""
        if self._asking and isinstance(event, Key) and event.is_printable:
            if not event.is_forwarded:
                self.query_one(Prompt).type_in(event.character or "")
        else:
            await super().on_event(event)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:  # noqa: ARG002
        """Return whether an action is possible: while the viewer asks, only what answers it."""
        if action in ("submit", "cancel"):
            return bool(self._asking)
        if action == "close":
            return self._helping
        return not self._asking or action not in _READING

    def _tick(self) -> None:
        if self.playing:
            self.playing = self._step(1)
            self._draw()

    def _step(self, by: int) -> bool:
        """Go to the next turn or the one before; return False if there is none."""
        ahead = [at for at in self._session.visible(self.shown) if (at - self.index) * by > 0]
        if ahead:
            self._go_to(ahead[0 if by > 0 else -1])
        return bool(ahead)

    def _go_to(self, index: int, message: str = "") -> None:
        """Go to a turn, or to the next one that is shown."""
        visible = self._session.visible(self.shown)
        later = [at for at in visible if at >= index]
        self.index = (later[:1] or visible[-1:] or [index])[0]
        self.query_one("#body").scroll_home(animate=False)
        self._draw(message)

    def _action_step(self, by: int) -> None:
        self.playing = False
        self._step(by)
        self._draw()

    def _action_go(self, index: int) -> None:
        self.playing = False
        self._go_to(index % len(self._session.turns))

    def _action_play(self) -> None:
        self.playing = not self.playing
        if self.playing and not self._step(1):
            self._go_to(0)
        self._action_speed(1)

    def _action_speed(self, factor: float) -> None:
        self.speed = min(max(self.speed * factor, SLOWEST), FASTEST)
        self._timer.stop()
        self._timer = self.set_interval(1 / self.speed, self._tick)
        self._draw()

    def _action_show(self, part: str) -> None:
        self.shown = replace(self.shown, **{part: not getattr(self.shown, part)})
        self._go_to(self.index)

    def _action_scroll(self, lines: int) -> None:
        self.playing = False
        self.query_one("#body").scroll_relative(y=lines, animate=False)
        self._draw()

    def _action_ask(self, what: str) -> None:
        self.playing, self._asking = False, what
        prompt = self.query_one(Prompt)
        number = what == "turn"
        prompt.restrict = r"\d{0,9}" if number else None
        prompt.value = "" if number else self._sought
        prompt.placeholder = "turn number" if number else "text in a reply, label or answer"
        prompt.selection = Selection(0, len(prompt.value))
        prompt.display = True
        self.set_focus(prompt)

    def _action_cancel(self) -> None:
        self._asking = ""
        self.query_one("#prompt").display = False
        self.set_focus(None)

    def _action_help(self) -> None:
        self._helping = not self._helping
        self.query_one("#help").display = self._helping
        self.refresh_bindings()

    def _action_close(self) -> None:
        self._action_help()

    def _action_leave(self) -> None:
        self.exit(self.index)

    def _action_submit(self) -> None:
        what, value = self._asking, self.query_one(Prompt).value
        self._action_cancel()
        if value and what == "turn":
            number, last = int(value), len(self._session.turns) - 1
            self._go_to(min(number, last))
            if self.index != number:
                self._draw(
                    f"turn {number} {'is not an error' if number <= last else 'does not exist'}"
                )
        elif value:
            self._sought = value
            visible = self._session.visible(self.shown)
            found = [at for at in visible if self._session.contains(at, self._sought)]
            later = [at for at in found if at > self.index]
            message = "" if found else f"{self._sought!r} not found"
            self._go_to((later or found or [self.index])[0], message)

    @on(Click, "#chart, #window")
    def _go_to_column(self, click: Click) -> None:
        index = self._session.turn_at(click.x, self.size.width)
        if index is not None:
            self._action_go(index)

    def _draw(self, message: str = "") -> None:
        session, at, shown = self._session, self.index, self.shown
        last = len(session.turns) - 1
        places = (at, at + 1) if at == last else (at,)
        notes = [note for place in places for note in session.notes_and_probes(place, shown)]
        if at == 0 or shown.window:
            notes = [*session.exemplars(at, shown), *notes]
        status = [
            message,
            f"turn {at} of 0 to {last}",
            "end" * (at == last),
            f"▶ {self.speed:g} turns/s" if self.playing else "paused",
            "errors only" * shown.errors,
        ]
        panes = {
            "question": session.question(at, shown),
            "verdict": session.verdict(at),
            "reply": session.reply(at, shown),
            "told": session.told(at),
            "notes": Text("\n").join(notes),
            "details": Text(session.window(at)),
            "recent": Text(session.recent_accuracy(at), "dim"),
            "status": Text(printable(" | ".join(filter(None, status)))),
        }
        for name, content in panes.items():
            self.query_one(f"#{name}", Static).update(content)
        self.query_one("#details").display = shown.window
        self.query(Drawing).refresh()
