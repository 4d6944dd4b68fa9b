"""The list of saved sessions from which one is chosen to be watched."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.events import Event, Key
from textual.widgets import Footer, OptionList, Static
from textual.widgets.option_list import Option

from icl_loop.core.names import printable


class SessionPicker(App[int]):
    """Lists sessions, filtered by what is typed; returns the index of the one that is chosen."""

    AUTO_FOCUS = None
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #heading, #filter { height: 1; }
    #heading { text-style: bold; }
    #sessions { height: 1fr; border: none; padding: 0; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    # As in the viewer, the application handles every key itself, one by one.
    BINDINGS: ClassVar = [
        replace(binding, priority=True)
        for binding in (
            Binding("enter", "choose", "watch", key_display="Enter"),
            Binding("up", "move('cursor_up')", "up", key_display="↑"),
            Binding("down", "move('cursor_down')", "down", key_display="↓"),
            Binding("pageup", "move('page_up')", show=False),
            Binding("pagedown", "move('page_down')", show=False),
            Binding("backspace", "erase", show=False),
            Binding("escape,ctrl+c", "leave", "quit", key_display="Esc"),
        )
    ]

    def __init__(self, rows: Sequence[str], chosen: int = 0) -> None:
        # without colour, textual draws greys unless colours are those of the terminal
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self._rows, self._chosen = rows, chosen
        self._typed = ""

    def compose(self) -> ComposeResult:
        """Lay out the list below the line that filters it."""
        yield Static(f"{len(self._rows)} sessions", id="heading")
        yield Static(id="filter", markup=False)
        yield OptionList(id="sessions", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Show all sessions."""
        self._show()
        self.query_one(OptionList).highlighted = self._chosen

    async def on_event(self, event: Event) -> None:
        """Handle an event; characters are added to the filter at once."""
        if isinstance(event, Key) and event.is_printable:
            if not event.is_forwarded:
                self._typed += event.character or ""
                self._show()
        else:
            await super().on_event(event)

    def _show(self) -> None:
        """List the sessions that contain all words of the filter."""
        words, sessions = self._typed.casefold().split(), self.query_one(OptionList)
        sessions.clear_options()
        sessions.add_options(
            Option(self._row(index), str(index))
            for index, row in enumerate(self._rows)
            if all(word in row.casefold() for word in words)
        )
        sessions.highlighted = 0 if sessions.options else None
        none = "" if sessions.options else " (no session has this in its line)"
        filtered = f"filter: {self._typed}{none}" if self._typed else "type to filter"
        self.query_one("#filter", Static).update(printable(filtered))

    def _row(self, index: int, *, marked: bool = False) -> str:
        return printable(f"{'>' if marked else ' '} {self._rows[index]}")

    @on(OptionList.OptionHighlighted)
    def _mark(self, highlighted: OptionList.OptionHighlighted) -> None:
        """Mark the highlighted session, which looks like the others without colour."""
        sessions = self.query_one(OptionList)
        for option in sessions.options:
            text = self._row(int(option.id or 0), marked=option is highlighted.option)
            if option.prompt != text:
                sessions.replace_option_prompt(str(option.id), text)

    def _action_move(self, where: str) -> None:
        getattr(self.query_one(OptionList), f"action_{where}")()

    def _action_erase(self) -> None:
        self._typed = self._typed[:-1]
        self._show()

    def _action_choose(self) -> None:
        if option := self.query_one(OptionList).highlighted_option:
            self.exit(int(option.id or 0))

    @on(OptionList.OptionSelected)
    def _choose_clicked(self, selected: OptionList.OptionSelected) -> None:
        self.exit(int(selected.option.id or 0))

    def _action_leave(self) -> None:
        self.exit()
