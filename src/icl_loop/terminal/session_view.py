"""A saved session as text: heading, turns, context window and running accuracy."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent

import numpy as np
from rich.console import Group
from rich.text import Text

from icl_loop.context.window import from_spans
from icl_loop.core.messages import Image, Message
from icl_loop.core.names import printable
from icl_loop.core.records import Turn
from icl_loop.tasks.encodings import Pixels
from icl_loop.tasks.question_decoding import recorded_question_decoder
from icl_loop.terminal.formatting import RECENT
from icl_loop.transcripts import Transcript

_SHORT = 200
"""Length to which replies and notes are cut, unless shown in full."""
_AXIS = 7
"""Columns of the labels to the left of the chart."""


@dataclass(frozen=True, slots=True)
class Display:
    """Whether to show whole replies, the past turns shown, pictures as text, wrong answers only."""

    reply: bool = False
    window: bool = False
    text: bool = False
    errors: bool = False


BRIEF = Display()


class SessionView:
    """Renders the turns of a saved session; pictures are grey levels if `colour`, else blocks."""

    def __init__(self, transcript: Transcript, *, colour: bool) -> None:
        self.turns = transcript.turns
        self._transcript = transcript
        self._colour = colour
        self._decode = recorded_question_decoder(transcript.header.settings)
        self._planned = max(transcript.header.turns, len(self.turns))

    def visible(self, display: Display) -> list[int]:
        """Return the indices of the turns to show."""
        wrong = [index for index, turn in enumerate(self.turns) if not turn.feedback.correct]
        return wrong if display.errors else list(range(len(self.turns)))

    def heading(self) -> Text:
        """Return one line that identifies the session."""
        header, end = self._transcript.header, self._transcript.end
        model = header.settings.get("model")
        name = model.get("name") if isinstance(model, dict) else None
        text = (
            f"{header.experiment} / {header.arm}, stream {header.stream}"
            f"{f', repeat {header.repeat}' if header.repeat else ''}: {name or '?'},"
            f" {header.dataset.name or '?'}, {len(self.turns)} of {header.turns} turns,"
            f" {end.status if end else 'unfinished'}"
        )
        return Text(printable(text), "bold", no_wrap=True, overflow="ellipsis")

    def turn(self, index: int, display: Display = BRIEF) -> Group:
        """Return all parts of a turn, for printing."""
        turn, recent = self.turns[index], self._recent(index)
        window = [Text(f"  window: {self.window(index)}", "dim")] if display.window else []
        return Group(
            *(self.exemplars(index, display) if index == 0 else ()),
            *self.notes_and_probes(index, display),
            self.question(index, display),
            self.verdict(index),
            *(
                _labelled(Text(f"  {name}: ", "dim"), text, display)
                for name, text in (
                    ("reasoning", turn.reply.reasoning_text),
                    ("reply", turn.reply.text),
                )
                if text is not None
            ),
            Text(f"  told: {_one_line(turn.feedback.told)}", "dim"),
            *window,
            Text(
                f"  {_shown(turn)}; {sum(recent)} of the last"
                f" {len(recent)} right ({sum(recent) / len(recent):.0%})",
                "dim",
            ),
            *(self.notes_and_probes(index + 1, display) if turn is self.turns[-1] else ()),
        )

    def question(self, index: int, display: Display) -> Text:
        """Return the picture that a question shows, or its text if there is none."""
        return self._asked(self.turns[index].question, display)

    def _asked(self, question: Message, display: Display) -> Text:
        pixels = None if display.text else self._decode(question)
        if pixels is not None:
            return draw(pixels, colour=self._colour)
        parts = (
            f"[a picture, {len(part.png):,} bytes of PNG]" if isinstance(part, Image) else part.text
            for part in question.parts
        )
        return Text(_all_lines("\n".join(parts)))

    def exemplars(self, index: int, display: Display) -> Iterator[Text]:
        """Yield the right answers shown before the first turn, whole if `reply`, else on a line each."""
        shown = self._transcript.header.at(index).exemplars
        for number, line in enumerate(shown, start=1):
            each = line.exemplar
            label = Text(f"exemplar {number} of {len(shown)}: ", "magenta")
            if display.reply:
                rest = f"{each.reply}\n{each.told}"
                yield Text("\n").join(
                    (label, self._asked(each.question, display), Text(_all_lines(rest)))
                )
            else:
                has_picture = not display.text and self._decode(each.question) is not None
                asked = "[a picture]" if has_picture else each.question.text
                yield label.append(_one_line(f"{each.reply}\n{asked}"), "dim")

    def verdict(self, index: int) -> Text:
        """Return a line with the answer, the label, and whether they agree."""
        turn = self.turns[index]
        answer = f"none ({turn.outcome})" if turn.answer is None else turn.answer
        line = Text(printable(f"turn {index}: answered {answer}, label {turn.label}: "))
        return line.append(*(("right", "green") if turn.feedback.correct else ("wrong", "red")))

    def reply(self, index: int, display: Display) -> Text:
        """Return the beginning of a reply on one line, or the whole reply, after its reasoning."""
        reply = self.turns[index].reply
        text = Text(_all_lines(reply.text)) if display.reply else Text(_one_line(reply.text), "dim")
        if reply.reasoning_text is None:
            return text
        reasoning = _labelled(Text("reasoning: "), reply.reasoning_text, display)
        reasoning.stylize("dim italic")
        return Text("\n").join((reasoning, text))

    def told(self, index: int) -> Text:
        """Return the feedback that the model was given."""
        return Text(_all_lines(self.turns[index].feedback.told))

    def window(self, index: int) -> str:
        """Return which past turns a request contained, and its tokens."""
        turn = self.turns[index]
        spans = (f"{first}-{last}" if first < last else f"{first}" for first, last in turn.kept)
        count = _turns(len(from_spans(turn.kept))) if turn.request else "not known"
        parts = [": ".join(filter(None, [count, " ".join(spans)]))]
        if exemplars := self._transcript.header.at(index).exemplars:
            parts.append(f"{len(exemplars)} exemplars before them")
        if turn.counted is not None:
            shared = f"{turn.prefix or 0:,} of them shared with the last request"
            parts.append(f"{turn.counted:,} tokens, {shared}")
        if (usage := turn.reply.usage).prompt:
            parts.append(f"{usage.prompt:,} reported, {usage.cached:,} of them cached")
        return "; ".join(parts)

    def window_strip(self, index: int, width: int) -> Text:
        """Return a line of `width` columns that marks the past turns a request contained."""
        shown = set(from_spans(self.turns[index].kept))
        strip = Text(f"{'window':>{_AXIS - 1}} ", "dim")
        for turns in self._columns(width):
            marks = (("▲", index in turns), ("█", not shown.isdisjoint(turns)))
            past = "·" if turns.start < index else " "
            strip.append(next((mark for mark, holds in marks if holds), past), "yellow")
        return strip

    def notes_and_probes(self, place: int, display: Display) -> Iterator[Text]:
        """Yield the notes, probes and choices that come just before the turn `place`."""
        probes = [each for each in self._transcript.probes if each.after_turn == place]
        for verdicts in dict.fromkeys(each.verdicts for each in probes):
            right = [each.correct for each in probes if each.verdicts == verdicts]
            share = f"{sum(right)} of {len(right)} right ({sum(right) / len(right):.0%})"
            shown = "" if verdicts == "told" else f" with verdicts {verdicts}"
            yield Text(f"probes after {_turns(place)}{shown}: {share}", "magenta")
        for note in self._transcript.notes:
            if note.after_turn == place:
                label = Text(f"note after {_turns(place)}: ", "magenta")
                yield _labelled(label, note.text, display)
        for choice in self._transcript.choices:
            if choice.after_turn == place:
                offered = ", ".join(choice.candidates)
                how = "chosen" if choice.number else f"drawn, as the choice was {choice.outcome}"
                label = Text(f"{choice.sample} {how} among {offered}: ", "magenta")
                yield _labelled(label, choice.reply.text, display)

    def chart(self, last: int, width: int, height: int) -> Text:
        """Return a bar chart of running accuracy up to the turn `last`, with its caption.

        A dotted line marks chance. The right edge is the last turn planned.
        """
        columns = [turns for turns in self._columns(width) if turns.start <= last]
        shares = [np.mean(self._recent(min(turns.stop - 1, last))) for turns in columns]
        top = max(0, height - 2)
        dotted = min(int(self._chance * (top + 1)), top)
        levels = [max(1, round(8 * (top + 1) * share)) for share in shares]
        chart = Text()
        for row in range(top, -1, -1):
            label = {top: "100%", 0: "0%", dotted: "chance"}.get(row, "")
            marks = ("┈" if row == dotted else " ") + "▁▂▃▄▅▆▇█"
            bars = "".join(marks[min(max(level - 8 * row, 0), 8)] for level in levels)
            chart.append(f"{label:>{_AXIS - 1}} ", "dim")
            chart.append(f"{bars:{marks[0]}<{max(1, width - _AXIS)}}\n", "cyan")
        chart.highlight_regex("┈+", "dim")
        return chart.append(f"{'':{_AXIS}}{self.recent_accuracy(last)}", "dim")

    def recent_accuracy(self, index: int) -> str:
        """Return the accuracy in the last turns up to this one, and chance, in words."""
        recent, chance = np.mean(self._recent(index)), self._chance
        return f"accuracy in the last {RECENT} turns: {recent:.0%} after turn {index}; chance {chance:.0%}"

    @property
    def _chance(self) -> float:
        return 1 / max(1, len(self._transcript.header.labels))

    def contains(self, index: int, text: str) -> bool:
        """Return whether the reply, label or answer of a turn contains a text in any case."""
        turn = self.turns[index]
        parts = (turn.reply.text, turn.reply.reasoning_text or "", turn.label, turn.answer or "")
        return any(text.casefold() in part.casefold() for part in parts)

    def turn_at(self, column: int, width: int) -> int | None:
        """Return the turn at a column of the chart or the window strip, if there is one."""
        turns = dict(enumerate(self._columns(width), _AXIS)).get(column)
        return turns.start if turns and turns.start < len(self.turns) else None

    def _columns(self, width: int) -> list[range]:
        """Return the turns that each column stands for."""
        count = max(1, width - _AXIS)
        edges = [column * self._planned // count for column in range(count + 1)]
        return [range(first, max(first + 1, stop)) for first, stop in itertools.pairwise(edges)]

    def _recent(self, index: int) -> list[bool]:
        """Return whether each of the last `RECENT` turns up to this one was right, chosen ones left out."""
        turns = self.turns[max(0, index + 1 - RECENT) : index + 1]
        counted = filter(lambda turn: self._transcript.header.counts(turn.index), turns)
        return [turn.feedback.correct for turn in counted]


def draw(pixels: Pixels, *, colour: bool) -> Text:
    """Return a picture of shape (rows, columns) as half blocks, two rows of pixels per line.

    Without colour, a pixel is lit if its brightness is at least 0.5.
    """
    padded = np.vstack([pixels, np.zeros((len(pixels) % 2, pixels.shape[1]), np.float32)])
    lines = []
    for pair in zip(padded[::2].tolist(), padded[1::2].tolist(), strict=True):
        line = Text()
        for upper, lower in zip(*pair, strict=True):
            if colour:
                line.append("▀", f"{_grey(upper)} on {_grey(lower)}")
            else:
                line.append(" ▀▄█"[(upper >= 0.5) + 2 * (lower >= 0.5)])
        lines.append(line)
    return Text("\n").join(lines)


def _grey(brightness: float) -> str:
    level = round(255 * brightness)
    return f"rgb({level},{level},{level})"


def _shown(turn: Turn) -> str:
    """Return how many past turns a request showed."""
    count = _turns(len(from_spans(turn.kept)))
    return f"{count} shown" if turn.request else "past turns shown are not known"


def _turns(count: int) -> str:
    return f"{count} turn" if count == 1 else f"{count} turns"


def _labelled(label: Text, text: str, display: Display) -> Text:
    """Return a label followed by the beginning of a text, or with all its lines below."""
    if display.reply:
        return label.append("\n" + indent(_all_lines(text), "    "))
    return label.append(_one_line(text), "dim")


def _all_lines(text: str) -> str:
    return printable("\n".join(line.expandtabs(4) for line in text.splitlines()))


def _one_line(text: str) -> str:
    line = " / ".join(part for part in text.splitlines() if part.strip())
    return printable(line if len(line) <= _SHORT else f"{line[:_SHORT]} …")
