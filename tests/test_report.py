"""The report is one file that loads nothing, and shows what a model wrote only as text."""

import asyncio
import base64
import gzip
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment, without_checksum
from command_line import Command
from icl_loop.analysis import frame
from icl_loop.analysis.baseline import LEARNER, BaselineResult, baselines
from icl_loop.core.messages import Reply
from icl_loop.experiment import Experiment, parse
from icl_loop.export import export
from icl_loop.loop import play
from icl_loop.models import ScriptedModel
from icl_loop.plots.line_charts import fitting_window
from icl_loop.replay.branching import branches
from icl_loop.report import page
from icl_loop.report.page_budget import Stream, select_streams, spread
from icl_loop.report.session_browser import NamedSession, packed, probe_questions
from icl_loop.report.session_headers import experiment_file, lineage, place_of
from icl_loop.runner.run import Run
from icl_loop.terminal.chart_baseline import chart_baseline
from icl_loop.transcripts import Header, TranscriptWriter, read, read_header
from icl_loop.transcripts.header import BranchIdentity

SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"
HOSTILE = (
    "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>",
    "<a href='javascript:alert(1)'>Answer: 1</a> \u2028 \u2029 <!-- <script>",
    "\u202eAnswer: 2\u202c \u2067 and \u0000 \x1b[31m",
    "Answer: 3\n" + "\U0001f600 long " * 130_000,
    "{{ 7 * 7 }} ${7 * 7} &lt;b&gt; Answer: 4",
)
SCREENS = [(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]


async def hostile(folder: Path, arm: str = "feedback") -> Path:
    """Play a session whose model writes text that could break a page, and return its folder."""
    made = parse(
        {
            "name": "hostile",
            "turns": len(HOSTILE),
            "streams": 1,
            "arms": [{"name": "feedback"}],
            "model": {"name": "reference/nearest", "context_window": 2_000_000},
        }
    )
    [session] = made.sessions()
    header = session.header().model_copy(update={"arm": arm})
    with TranscriptWriter(folder / session.file_name, header) as recorder:
        model = ScriptedModel([Reply(text, reasoning_text=text) for text in HOSTILE])
        played = play(session.task, model, session.policy, session.window)
        async for _ in recorder.record(played):
            pass
    return folder


class Elements(HTMLParser):
    """Scripts, styles, loaded resources and headings of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.inline: list[tuple[dict[str, str | None], str]] = []
        self.addresses: list[str] = []
        self.policy = ""
        self.headings: list[int] = []
        self.attributes: list[str] = []
        self.labels: set[str] = set()
        self.controls: list[dict[str, str | None]] = []
        self._open = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        values = dict(attrs)
        self._open = tag in ("script", "style")
        if self._open:
            self.inline.append((values, ""))
        self.addresses += [values[key] or "" for key in ("src", "href", "action") if key in values]
        self.attributes += values
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "label":
            self.labels.add(values["for"] or "")
        if tag in ("select", "input"):
            self.controls.append(values)

    def handle_endtag(self, tag: str) -> None:
        """Record the end of a script or style."""
        self._open = self._open and tag not in ("script", "style")

    def handle_data(self, data: str) -> None:
        """Record the text of a script or style."""
        if self._open:
            values, text = self.inline[-1]
            self.inline[-1] = (values, text + data)


@pytest.fixture(scope="module")
def sample() -> str:
    """The report on the shipped sample."""
    return page(frame([SAMPLE]), command="icl-loop report transcripts/sample")


@pytest.fixture(scope="module")
def elements(sample: str) -> Elements:
    """The elements of the report on the sample."""
    return Elements(sample)


@pytest.mark.parametrize("length", [3, 30, 60])
def test_the_page_and_plots_have_one_default_window(length: int) -> None:
    """The window that is chosen at first is that of `plot`, also in short runs."""
    turns = frame([SAMPLE]).filter(pl.col("turn") < length)
    (chosen,) = re.findall(r'<option value="(\d+)" selected>', page(turns))
    assert int(chosen) == fitting_window(turns)


def unpacked(text: str) -> Any:  # noqa: ANN401  any JSON value
    """Return the value that was packed."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


def blobs(text: str) -> dict[str, Any]:
    """Return the packed data of a page by element id."""
    found = re.findall(r'<script type="text/plain" id="([^"]+)">([^<]*)</script>', text)
    return {name: unpacked(data) for name, data in found}


def test_page_is_self_contained(elements: Elements) -> None:
    """The page loads, links to and sends nothing outside itself."""
    assert {each for each in elements.addresses if not each.startswith("#")} == {"data:,"}
    assert elements.policy.startswith("default-src 'none'; ")
    assert "unsafe" not in elements.policy
    assert "connect-src" not in elements.policy


def test_policy_allows_only_own_scripts_and_styles(elements: Elements) -> None:
    """The content security policy lists the hash of every script and style, and no other."""
    run = [text for attributes, text in elements.inline if "type" not in attributes]
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in run
    }
    assert set(re.findall(r"'sha256-[^']+'", elements.policy)) == hashes
    assert len(run) == 3
    assert not [name for name in elements.attributes if name.startswith("on") or name == "style"]


def test_headings_and_controls_are_named(elements: Elements) -> None:
    """Heading levels never skip, and every control has a label."""
    assert elements.headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(elements.headings, elements.headings[1:], strict=False))
    unnamed = [
        each
        for each in elements.controls
        if each["id"] not in elements.labels and "aria-label" not in each
    ]
    assert unnamed == []


def test_focusable_texts_have_names(notes_and_probes_page: str) -> None:
    """Every scrollable text has a role and an accessible name."""
    marked = notes_and_probes_page.split("<script", maxsplit=1)[0]
    scrolled = re.findall(r"<pre [^>]*tabindex=[^>]*>", marked)
    assert len(scrolled) >= 6
    for each in scrolled:
        assert 'role="group"' in each
        [named] = re.findall(r'aria-(?:label|labelledby)="([^"]+)"', each)
        assert "labelledby" not in each or f'id="{named}"' in marked


def test_page_contains_every_turn(sample: str, elements: Elements) -> None:
    """The packed data equals the transcripts, turn by turn, images included."""
    found = blobs(sample)
    [index] = [text for attributes, text in elements.inline if attributes.get("id") == "index"]
    [entry] = [each for each in json.loads(index) if (each["arm"], each["stream"]) == ("label", 1)]
    session, pool = found[entry["blob"]], found[entry["pool"]]
    for turn in read(SAMPLE / "label-1.jsonl").turns:
        assert session["sample"][turn.index] == turn.sample
        assert session["correct"][turn.index] == turn.feedback.correct
        assert pool["texts"][session["question"][turn.index]] == turn.question.text
        assert pool["texts"][session["reply"][turn.index]] == turn.reply.text
        assert pool["texts"][session["told"][turn.index]] == turn.feedback.told
        rows, columns, data = pool["images"][session["image"][turn.index]]
        assert rows * columns == len(base64.b64decode(data)) == 400


def test_shared_texts_are_stored_once(sample: str) -> None:
    """The arms of a stream share questions and images."""
    pools = [value for name, value in blobs(sample).items() if name.startswith("pool-")]
    assert len(pools) == 2
    for pool in pools:
        assert len(pool["texts"]) == len(set(pool["texts"]))
        assert len(pool["images"]) == 25


def test_page_is_deterministic(sample: str) -> None:
    """A page depends only on its transcripts and arguments."""
    again = page(frame([SAMPLE]), command="icl-loop report transcripts/sample")
    assert again == sample


def test_page_contains_no_paths(sample: str) -> None:
    """The location of the transcripts does not appear in the page."""
    assert str(SAMPLE) not in sample
    assert str(SAMPLE) not in str(blobs(sample))


@pytest.mark.parametrize("text", HOSTILE[:3] + HOSTILE[4:])
def test_packed_data_has_no_special_characters(text: str) -> None:
    """Packed data cannot close its element, and round-trips."""
    assert unpacked(packed([text])) == [text]
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed([text]))


async def test_names_stay_text(tmp_path: Path) -> None:
    """The name of an arm cannot close the element that contains it."""
    elements = Elements(page(frame([await hostile(tmp_path, arm=HOSTILE[0])])))
    [index] = [text for attributes, text in elements.inline if attributes.get("id") == "index"]
    assert json.loads(index)[0]["arm"] == HOSTILE[0]
    assert "x" not in elements.addresses


UNLIKE: Any = {
    "id": True,
    "donor": True,
    "created": True,
    "icl_loop": True,
    "analysis": {"streams": True},
}


def test_settings_recreate_the_experiment() -> None:
    """The experiment file in the page creates the same sessions."""
    headers = [read_header(path) for path in sorted(SAMPLE.glob("*.jsonl"))]
    made = parse(tomllib.loads(experiment_file(headers)))
    ours = {(each.arm, each.stream): each.header() for each in made.sessions()}
    assert len(ours) >= len(headers)
    for header in headers:
        same = ours[header.arm, header.stream]
        assert same.model_dump(exclude=UNLIKE) == header.model_dump(exclude=UNLIKE)


async def test_page_shows_the_baseline() -> None:
    """With a baseline, the page stores its verdict for every turn and draws its curve."""
    turns = frame([SAMPLE])
    paths = sorted(SAMPLE.glob("feedback-*.jsonl"))
    some = BaselineResult(LEARNER, await baselines(paths), "Only some have one.")
    text = page(turns, baseline=some)
    found = [value for name, value in blobs(text).items() if name.startswith("session-")]
    assert [len(each["baseline"] or ()) for each in found] == [25, 0, 0, 0, 0] * 2
    assert "Only some have one." in text


@pytest.mark.parametrize("names", [["simulated/chance"], ["simulated/chance", "reference/nearest"]])
async def test_models_have_panels_and_a_column(tmp_path: Path, names: list[str]) -> None:
    """Several models have a panel of curves each, as in the plot, and a column; one is in the caption.

    The name that an endpoint gave to a model stands beside it.
    """
    arms = [
        {"name": f"{kind}-{place}", "model": {"name": name}, "feedback": {"kind": kind}}
        for place, name in enumerate(names)
        for kind in ("label", "none")
    ]
    paths = (await Run(experiment(arms=arms), tmp_path).play()).paths
    turns = frame(paths)
    served = pl.when(pl.col("model") == "simulated/chance").then(pl.lit("chance-2026"))
    text = page(turns.with_columns(served_model=served), paths=paths)
    curves = [figure["5"] for name, figure in blobs(text).items() if name[:13] == "figure-curves"]
    assert [named_in(figure) for figure in curves] == [
        {f"{kind}-{place}" for kind in ("label", "none")} for place in range(len(names))
    ]
    assert ('<th scope="col">model</th>' in text) == (len(names) > 1)
    assert text.count("simulated/chance (served as chance-2026)") == (3 if len(names) == 1 else 2)
    for name in names if len(names) > 1 else []:
        assert f"<h3><bdi>small / {name}</bdi></h3>" in text
        assert f"<td><bdi>{name}</bdi></td>" in text


def named_in(figure: dict[str, Any]) -> set[str]:
    """Return the arms that a chart of curves names."""
    rows = [row for data in figure["datasets"].values() for row in data]
    return {row["name"] for row in rows if "name" in row} - {"chance"}


ODD: dict[str, dict[str, Any]] = {
    "no primary contrast": {"analysis": {}},
    "a table": {"task": {"dataset": "iris", "encoding": "table"}},
    "pictures that are seen": {
        "task": {"encoding": "png"},
        "model": {"name": "simulated/chance"},
    },
}


@pytest.mark.parametrize("kind", ODD)
async def test_unusual_runs_make_valid_pages(tmp_path: Path, kind: str) -> None:
    """A single cut session of any modality, with or without a contrast, makes a page."""
    made = parse({"name": "odd", "turns": 6, "streams": 1, **ODD[kind]})
    [session] = made.sessions()
    with TranscriptWriter(tmp_path / session.file_name, session.header()) as recorder:
        turns = play(session.task, session.open_model(), session.policy, session.window)
        count = 0
        async for _ in recorder.record(turns):
            count += 1
            if count == 3:
                break
    found = Elements(page(frame([tmp_path])))
    assert found.headings[0] == 1


def test_page_limits_turns() -> None:
    """A page on too many turns keeps evenly chosen streams and says so."""
    text = page(frame([SAMPLE]), most_turns=100)
    assert "contains 1 of 2 streams" in text
    assert sum(name.startswith("session-") for name in blobs(text)) == 5


def streams(read_ones: list[int], lengths: Sequence[int]) -> list[Stream]:
    """Return streams of 25-turn sessions with first replies of the given lengths; record which are read."""

    def read_one(place: int, length: int) -> Iterator[NamedSession]:
        read_ones.append(place)
        saved = read(SAMPLE / "label-0.jsonl")
        dice = random.Random(place)  # noqa: S311  text that cannot be packed, no secrets
        reply = Reply("".join(dice.choices("abcdefgh", k=length)))
        turns = (replace(saved.turns[0], reply=reply), *saved.turns[1:])
        header = saved.header.model_copy(update={"stream": place})
        yield NamedSession("many", replace(saved, turns=turns, header=header), {})

    return [Stream(25, partial(read_one, place, length)) for place, length in enumerate(lengths)]


def test_page_limits_bytes() -> None:
    """Streams are read in spread order until one does not fit; no more are read."""
    lengths, seen = [100_000] * 8, list[int]()
    data, left_out = select_streams(streams(seen, lengths), most_bytes=230_000)
    assert sum(map(len, data.blobs.values())) <= 230_000
    assert [entry["stream"] for entry in data.index] == [0, 2, 4]
    assert seen == [0, 4, 2, 6]
    assert "3 of 8 streams" in left_out
    assert all(unpacked(data.blobs[entry["blob"]])["told"] for entry in data.index)
    ids = {entry[key] for entry in data.index for key in ("pool", "blob")}
    assert ids == data.blobs.keys()


def test_page_keeps_a_huge_reply() -> None:
    """A page keeps at least one stream, whatever its size, with complete texts."""
    data, left_out = select_streams(streams([], [1_000_000] * 2), most_turns=1, most_bytes=1)
    assert max(map(len, unpacked(data.blobs["pool-0"])["texts"])) == 1_000_000
    assert "1 of 2 streams" in left_out


@given(size=st.integers(1, 300), count=st.integers(1, 300))
def test_spread_is_even(size: int, count: int) -> None:
    """Every prefix of a spread covers the sequence evenly."""
    order = spread(size)
    assert sorted(order) == list(range(size))
    few = sorted(order[:count])
    gaps = [after - before for before, after in pairwise([*few, size])]
    assert few[0] == 0
    assert max(gaps) <= max(1, 4 * size // len(few))


def test_slow_baseline_needs_a_request() -> None:
    """With many turns the baseline is omitted unless requested, and the page says how to request it."""
    turns = frame([SAMPLE])
    unasked = chart_baseline(turns, None, wanted=True, max_turns=10)
    assert unasked.turns is None
    assert f"--baseline {LEARNER}" in unasked.note
    asked = chart_baseline(turns.filter(arm="stateless"), LEARNER, wanted=True, max_turns=10)
    assert asked.turns is not None
    assert asked.turns.height == 50


def test_missing_baseline_is_reported(tmp_path: Path) -> None:
    """A session that the learner cannot read has no baseline, and the page says so."""
    data = without_checksum((SAMPLE / "label-0.jsonl").read_text())
    (tmp_path / "edited.jsonl").write_text(data.replace('"question":"Image:', '"question":"Look:'))
    turns = frame([tmp_path])
    left_out = chart_baseline(turns, None, wanted=True)
    assert left_out.turns is None
    assert left_out.note.startswith("1 of 1 sessions have no baseline: ")
    text = page(turns, baseline=left_out)
    assert "1 of 1 sessions have no baseline" in text
    assert set(blobs(text)["session-0-0"]["image"]) == {None}


def test_a_missing_prompt_set_leaves_out_the_baseline(icl_loop: Command, tmp_path: Path) -> None:
    """Charts and reports are made without the baseline if its prompt set is gone, and say so."""
    prompts = tmp_path / "my.toml"
    prompts.write_text('extend = "plain"\n[told]\ncorrect = "Yes."')
    made = experiment(turns=3, task={"prompts": str(prompts)})
    folder = asyncio.run(Run(made, tmp_path).play()).folder
    prompts.unlink()
    for command, file in (("plot", "x.svg"), ("report", "x.html")):
        done = icl_loop(command, folder, "-o", tmp_path / file)
        assert done.returncode == 0
        assert "2 of 2 sessions have no baseline: prompt set" in done.stderr
        assert (tmp_path / file).exists()
    assert icl_loop("analyze", folder).returncode == 0
    asked = icl_loop("analyze", folder, "--baseline", LEARNER)
    assert asked.returncode == 2
    assert "my.toml cannot be read" in asked.stderr


def test_page_of_a_running_session_is_consistent(tmp_path: Path) -> None:
    """Turns played while the page is being made do not appear in it."""
    whole = (SAMPLE / "label-0.jsonl").read_bytes()
    growing = tmp_path / "label-0.jsonl"
    growing.write_bytes(b"".join(whole.splitlines(keepends=True)[:12]))
    turns = frame([tmp_path])
    early = chart_baseline(turns, None, wanted=True)
    expected = page(turns, baseline=early)
    growing.write_bytes(whole)
    late = chart_baseline(turns, None, wanted=True)
    for cast in (early, late):
        assert blobs(page(turns, baseline=cast)) == blobs(expected)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does."""
    code = "from icl_loop.cli import main; main()"
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_report_command_writes_the_page(tmp_path: Path) -> None:
    """`report` writes one file with the baseline and prints its path."""
    ran = run("report", SAMPLE, "-o", tmp_path / "r.html", "--primary", "label,none")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert str(tmp_path / "r.html") in ran.stdout
    text = (tmp_path / "r.html").read_text("utf-8")
    assert f"<code>{LEARNER}</code>" in text
    assert "This contrast was chosen after the fact." in text


def test_report_errors(tmp_path: Path) -> None:
    """A missing folder and an unknown learner each give one clear error."""
    ran = run("report", SAMPLE, "-o", tmp_path / "nowhere" / "r.html", "--no-baseline")
    assert ran.returncode == 2
    assert "r.html cannot be written: there is no folder" in ran.stderr
    ran = run("report", SAMPLE, "-o", tmp_path / "r.html", "--baseline", "reference/nearst")
    assert ran.returncode == 2
    assert "did you mean 'reference/nearest'?" in ran.stderr


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast(sample: str, scheme: str) -> None:
    """Text has a contrast of at least 4.5 to 1 in both colour schemes (WCAG 2.2)."""
    rules = re.findall(r":root \{([^}]*)\}", sample)
    colours = dict(
        re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", " ".join(rules[: 1 + (scheme == "dark")]))
    )
    names = [f"arm-text-{place}" for place in range(7)]
    for text in ("ink", "faint", "accent", "right", "wrong", *names):
        for ground in ("paper", *(["panel"] if text in ("ink", "faint") else [])):
            light, dark = sorted((luminance(colours[text]), luminance(colours[ground])))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


# ---- notes, probes and branches ----

NOTE = f"{HOSTILE[0]}\n{HOSTILE[2]}"
"""What the model notes down."""
REPLIES = [*HOSTILE[:2], *["Answer: 1"] * 3, NOTE, *["Answer: 2"] * 3, "Answer: 7", HOSTILE[4]]
"""To two probes, three turns, a note, three turns, and the probes again."""


async def scripted(made: Experiment, out: Path, replies: list[str]) -> Path:
    """Play a one-session experiment with scripted replies and return its transcript."""
    result = await Run(made, out, open_model=lambda _: ScriptedModel(replies)).play()
    (path,) = result.paths
    return path


@pytest.fixture(scope="module")
def notes_and_probes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A session with notes and probes, and a branch of it."""
    out = tmp_path_factory.mktemp("notes_and_probes")
    table = {
        "name": "notes_and_probes",
        "turns": 6,
        "streams": 1,
        "arms": [{"name": "noted"}],
        "context": {"policy": "notes(every=3, tokens=200) | last(3)"},
        "probes": {"at": [0, 6], "count": 2},
    }
    parent = asyncio.run(scripted(parse(table), out, REPLIES))
    made = branches([parent], 4, ["feedback.kind=label", "context.policy=all"])
    return parent, asyncio.run(scripted(made, out, [*["Answer: 3"] * 2, *REPLIES[-2:]]))


@pytest.fixture(scope="module")
def notes_and_probes_page(notes_and_probes: tuple[Path, Path]) -> str:
    """The report on a session with notes, probes and a branch."""
    return page(frame(notes_and_probes))


def test_page_contains_notes_probes_and_branches(
    notes_and_probes: tuple[Path, Path], notes_and_probes_page: str
) -> None:
    """Notes, probes with images and starts of branches are packed as saved."""
    found = blobs(notes_and_probes_page)
    for place, path in enumerate(notes_and_probes):
        session, pool, saved = found[f"session-{place}-0"], found[f"pool-{place}"], read(path)
        assert [pool["texts"][note["text"]] for note in session["notes"]] == [NOTE]
        assert [note["after"] for note in session["notes"]] == [3]
        assert [check["after"] for check in session["checkpoints"]] == [0, 6]
        probes = [
            (sample, pool["texts"][reply], label, bool(correct))
            for check in session["checkpoints"]
            for sample, reply, label, correct in zip(
                *(check[key] for key in ("sample", "reply", "label", "correct")), strict=True
            )
        ]
        assert probes == [(p.sample, p.reply.text, p.label, p.correct) for p in saved.probes]
        assert {pool["images"][each][0] for each in session["checkpoints"][0]["image"]} == {20}
    assert found["session-0-0"]["branches"] == []
    (branch,) = found["session-1-0"]["branches"]
    assert (branch["at"], branch["of"]) == (4, "noted")
    assert 'feedback.kind = "label", was "correctness"' in branch["changed"]


CHOICES = [f"Answer: 2 {HOSTILE[0]}", HOSTILE[4]]
"""How the model replies when it chooses the samples of the second and the fourth turn."""


@pytest.fixture(scope="module")
def choices_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on a session in which the model chooses every second sample."""
    out = tmp_path_factory.mktemp("choices")
    task = {"choice": {"every": 2, "among": 3}}
    table = {"name": "choices", "turns": 4, "streams": 1, "arms": [{"name": "all"}], "task": task}
    said = "Answer: 1"
    replies = [said, CHOICES[0], said, said, CHOICES[1], said]
    path = asyncio.run(scripted(parse(table), out, replies))
    (out / "report.html").write_text(page(frame([path])), encoding="utf-8")
    return out / "report.html"


def test_page_contains_choices(choices_file: Path) -> None:
    """Each choice is packed as saved: candidates, reply, and the sample of the turn after it."""
    found = blobs(choices_file.read_text(encoding="utf-8"))
    session, texts = found["session-0-0"], found["pool-0"]["texts"]
    (path,) = choices_file.parent.rglob("*.jsonl")
    saved = read(path).choices
    assert [texts[each["reply"]] for each in session["choices"]] == CHOICES
    for packed_choice, choice in zip(session["choices"], saved, strict=True):
        assert packed_choice["candidates"] == list(choice.candidates)
        assert packed_choice["sample"] == session["sample"][packed_choice["after"]] == choice.sample
    assert [each["outcome"] == "chosen" for each in session["choices"]] == [
        each.number is not None for each in saved
    ]


def test_tables_of_notes_probes_and_branches(notes_and_probes_page: str) -> None:
    """The tables show the number and length of notes, the number of probes, and branches."""
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", notes_and_probes_page))
    assert f"notes_and_probes / noted 1 1 {len(NOTE)} {len(NOTE)}" in text
    assert re.search(
        r"notes_and_probes / noted [0-9.]+ \([0-2] of 2\) [0-9.]+ \([0-2] of 2\)", text
    )
    assert re.search(r"is a branch of notes_and_probes / noted from turn 5 on", text)


def test_export_makes_the_same_page(
    notes_and_probes: tuple[Path, Path], notes_and_probes_page: str, sample: str, tmp_path: Path
) -> None:
    """The page of an export equals that of its transcripts, byte for byte."""
    runs = {
        "sample": (sample, [SAMPLE]),
        "notes_and_probes": (notes_and_probes_page, [*notes_and_probes]),
    }
    for name, (expected, saved) in runs.items():
        paths = [tmp_path / f"{name}.parquet"]
        export(saved, "parquet", *paths)
        command = "icl-loop report transcripts/sample" if name == "sample" else "icl-loop report"
        assert page(frame(paths), command=command, paths=paths) == expected


def test_absent_features_are_not_shown(sample: str, notes_and_probes_page: str) -> None:
    """Without notes, probes and branches the page shows neither headings nor text about them."""
    for fragment in (
        'id="probes"',
        'id="figure-probes"',
        "Notes taken by the model",
        "is a branch of",
    ):
        assert fragment in notes_and_probes_page
        assert fragment not in sample
    for name in (
        "event-keys",
        "next-event",
        "events",
        "note",
        "choice",
        "session-probes",
        "session-exemplars",
    ):
        assert re.search(rf'id="{name}"[^>]* hidden>', sample)


def branch_of(parent: Header, at: int) -> Header:
    """Return the header of a branch."""
    identity = BranchIdentity(at=at, sha256="", parent=parent.born().fields())
    return parent.model_copy(update={"arm": f"{parent.arm}-{at}", "branch": identity})


def test_lineage_matches_headers() -> None:
    """The lineage of nested branches names the header of every turn."""
    root = read(SAMPLE / "none-0.jsonl").header
    for header in (root, branch_of(branch_of(root, 5), 9), branch_of(branch_of(root, 9), 5)):
        parts = lineage(header)
        for turn in range(12):
            assert parts[place_of(parts, turn)][1].arm == header.at(turn).arm


def test_probes_without_data_have_no_image(
    notes_and_probes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If the data set changed or would have to be downloaded, probes are shown without images."""
    header = read(notes_and_probes[0]).header
    assert len(probe_questions(header)) == 2
    other = header.dataset.model_copy(update={"sha256": "0" * 64})
    assert probe_questions(header.model_copy(update={"dataset": other})) == {}
    monkeypatch.setenv("ICL_LOOP_DATA", str(tmp_path))
    monkeypatch.setenv("ICL_LOOP_CACHE", str(tmp_path))
    task = {**header.settings["task"], "dataset": "kmnist:test"}
    absent = header.model_copy(update={"settings": {**header.settings, "task": task}})
    assert probe_questions(absent) == {}
    assert not list(tmp_path.iterdir())


# ---- in a browser ----

Playing = Any
"""Anything of playwright, which need not be installed."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Playing]:
    """A headless browser."""
    api = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium on the path")
    async with api.async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        await opened.close()


class Visit:
    """A page open in the browser, with its console messages and requests."""

    def __init__(self, tab: Playing) -> None:
        self.tab = tab
        self.messages: list[str] = []
        self.requests: list[str] = []
        tab.on("console", lambda message: self.messages.append(message.text))
        tab.on("pageerror", lambda error: self.messages.append(str(error)))
        tab.on("dialog", lambda dialog: self.messages.append(dialog.message))
        tab.on("request", lambda request: self.requests.append(request.url))

    async def open(self, path: Path) -> "Visit":
        """Open a file and wait until its charts are drawn."""
        await self.tab.goto(path.as_uri())
        await self.tab.wait_for_selector("body[data-ready]", timeout=60_000)
        return self

    async def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(await self.tab.text_content(selector))

    @property
    def elsewhere(self) -> list[str]:
        """Requests for anything but the file itself."""
        return [url for url in self.requests[1:] if not url.startswith("data:")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def written(tmp_path_factory: pytest.TempPathFactory, sample: str) -> Path:
    """The report on the sample, as a file."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(sample, encoding="utf-8")
    return path


async def visit(browser: Playing, path: Path, **how: Playing) -> Visit:
    """Open a page in its own tab."""
    context = await browser.new_context(**how)
    return await Visit(await context.new_page()).open(path)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
async def test_layout_on_all_screens(
    browser: Playing, written: Path, width: int, scheme: str
) -> None:
    """On wide and narrow screens, light and dark: no errors, no requests, no horizontal overflow."""
    seen = await visit(
        browser, written, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    assert seen.messages == []
    assert seen.elsewhere == []
    assert await seen.tab.evaluate("document.documentElement.scrollWidth") == width
    drawn = await seen.tab.evaluate("document.querySelectorAll('.chart svg').length")
    assert drawn == await seen.tab.evaluate("document.querySelectorAll('.chart').length")
    paper = await seen.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    await seen.tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_arrow_keys_work_where_sessions_are_visible(browser: Playing, written: Path) -> None:
    """Arrow keys step while the sessions are visible; letter keys only work inside the browser."""
    seen = await visit(browser, written)
    await seen.tab.keyboard.press("ArrowRight")
    assert (await seen.text("#result")).startswith("turn 1 of ")
    await seen.tab.locator("#browser").scroll_into_view_if_needed()
    for key in ("ArrowRight", "e"):
        await seen.tab.keyboard.press(key)
    assert (await seen.text("#result")).startswith("turn 2 of ")
    await seen.tab.click("nav >> text=Sessions")
    await seen.tab.keyboard.press("ArrowRight")
    assert (await seen.text("#result")).startswith("turn 3 of ")
    await seen.tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("width", [400, 1280])
async def test_tables_say_that_they_scroll(browser: Playing, written: Path, width: int) -> None:
    """A table that is wider than the screen says so below its caption; on paper none does."""
    seen = await visit(browser, written, viewport={"width": width, "height": 900})
    said = "each => getComputedStyle(each.querySelector('caption'), '::after').content !== 'none'"
    tables, wide = seen.tab.locator("section > .wide"), list[bool]()
    for table in await tables.all():
        await table.scroll_into_view_if_needed()  # it is laid out when it comes near
        await seen.tab.wait_for_timeout(50)
        wide.append(await table.evaluate("each => each.scrollWidth > each.clientWidth + 1"))
        assert await table.evaluate(said) == wide[-1]
    assert any(wide) == (width == 400)
    await seen.tab.emulate_media(media="print")
    assert not any([await table.evaluate(said) for table in await tables.all()])
    await seen.tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_choices_are_shown_with_their_turn(browser: Playing, choices_file: Path) -> None:
    """A turn whose sample was chosen shows candidates and reply, as text; other turns show none."""
    seen = await visit(browser, choices_file)
    await seen.tab.locator("#browser").scroll_into_view_if_needed()
    for turn, reply in enumerate([None, CHOICES[0], None, CHOICES[1]], 1):
        assert (await seen.text("#result")).startswith(f"turn {turn} of ")
        assert await seen.tab.locator("#choice").is_visible() == (reply is not None)
        if reply is not None:
            sample = (await seen.text("#choice-facts")).split()[0]
            assert (
                sample in (await seen.text("#choice-facts")).split("Candidates: ")[1].split(". ")[0]
            )
            assert sample in await seen.text("#sample")
            assert await seen.text("#choice-reply") == reply
        await seen.tab.keyboard.press("ArrowRight")
    assert seen.messages == []
    assert seen.elsewhere == []
    await seen.tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_links_scroll_to_their_section(browser: Playing, notes_and_probes_file: Path) -> None:
    """A link scrolls its section to the top, past sections not yet painted."""
    seen = await visit(browser, notes_and_probes_file, viewport={"width": 400, "height": 800})
    await seen.tab.click("nav >> text=Sessions")
    await seen.tab.wait_for_timeout(100)
    top = await seen.tab.evaluate("document.getElementById('browser').getBoundingClientRect().top")
    assert abs(top - 16) < 2
    await seen.tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_keyboard_navigation(browser: Playing, written: Path) -> None:
    """The keyboard alone selects a session and steps through turns, errors and both ends."""
    seen = await visit(browser, written)
    tab = seen.tab
    for _ in range(60):
        await tab.keyboard.press("Tab")
        if await tab.evaluate("document.activeElement.id") == "arm":
            break
    await tab.keyboard.press("l")
    await tab.wait_for_function("document.getElementById('arm').value === 'label'")
    for place in ("stream", "filter", "turn"):
        while await tab.evaluate("document.activeElement.id") != place:
            await tab.keyboard.press("Tab")
    saved = read(SAMPLE / "label-0.jsonl").turns
    wrong = [turn.index for turn in saved if not turn.feedback.correct]
    await tab.keyboard.press("End")
    assert (await seen.text("#result")).startswith(f"turn {len(saved)} of ")
    await tab.keyboard.press("ArrowLeft")
    assert (await seen.text("#result")).startswith(f"turn {len(saved) - 1} of ")
    assert await seen.text("#reply") == saved[-2].reply.text
    await tab.keyboard.press("Home")
    await tab.keyboard.press("ArrowRight")
    await tab.keyboard.press("e")
    after = next(turn for turn in wrong if turn > 1)
    assert (await seen.text("#result")).startswith(f"turn {after + 1} of ")
    assert "wrong" in await seen.text("#result")
    assert seen.messages == []
    await tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_print_layout(browser: Playing, notes_and_probes_file: Path) -> None:
    """On A4 paper no column is cut off, and the shown session is named."""
    seen = await visit(browser, notes_and_probes_file, viewport={"width": 718, "height": 1000})
    await seen.tab.emulate_media(media="print")
    cut = "[...document.querySelectorAll('table')].filter((each) => each.offsetWidth > 718).length"
    assert await seen.tab.evaluate(cut) == 0
    assert await seen.tab.evaluate("document.documentElement.scrollWidth") == 718
    assert await seen.tab.is_visible("#arm")
    await seen.tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_latest_selection_wins(browser: Playing, written: Path) -> None:
    """A session that is slow to unpack does not replace one selected after it."""
    seen = await visit(browser, written)
    reply = await seen.text("#sample")
    await seen.tab.evaluate(
        """() => { for (const each of ["1", "0"]) { const stream = document.getElementById("stream");
            stream.value = each; stream.dispatchEvent(new Event("change")); } }"""
    )
    await seen.tab.wait_for_timeout(200)
    assert await seen.text("#sample") == reply
    await seen.tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_turn_filter(browser: Playing, written: Path) -> None:
    """With a filter on errors or a label, steps visit only those turns."""
    seen = await visit(browser, written)
    await seen.tab.select_option("#arm", "none")
    await seen.tab.wait_for_function("document.getElementById('arm').value === 'none'")
    await seen.tab.wait_for_timeout(100)
    saved = read(SAMPLE / "none-0.jsonl").turns
    await seen.tab.select_option("#filter", "errors")
    assert await seen.tab.get_attribute("#turn", "max") == str(
        sum(not turn.feedback.correct for turn in saved) - 1
    )
    label = saved[3].label
    await seen.tab.select_option("#filter", label=f"label {label}")
    await seen.tab.click("#first") if await seen.tab.is_enabled("#first") else None
    first = next(turn.index for turn in saved if turn.label == label)
    assert (await seen.text("#result")).startswith(f"turn {first + 1} of ")
    await seen.tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_window_selection(browser: Playing, written: Path) -> None:
    """Selecting a window size redraws the curves."""
    seen = await visit(browser, written)
    assert "windows of 5 turns" in await seen.text(".chart[data-figure=curves-0]")
    await seen.tab.select_option("#window", "20")
    await seen.tab.wait_for_selector(".chart[data-drawn='20']")
    assert "windows of 20 turns" in await seen.text(".chart[data-figure=curves-0]")
    assert seen.messages == []
    await seen.tab.context.close()


COUNTED = "document.querySelectorAll('a, script, iframe, img:not(#context img)').length"


@pytest.mark.asyncio(loop_scope="module")
async def test_model_text_stays_text(browser: Playing, tmp_path: Path) -> None:
    """Scripts, links, bidirectional marks and a megabyte of text only appear as text."""
    path = tmp_path / "report.html"
    path.write_text(page(frame([await hostile(tmp_path / "hostile")])), encoding="utf-8")
    seen = await visit(browser, path)
    title = await seen.tab.title()
    elements = await seen.tab.evaluate(COUNTED)
    await seen.tab.focus("#turn")
    await seen.tab.click("#reasoning-title")
    for index, reply in enumerate(HOSTILE):
        shown = await seen.tab.evaluate("document.getElementById('reply').textContent")
        reasoning = await seen.tab.evaluate("document.getElementById('reasoning').innerText")
        assert reasoning[:20].split() == shown[:20].split()
        if index == 2:
            assert "\u27e8U+202E\u27e9Answer: 2" in shown
            assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", shown)
        elif index == 3:
            assert len(shown) < 10_000
            await seen.tab.click("#reply button")
            more = await seen.tab.evaluate("document.getElementById('reply').textContent.length")
            assert len(shown) + 30_000 < more < len(reply)
            await seen.tab.focus("#turn")
        elif index != 1:
            assert shown == reply
        await seen.tab.keyboard.press("ArrowRight")
    assert await seen.tab.title() == title
    assert await seen.tab.evaluate(COUNTED) == elements
    assert seen.messages == []
    assert seen.elsewhere == []
    await seen.tab.context.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notes_and_probes_file(
    tmp_path_factory: pytest.TempPathFactory, notes_and_probes_page: str
) -> Path:
    """The report on a session with notes, probes and a branch, as a file."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(notes_and_probes_page, encoding="utf-8")
    return path


@pytest.mark.asyncio(loop_scope="module")
async def test_n_key_finds_notes_and_probes(browser: Playing, notes_and_probes_file: Path) -> None:
    """`n` jumps to notes and checkpoints; their text is only ever text."""
    seen = await visit(browser, notes_and_probes_file)
    tab, title = seen.tab, await seen.tab.title()
    await tab.focus("#turn")
    assert "Before this turn: 0 of 2 probes right." in await seen.text("#events")
    assert await tab.is_hidden("#note")
    elements = await tab.evaluate(COUNTED)
    await tab.keyboard.press("n")
    assert (await seen.text("#result")).startswith("turn 4 of ")
    assert await seen.text("#events") == "Before this turn the model rewrote its notes. "
    shown = await seen.text("#note-text")
    assert shown.startswith(HOSTILE[0])
    assert "\u27e8U+202E\u27e9Answer: 2" in shown
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", shown)
    assert "Written after 3 turns, just before this one" in await seen.text("#note-facts")
    assert "tokens in (local estimate)" in await seen.text("#note-facts")
    await tab.keyboard.press("ArrowRight")
    assert "1 turn before this one" in await seen.text("#note-facts")
    await tab.keyboard.press("n")
    assert "After this turn: " in await seen.text("#events")
    await tab.click("#events button")
    assert await tab.evaluate("document.activeElement.parentElement.id") == "after-6"
    await tab.wait_for_selector("#after-6 canvas")  # drawn when its list opens
    assert await tab.locator("#after-6 canvas").count() == 2
    assert HOSTILE[4] in await seen.text("#after-6")
    await tab.keyboard.press("N")
    assert (await seen.text("#result")).startswith("turn 4 of ")
    assert (await tab.title(), await tab.evaluate(COUNTED)) == (title, elements)
    assert (seen.messages, seen.elsewhere) == ([], [])
    await tab.context.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("width", "scheme"), SCREENS[1:3])
async def test_branch_start_is_marked(
    browser: Playing, notes_and_probes_file: Path, width: int, scheme: str
) -> None:
    """A branch start is marked on the curve, in the strip and in words."""
    size = {"width": width, "height": 800}
    seen = await visit(browser, notes_and_probes_file, viewport=size, color_scheme=scheme)
    tab = seen.tab
    await tab.select_option("#arm", index=1)
    await tab.wait_for_selector(".branch-label")
    assert await seen.text(".branch-label") == "branch of noted begins here"
    await tab.focus("#turn")
    for _ in range(2):
        await tab.keyboard.press("n")
    assert (await seen.text("#result")).startswith("turn 5 of ")
    assert 'feedback.kind = "label", was "correctness"' in await seen.text("#events")
    await tab.keyboard.press("ArrowRight")
    strip = "[...document.getElementById('context').children].map((each) => each.className === 'branch-mark')"
    assert await tab.evaluate(strip) == [False] * 4 + [True, False]
    assert await tab.evaluate("document.documentElement.scrollWidth") == width
    assert (seen.messages, seen.elsewhere) == ([], [])
    await tab.context.close()
