"""Saved sessions under hostile names, and every figure and page that shows them."""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree import ElementTree as ET

from fuzzing import Kind
from icl_loop import plots
from icl_loop.analysis import checkpoints, conclude_each, frame, probes, sessions
from icl_loop.analysis.graded_learning import graded_turns
from icl_loop.experiment import parse
from icl_loop.runner.run import Run
from icl_loop.transcripts.checksum import with_checksum, without_checksum

ARMS, LABELS = ("feedback", "none", "yoked"), tuple("0123456789")
PIECES = (
    *("'", '"', "`", "\\", "\\n", "\\u2028", "\u2028", "\u2029", "\x85", "\n", "\r", "\t", "\0"),
    *("\x01", "\x1b[31m", "\x7f", "\x9b2J", "\u200b", "\u200f", "\u202e", "\u2066", "\ufeff"),
    *("\ufffe", "\uffff", "[", "]", "[0]", ".", "a.b", "..", "datum", "datum.value", "${x}"),
    *("</script>", "<!--", "]]>", "&amp;", "&#0;", "{{x}}", "%s", "{0}", "$", "#", "/", "//", "*/"),
    *("constructor", "__proto__", "toString", "null", "NaN", "true", "chance", "none", "all", "_"),
    *("' + alert(1) + '", '");alert(1)//', "e\u0301", "\u00e9", "\u05d0\u05d1", "x" * 3_000, " "),
)
"""Texts that are syntax, or end a text, somewhere between a transcript and a picture."""

NOT_FILES = (
    *(
        "CON",
        "nul",
        "aux.x",
        "com1",
        "LPT1.txt",
        "PRN",
        "con.tar.gz",
        "CONIN$",
        "com\u00b9",
        "name.",
    ),
    *("a ", " a", "a:b", "a<b", "a>b", 'a"b', "a|b", "a?b", "a*b", "a/b", "a\\b", "..", "."),
    *("\0", "a\0b", "a\nb", "a\x1bb", "\x7f", "a\u2028b", "\u202ea", "../a", "/a", "C:a", "~"),
)
"""Names that no file can have on some system, or that lead elsewhere."""


def hostile_names(dice: random.Random, count: int) -> list[str]:
    """Return different names made of hostile pieces."""
    names: set[str] = set()
    while len(names) < count:
        names.add("".join(dice.choice(PIECES) for _ in range(dice.randint(1, 4))))
    return sorted(names, key=lambda _: dice.random())


@cache
def _sessions(folder: Path) -> list[list[dict[str, Any]]]:
    """Return the lines of a small study with all that can be drawn, played into `folder`."""
    made = parse(
        {
            "name": "small",
            "turns": 6,
            "streams": 2,
            "task": {"encoding": "binary", "size": 4},
            "probes": {"at": [0, 6], "count": 2, "verdicts": ["told", "flipped"]},
            "model": {"name": "reference/nearest"},
            "arms": [
                {"name": "feedback"},
                {"name": "none", "feedback": {"kind": "none"}},
                {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
            ],
            "analysis": {"primary": ["feedback", "none"], "secondary": [["feedback", "yoked"]]},
        }
    )
    result = asyncio.run(Run(made, folder).play())
    return [
        [json.loads(without_checksum(line)) for line in path.read_bytes().splitlines()]
        for path in result.paths
    ]


def save_renamed(names: Sequence[str], folder: Path, played: Path) -> None:
    """Write a study into `folder` in which the experiment, arms, model and labels have these names.

    Fewer names than there are to give leave the others as they were.
    """
    given = dict(zip(("small", *ARMS, "reference/nearest", *LABELS), names, strict=False))
    folder.mkdir(parents=True, exist_ok=True)
    for number, lines in enumerate(_sessions(played)):
        renamed = (
            json.dumps(_renamed(fields, given), separators=(",", ":")).encode() for fields in lines
        )
        data = b"".join(with_checksum(line) + b"\n" for line in renamed)
        (folder / f"{number}.jsonl").write_bytes(data)


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    def new(value: Any) -> Any:  # noqa: ANN401  any JSON
        if isinstance(value, list):
            return [new(each) for each in value]
        return names.get(value, value) if isinstance(value, str) else value

    keys = ("experiment", "arm", "labels", "label", "answer")
    changed = {key: new(value) if key in keys else value for key, value in fields.items()}
    if fields["type"] == "session":
        pairs = {key: new(fields["analysis"][key]) for key in ("primary", "secondary")}
        changed["analysis"] = {**fields["analysis"], **pairs}
        model = fields["settings"]["model"]
        settings = {**fields["settings"], "model": {**model, "name": new(model["name"])}}
        changed["settings"] = settings
        if fields["donor"]:
            changed["donor"] = {**fields["donor"], "arm": new(fields["donor"]["arm"])}
    elif fields["type"] == "turn":
        changed["label_logprobs"] = {new(each): -1.0 - int(each) for each in LABELS}
        changed["usage"] = {"prompt": 30, "cached": 10, "completion": 2, "reasoning": 0}
    return changed


def _draw(path: Path, played: Path) -> None:
    """Draw two figures of sessions with the names in a file."""
    data = path.read_bytes()
    names, folder = json.loads(data), path.with_suffix(".renamed")
    save_renamed(names, folder, played)
    charts = drawn(folder)
    for figure in random.Random(data).sample(sorted(charts), 2):  # noqa: S311  no secret
        file = folder / f"{figure}.svg"
        plots.save(charts[figure], file)
        ET.parse(file)  # noqa: S314  our own file


def _make_files(path: Path) -> None:
    """Make the files of an experiment whose name and arms are in a file."""
    name, *arms = json.loads(path.read_bytes())
    made = parse({"name": name, "arms": [{"name": arm} for arm in arms]})
    folder = path.with_suffix(".made")
    folder.mkdir(exist_ok=True)
    for each in (made.name, *made.arms):
        (folder / each).touch()
        assert not PureWindowsPath(each).is_reserved()
        assert each == each.rstrip(". ")
    assert len({each.casefold() for each in made.arms}) == len(arms)


def _file_names(_: bytes, dice: random.Random) -> bytes:
    good = ("small", "a", "A", "label.2", "NULL", "com", "e-1")
    kinds = (NOT_FILES, PIECES, good, good)
    return json.dumps([dice.choice(dice.choice(kinds)) for _ in range(3)]).encode()


def kinds(folder: Path) -> list[Kind]:
    """Return the kinds of input with hostile names; sessions are played into `folder`."""
    return [
        Kind(
            "names, figures",
            ".json",
            [b"[]"],
            (),
            lambda path: _draw(path, folder),
            lambda _, dice: json.dumps(hostile_names(dice, 15)).encode(),
        ),
        Kind("names, files", ".json", [b'["small", "a"]'], (), _make_files, _file_names),
    ]


def drawn(folder: Path) -> dict[str, plots.AnyChart]:
    """Return every figure of the sessions in a folder, by its name on the command line."""
    paths = [folder]
    turns, known, asked = frame(paths), sessions(paths), probes(paths)
    graded = graded_turns(turns, paths)
    assert graded is not None
    return {
        "curves": plots.curve_chart(turns),
        "curves, compared": plots.compared_chart(turns),
        "contrasts": plots.contrast_charts(conclude_each(turns, None, known, asked, paths)),
        "tokens": plots.token_chart(turns),
        "exposure": plots.exposure_chart(turns),
        "confusion": plots.confusion_chart(turns),
        "outcomes": plots.outcome_chart(turns),
        "log-loss": plots.score_chart(graded),
        "brier": plots.score_chart(graded, score="brier"),
        "calibration": plots.calibration_chart(graded),
        "probes": plots.probe_chart(turns, checkpoints(asked)),
    }
