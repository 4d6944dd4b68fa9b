"""The picture of an exchange in the README, which `python tests/exchange_picture.py` draws from a transcript."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import escape

from builders import unpacked
from icl_loop.core.records import Turn
from icl_loop.transcripts import read

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "exchange.svg"
SESSION = "smollm2-digits/grid-2.jsonl"
TURNS = 3
WIDTH, GAP, LINE, MARGIN = 216, 18, 15, 12
COLOURS = {True: "#1a7f37", False: "#b3261e"}


def exchange_picture() -> str:
    """Return the first turns of a session as SVG: question, reply and what the model was told."""
    with TemporaryDirectory() as folder:
        saved = unpacked(ROOT / "transcripts" / "smollm2.tar.xz", Path(folder), SESSION)
        turns = read(saved).turns[:TURNS]
    drawn = [panel(turn, GAP + index * (WIDTH + GAP)) for index, turn in enumerate(turns)]
    width = GAP + TURNS * (WIDTH + GAP)
    height = max(bottom for _, bottom in drawn) + GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
            "<style>text { font: 12px monospace; white-space: pre } .title { font: bold 13px sans-serif }</style>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *(part for part, _ in drawn),
            "</svg>\n",
        ]
    )


def panel(turn: Turn, left: int) -> tuple[str, int]:
    """Return one turn as SVG, and its lower end."""
    parts = [f'<text class="title" x="{left}" y="26">turn {turn.index + 1}</text>']
    top = 38
    question, reply, told = (message.text for message in turn.messages)
    messages = [
        (question, left, WIDTH, "#f0f1f3", "black"),
        (reply, left + WIDTH - 110, 110, "#d9e8fb", "black"),
        (told, left, WIDTH, "#f0f1f3", COLOURS[turn.feedback.correct]),
    ]
    for text, x, width, fill, colour in messages:
        lines = text.splitlines()
        height = LINE * len(lines) + MARGIN
        parts.append(
            f'<rect x="{x}" y="{top}" width="{width}" height="{height}" rx="7" fill="{fill}"/>'
        )
        for index, line in enumerate(lines):
            y = top + LINE * (index + 1) + 2
            parts.append(f'<text x="{x + 10}" y="{y}" fill="{colour}">{shaded(line)}</text>')
        top += height + 8
    return "\n".join(parts), top - 8


def shaded(line: str) -> str:
    """Return a line as SVG text, with the pixels of an empty background in a light grey."""
    if not line.isdigit():
        return escape(line)
    return re.sub("0+", lambda zeros: f'<tspan fill="#bbb">{zeros[0]}</tspan>', line)


if __name__ == "__main__":
    PICTURE.write_text(exchange_picture())
