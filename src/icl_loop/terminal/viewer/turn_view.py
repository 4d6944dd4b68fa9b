"""What people are shown of a saved session, turn by turn."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from icl_loop.core.messages import Image
from icl_loop.core.records import Span, Turn
from icl_loop.tasks.question_decoding import recorded_question_decoder
from icl_loop.terminal.formatting import printable
from icl_loop.terminal.progress import RECENT, draw
from icl_loop.terminal.viewer.accuracy_plot import curve, running
from icl_loop.transcripts import Transcript


@dataclass(frozen=True, slots=True)
class Show:
    """What of a turn is shown more fully.

    Attributes:
        reply: The whole reply, not its first words in a line.
        window: Which turns the request showed, and what it cost.
        text: The question as the model saw it, not as a picture.
    """

    reply: bool = False
    window: bool = False
    text: bool = False


NOTHING_MORE = Show()


class Replay:
    """Shows the turns of a saved session one by one."""

    def __init__(self, transcript: Transcript, *, colour: bool) -> None:
        """Take the way back from question to picture from the recorded settings, if it is known."""
        self._transcript = transcript
        self._colour = colour
        self._see = recorded_question_decoder(transcript.header.settings)
        self.right = tuple(turn.feedback.correct for turn in transcript.turns)
        self._running = running(self.right)

    def __len__(self) -> int:
        """Return how many turns there are."""
        return len(self.right)

    def heading(self) -> Text:
        """Return what the session is, in one line."""
        header = self._transcript.header
        model = header.settings.get("model")
        name = model.get("name") if isinstance(model, dict) else None
        end = self._transcript.end
        return Text(
            printable(
                f"{header.experiment} / {header.arm}, stream {header.stream}: {name or '?'},"
                f" {header.dataset.name}, {len(self)} of {header.turns} turns,"
                f" {end.status if end else 'unfinished'}"
            ),
            style="bold",
        )

    def turn(self, index: int, show: Show = NOTHING_MORE) -> RenderableType:
        """Return a turn: its picture, answer and verdict, what was told, how the latest went."""
        turn = self._transcript.turns[index]
        question = Text(_whole(_as_seen(turn))) if show.text else self._picture(turn)
        after = self.between(index + 1, whole=show.reply) if index + 1 == len(self) else ()
        return Group(
            *self.between(index, whole=show.reply),
            question,
            _verdict(turn),
            *_said("  reply:", turn.reply.text, "dim", whole=show.reply),
            Text(printable(f"  told: {_one_line(turn.feedback.told)}"), "dim"),
            *([Text(f"  window: {window(turn)}", "dim")] if show.window else []),
            Text(f"  {self._standing(turn)}", "dim"),
            *after,
        )

    def between(self, index: int, *, whole: bool = False) -> Iterator[RenderableType]:
        """Yield lines for the probes and the note between the turn before `index` and the next."""
        asked = [probe for probe in self._transcript.probes if probe.after_turn == index]
        if asked:
            right = sum(probe.correct for probe in asked)
            share = f"{right} of {len(asked)} right ({right / len(asked):.0%})"
            yield Text(f"probes after {_turns(index)}: {share}", "magenta")
        for note in self._transcript.notes:
            if note.after_turn == index:
                yield from _said(f"note after {_turns(index)}:", note.text, "magenta", whole=whole)

    def curve(self, last: int, width: int, height: int) -> Text:
        """Return the plot of running accuracy up to the turn `last`."""
        header = self._transcript.header
        return curve(self.right[: last + 1], header.turns, self._chance, width, height)

    def caption(self, last: int) -> Text:
        """Return what the plot of running accuracy is."""
        share = f" {self._running[last]:.0%} right after turn {last};" if len(self) else ""
        return Text(f"latest {RECENT} turns:{share} dots: chance, {self._chance:.0%}", "dim")

    @property
    def _chance(self) -> float:
        return 1 / max(1, len(self._transcript.header.labels))

    def _standing(self, turn: Turn) -> str:
        latest = self.right[max(0, turn.index + 1 - RECENT) : turn.index + 1]
        share = f"{sum(latest)} of the last {len(latest)} right ({sum(latest) / len(latest):.0%})"
        return f"shown {_exposure(turn.kept)} past turns; {share}"

    def _picture(self, turn: Turn) -> Text:
        pixels = self._see(turn.question)
        if pixels is not None:
            return _framed(draw(pixels, colour=self._colour))
        return Text(_whole(_as_seen(turn)))


def _framed(picture: Text) -> Text:
    """Return a picture whose lines end with it."""
    picture.right_crop(1)
    return picture


def _verdict(turn: Turn) -> Text:
    answer = turn.answer if turn.answer is not None else f"none ({turn.outcome})"
    line = Text(printable(f"turn {turn.index}: answered {answer}, it is {turn.label}: "))
    return line.append_text(
        Text("right", "green") if turn.feedback.correct else Text("wrong", "red")
    )


def _said(name: str, text: str, style: str, *, whole: bool) -> Iterator[RenderableType]:
    """Yield a name and the first words of a text, or below the name all its lines."""
    if whole:
        yield Text(name, style)
        yield Padding(Text(_whole(text)), (0, 0, 0, 4))
    else:
        yield Text(printable(f"{name} {_one_line(text)}"), style)


def window(turn: Turn) -> str:
    """Return which turns a request showed, how many they are, and the tokens it took."""
    runs = " ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in turn.kept)
    shown = f"{_turns(_exposure(turn.kept))}{': ' if runs else ''}{runs}"
    return "; ".join([shown, *_tokens(turn)])


def _tokens(turn: Turn) -> Iterator[str]:
    usage = turn.reply.usage
    if turn.counted is not None:
        yield f"{turn.counted:,} tokens, the first {turn.prefix or 0:,} as in the request before"
    if usage.prompt:
        yield f"reported {usage.prompt:,}, {usage.cached:,} of them cached"


def _turns(count: int) -> str:
    return f"{count} turn" if count == 1 else f"{count} turns"


def _exposure(kept: tuple[Span, ...]) -> int:
    return sum(last - first + 1 for first, last in kept)


def _as_seen(turn: Turn) -> str:
    """Return the question as the model saw it; a picture is named by its size."""
    parts = turn.question.parts
    return "\n".join(
        f"[a picture, {len(part.png):,} bytes of PNG]" if isinstance(part, Image) else part.text
        for part in parts
    )


def _whole(text: str) -> str:
    """Return all lines of a text, tabs as spaces."""
    return printable("\n".join(line.expandtabs(4) for line in text.splitlines()))


def _one_line(text: str, limit: int = 200) -> str:
    line = " / ".join(part for part in text.splitlines() if part.strip())
    return line if len(line) <= limit else line[:limit] + " …"
