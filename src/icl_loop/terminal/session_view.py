"""A saved session as text: heading, turns, context window and running accuracy."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.text import Text

from icl_loop.context import from_spans
from icl_loop.core.messages import Image
from icl_loop.core.records import Turn
from icl_loop.tasks.encodings import Pixels
from icl_loop.tasks.question_decoding import recorded_question_decoder
from icl_loop.terminal.formatting import RECENT, printable
from icl_loop.transcripts import Transcript

_SHORT = 200
"""Characters shown of a reply or note unless all of it is wanted."""
_AXIS = 7
"""Columns of the labels to the left of the chart."""


@dataclass(frozen=True, slots=True)
class Display:
    """What to show of a session.

    Attributes:
        reply: Whole replies, not only their beginning.
        window: Which past turns each request contained, and its tokens.
        text: Questions as the model saw them, not as pictures.
        errors: Wrong answers only.
    """

    reply: bool = False
    window: bool = False
    text: bool = False
    errors: bool = False


BRIEF = Display()


class SessionView:
    """Renders the turns of a saved session; pictures are grey levels if `colour`, else blocks."""

    def __init__(self, transcript: Transcript, *, colour: bool) -> None:
        header = transcript.header
        self.turns = transcript.turns
        self._transcript = transcript
        self._colour = colour
        self._decode = recorded_question_decoder(header.settings)
        self._correct = np.array([turn.feedback.correct for turn in self.turns], np.bool_)
        self._accuracy = running_accuracy(self._correct)
        self._planned = max(header.turns, len(self.turns))
        self._chance = 1 / max(1, len(header.labels))

    def visible(self, display: Display) -> list[int]:
        """Return the indices of the turns to show."""
        return np.flatnonzero(~self._correct | (not display.errors)).tolist()

    def heading(self) -> Text:
        """Return one line that identifies the session."""
        header, end = self._transcript.header, self._transcript.end
        model = header.settings.get("model")
        name = model.get("name") if isinstance(model, dict) else None
        text = (
            f"{header.experiment} / {header.arm}, stream {header.stream}: {name or '?'},"
            f" {header.dataset.name}, {len(self.turns)} of {header.turns} turns,"
            f" {end.status if end else 'unfinished'}"
        )
        return Text(printable(text), "bold", no_wrap=True, overflow="ellipsis")

    def turn(self, index: int, display: Display = BRIEF) -> Group:
        """Return all parts of a turn, for printing."""
        recent = self._correct[max(0, index + 1 - RECENT) : index + 1]
        shown = _turns(len(from_spans(self.turns[index].kept)))
        last = index + 1 == len(self.turns)
        return Group(
            *self.notes_and_probes(index, display),
            self.question(index, display),
            self.verdict(index),
            Text("  reply: ", "dim").append_text(self.reply(index, display, indent="    ")),
            Text(f"  told: {_one_line(self.turns[index].feedback.told)}", "dim"),
            *([Text(f"  window: {self.window(index)}", "dim")] if display.window else []),
            Text(
                f"  {shown} shown; {recent.sum()} of the last {len(recent)} right"
                f" ({recent.mean():.0%})",
                "dim",
            ),
            *(self.notes_and_probes(index + 1, display) if last else ()),
        )

    def question(self, index: int, display: Display) -> Text:
        """Return the picture that a question shows, or its text if there is none."""
        question = self.turns[index].question
        pixels = None if display.text else self._decode(question)
        if pixels is not None:
            return draw(pixels, colour=self._colour)
        parts = (
            f"[a picture, {len(part.png):,} bytes of PNG]" if isinstance(part, Image) else part.text
            for part in question.parts
        )
        return Text(_all_lines("\n".join(parts)))

    def verdict(self, index: int) -> Text:
        """Return a line with the answer, the label, and whether they agree."""
        turn = self.turns[index]
        answer = f"none ({turn.outcome})" if turn.answer is None else turn.answer
        line = printable(f"turn {index}: answered {answer}, label {turn.label}: ")
        return Text(line).append(
            *(("right", "green") if turn.feedback.correct else ("wrong", "red"))
        )

    def reply(self, index: int, display: Display, indent: str = "") -> Text:
        """Return the beginning of a reply on one line, or the whole reply, indented."""
        return _excerpt(self.turns[index].reply.text, display, indent)

    def told(self, index: int) -> Text:
        """Return the feedback that the model was given."""
        return Text(_all_lines(self.turns[index].feedback.told))

    def window(self, index: int) -> str:
        """Return which past turns a request contained, and its tokens."""
        turn = self.turns[index]
        runs = " ".join(
            f"{first}-{last}" if first < last else f"{first}" for first, last in turn.kept
        )
        count = _turns(len(from_spans(turn.kept)))
        return "; ".join([f"{count}: {runs}" if runs else count, *_tokens(turn)])

    def window_strip(self, index: int, width: int) -> Text:
        """Return a line of `width` columns that marks the past turns a request contained."""
        shown = np.zeros(self._planned, np.bool_)
        shown[list(from_spans(self.turns[index].kept))] = True
        strip = Text(f"{'window':>{_AXIS - 1}} ", "dim")
        for first, stop in self._columns(width):
            empty = "▲" if first <= index < stop else "·" if first < index else " "
            strip.append("█" if shown[first:stop].any() else empty, "yellow")
        return strip

    def notes_and_probes(self, place: int, display: Display) -> Iterator[Text]:
        """Yield the notes and probes that come just before the turn `place`."""
        right = [each.correct for each in self._transcript.probes if each.after_turn == place]
        if right:
            share = f"{sum(right)} of {len(right)} right ({sum(right) / len(right):.0%})"
            yield Text(f"probes after {_turns(place)}: {share}", "magenta")
        for note in self._transcript.notes:
            if note.after_turn == place:
                label = Text(f"note after {_turns(place)}: ", "magenta")
                yield label.append_text(_excerpt(note.text, display, "    "))

    def chart(self, last: int, width: int, height: int) -> Text:
        """Return a bar chart of running accuracy up to the turn `last`, with its caption.

        A dotted line marks chance. The right edge is the last turn planned.
        """
        columns = [stop for first, stop in self._columns(width) if first <= last]
        accuracy = [self._accuracy[min(stop - 1, last)] for stop in columns]
        top = max(0, height - 2)
        levels = [max(1, round(8 * (top + 1) * share)) for share in accuracy]
        chance = min(int(self._chance * (top + 1)), top)
        chart = Text()
        for row in range(top, -1, -1):
            label = {top: "100%", 0: "0%", chance: "chance"}.get(row, "")
            marks = ("┈" if row == chance else " ") + "▁▂▃▄▅▆▇█"
            bars = "".join(marks[min(max(level - 8 * row, 0), 8)] for level in levels)
            chart.append(f"{label:>{_AXIS - 1}} ", "dim")
            chart.append(f"{bars:{marks[0]}<{max(1, width - _AXIS)}}\n", "cyan")
        chart.highlight_regex("┈+", "dim")
        share, caption = self._accuracy[last], f"accuracy in the last {RECENT} turns"
        return chart.append(
            f"{'':{_AXIS}}{caption}: {share:.0%} after turn {last}; chance {self._chance:.0%}",
            "dim",
        )

    def contains(self, index: int, text: str) -> bool:
        """Return whether the reply, label or answer of a turn contains a text in any case."""
        turn = self.turns[index]
        parts = (turn.reply.text, turn.label, turn.answer or "")
        return any(text.casefold() in part.casefold() for part in parts)

    def turn_at(self, column: int, width: int) -> int | None:
        """Return the turn at a column of the chart or the window strip, if there is one."""
        columns = dict(enumerate(self._columns(width), _AXIS))
        first, _ = columns.get(column, (len(self.turns), 0))
        return first if first < len(self.turns) else None

    def _columns(self, width: int) -> list[tuple[int, int]]:
        """Return the first turn, and the end, of the turns that each column stands for."""
        count = max(1, width - _AXIS)
        edges = [column * self._planned // count for column in range(count + 1)]
        return [(first, max(first + 1, stop)) for first, stop in itertools.pairwise(edges)]


def draw(pixels: Pixels, *, colour: bool) -> Text:
    """Return a picture of shape (rows, columns) as half blocks, two rows of pixels per line.

    Without colour, a pixel is lit if its brightness is at least 0.5.
    """
    padded = np.vstack([pixels, np.zeros((len(pixels) % 2, pixels.shape[1]), np.float32)])
    return Text("\n").join(
        _blocks(upper.tolist(), lower.tolist(), colour=colour)
        for upper, lower in zip(padded[::2], padded[1::2], strict=True)
    )


def _blocks(upper: list[float], lower: list[float], *, colour: bool) -> Text:
    pairs = list(zip(upper, lower, strict=True))
    if not colour:
        return Text("".join(" ▀▄█"[(top >= 0.5) + 2 * (bottom >= 0.5)] for top, bottom in pairs))
    line = Text()
    for pair in pairs:
        line.append("▀", " on ".join(f"rgb({g},{g},{g})" for g in (round(255 * v) for v in pair)))
    return line


def running_accuracy(correct: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of right answers in the last `RECENT` turns, after each turn."""
    sums = np.concatenate([[0], np.cumsum(correct)])
    stops = np.arange(1, len(correct) + 1)
    starts = np.maximum(0, stops - RECENT)
    return np.asarray((sums[stops] - sums[starts]) / (stops - starts), np.float64)


def _tokens(turn: Turn) -> Iterator[str]:
    usage = turn.reply.usage
    if turn.counted is not None:
        yield f"{turn.counted:,} tokens, {turn.prefix or 0:,} of them shared with the last request"
    if usage.prompt:
        yield f"{usage.prompt:,} reported, {usage.cached:,} of them cached"


def _turns(count: int) -> str:
    return f"{count} turn" if count == 1 else f"{count} turns"


def _excerpt(text: str, display: Display, indent: str) -> Text:
    """Return the beginning of a text on one line, or all its lines, each indented."""
    if not display.reply:
        return Text(_one_line(text), "dim")
    lines = _all_lines(text).split("\n")
    return Text("\n".join(f"{indent}{line}" for line in (["", *lines] if indent else lines)))


def _all_lines(text: str) -> str:
    return printable("\n".join(line.expandtabs(4) for line in text.splitlines()))


def _one_line(text: str) -> str:
    line = " / ".join(part for part in text.splitlines() if part.strip())
    return printable(line if len(line) <= _SHORT else f"{line[:_SHORT]} …")
