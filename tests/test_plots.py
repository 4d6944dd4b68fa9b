"""Chart files have the format of their extension, and names in the data cannot break them."""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hostile_names import PIECES, drawn, save_renamed
from icl_loop.analysis import conclude, conclude_each, frame
from icl_loop.analysis.arm_roles import by_model
from icl_loop.core.errors import InputError, StoppedShort
from icl_loop.core.names import distinct
from icl_loop.plots import (
    AnyChart,
    compared_chart,
    confusion_chart,
    contrast_chart,
    contrast_charts,
    curve_chart,
    outcome_chart,
    save,
    token_chart,
    token_panels,
)
from icl_loop.plots.line_charts import fitting_window
from icl_loop.plots.theme import COLOURS, HEIGHT, PAPER, TEXT_COLOURS, WIDTH, Look
from studies import HIGH, LOW, settings_of
from studies import played as studied

HOSTILE = "</script><script>alert(1)</script><!--"
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "object": "data"}

Arms = Mapping[str, Sequence[Sequence[bool]]]
LEARNER = [[t % 4 < k for t in range(30)] for k in (1, 2, 3)]


def frame_of(
    arms: Arms, *, experiment: str = "small", planned: int | None = None, chance: float = 0.1
) -> pl.DataFrame:
    """Return the columns of a frame that charts need, from series of correct answers by arm."""
    rows = [
        (experiment, arm, f"/home/someone/{experiment}/{arm}-{stream}.jsonl", stream, turn, right)
        for arm, sessions in arms.items()
        for stream, series in enumerate(sessions)
        for turn, right in enumerate(series)
    ]
    columns = ["experiment", "arm", "path", "stream", "turn", "correct"]
    turns = pl.DataFrame(rows, schema=columns, orient="row")
    planned = planned or max(len(series) for sessions in arms.values() for series in sessions)
    return turns.with_columns(
        turns=pl.lit(planned),
        chance=pl.lit(chance),
        exposure=1,
        model=pl.lit("m-1"),
        served_model=pl.lit("m-1-x"),
    )


def texts(svg: Path) -> dict[str, tuple[float, float]]:
    """Return the anchor of each text in an SVG file, parsed as XML."""
    found: dict[str, tuple[float, float]] = {}
    for group, place in _placed(ET.parse(svg).getroot(), (0.0, 0.0)):  # noqa: S314  our own file
        if group.tag.endswith("}text"):
            found |= dict.fromkeys(group.itertext(), place)
    return found


def _placed(
    node: ET.Element, at: tuple[float, float]
) -> list[tuple[ET.Element, tuple[float, float]]]:
    moved = re.search(r"translate\(([-\d.]+),([-\d.]+)\)", node.get("transform", ""))
    here = (at[0] + float(moved[1]), at[1] + float(moved[2])) if moved else at
    return [(node, here), *(each for child in node for each in _placed(child, here))]


class Page(HTMLParser):
    """The scripts of a page and the resources it would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.loaded: list[str] = []
        self._open = False
        self.text = path.read_text("utf-8")
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a script and what an element loads."""
        self._open = tag == "script"
        self.scripts += [""] * self._open
        self.loaded += [value or "" for name, value in attrs if LOADED.get(tag) == name]

    def handle_endtag(self, tag: str) -> None:
        """Record the end of a script."""
        self._open = self._open and tag != "script"

    def handle_data(self, data: str) -> None:
        """Record the text of a script."""
        if self._open:
            self.scripts[-1] += data

    @property
    def spec(self) -> dict[str, Any]:
        """The specification of the chart."""
        [line] = [line for line in self.scripts[-1].splitlines() if "const spec = " in line]
        found: dict[str, Any] = json.loads(line.partition("const spec = ")[2].rstrip(";"))
        return found


def test_png_has_double_resolution(tmp_path: Path) -> None:
    """A .png is an image of twice the plot's size plus margins."""
    save(curve_chart(frame_of({"a": LEARNER, "b": LEARNER[:1]})), tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"
        assert 2 * WIDTH < picture.width < 3 * WIDTH
        assert 2 * HEIGHT < picture.height < 3 * HEIGHT
        assert len(picture.convert("RGB").resize((200, 100)).getcolors(20_000) or []) > 10


def test_svg_contains_title_axes_and_names(tmp_path: Path) -> None:
    """A .svg is XML with the title, the axes, the names of all arms, and chance."""
    save(curve_chart(frame_of({"a <&> b": LEARNER, "フィ": LEARNER}), 5), tmp_path / "c.svg")
    assert texts(tmp_path / "c.svg").keys() >= {
        *("a <&> b", "フィ", "chance", "turn", "accuracy in windows of 5 turns"),
        *(
            "Learning curves: small",
            "6 sessions of 30 turns; model: m-1 (served as m-1-x)",
            "0",
            "30",
            "0%",
            "100%",
        ),
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a chart with a hostile experiment and arm name."""
    path = tmp_path_factory.mktemp("page") / "c.html"
    turns = [frame_of({HOSTILE: LEARNER}, experiment=name) for name in (HOSTILE, "b")]
    save(curve_chart(pl.concat(turns)), path)
    return Page(path)


def test_html_works_offline(page: Page) -> None:
    """A .html loads nothing, links nowhere and contains vega."""
    assert page.loaded == []
    assert len(page.scripts[0]) > 500_000
    assert "vegaEmbed" in page.scripts[0]
    assert '"editor": false' in page.scripts[-1]
    assert "@import" not in page.text.partition("<script")[0]


def test_names_cannot_break_the_page(page: Page) -> None:
    """Any arm or experiment name stays data: the page has exactly its two scripts."""
    assert len(page.scripts) == 2
    names = {row.get("name") for rows in page.spec["datasets"].values() for row in rows}
    assert names == {f"{HOSTILE} / {HOSTILE}", f"b / {HOSTILE}", "chance"}


def test_html_contains_no_paths(page: Page) -> None:
    """The location of the transcripts does not appear in the page."""
    assert "someone" not in page.text


def test_control_characters_are_replaced(tmp_path: Path) -> None:
    """Control and format characters in names become U+FFFD, so that an SVG stays valid XML."""
    save(curve_chart(frame_of({"a\x00\x1b[31m\u202eb\n": LEARNER})), tmp_path / "c.svg")
    assert "a\ufffd\ufffd[31m\ufffdb\ufffd" in texts(tmp_path / "c.svg")


def test_names_cannot_break_a_figure(tmp_path: Path) -> None:
    """Every figure of sessions with hostile names is valid XML and shows every arm by its name."""
    names = ["".join(PIECES[place::15]) for place in range(15)]
    save_renamed(names, tmp_path / "renamed", tmp_path / "played")
    shown = {re.sub("…$", "", name)[:20] for name in distinct(names[1:4])}
    for figure, chart in drawn(tmp_path / "renamed").items():
        file = tmp_path / f"{figure}.svg"
        save(chart, file)
        found = " ".join(texts(file))
        assert all(name in found for name in shown), figure


@given(st.lists(st.text(max_size=3) | st.sampled_from(PIECES)))
def test_names_that_differ_are_shown_as_different(names: list[str]) -> None:
    """Charts show names on one line without control characters, each different from the others."""
    shown = distinct(names)
    assert len(shown) == len(set(shown)) == len(names)
    assert not any(unicodedata.category(char)[0] == "C" for name in shown for char in name)
    assert not any(char in name for name in shown for char in "\u2028\u2029\n")
    assert all(len(name) <= 310 for name in shown)


@pytest.mark.parametrize("count", [1, 20])
def test_lines_are_distinguishable(count: int) -> None:
    """No two arms share both colour and dash pattern, even with more arms than colours."""
    spec = curve_chart(frame_of({f"arm {k}": [[True] * 9] for k in range(count)}), 3).to_dict()
    encodings = [layer["encoding"] for layer in spec["layer"]]
    [dashes] = [each["strokeDash"]["scale"] for each in encodings if "strokeDash" in each]
    colours = encodings[0]["color"]["scale"]
    assert colours["domain"] == dashes["domain"] == [f"arm {k}" for k in range(count)]
    looks = set(zip(colours["range"], map(tuple, dashes["range"]), strict=True))
    assert len(looks) == count
    assert len(set(COLOURS)) == len(COLOURS)


@settings(max_examples=8)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=12),
    chance=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_labels_do_not_overlap(counts: list[int], chance: float) -> None:
    """Labels keep their distance within the plot, in the order of the lines."""
    arms = {f"arm {k}": [[t < right for t in range(20)]] for k, right in enumerate(counts)}
    names = curve_chart(frame_of(arms, chance=chance)).layer[-1].data
    assert isinstance(names, pl.DataFrame)
    names = names.sort("height")
    assert set(names["name"]) == {*arms, "chance"}
    heights = names["height"].to_list()
    assert heights[0] >= -1e-9
    assert heights[-1] <= 1 + 1e-9
    assert all(HEIGHT * (upper - lower) > 14 for lower, upper in pairwise(heights))
    assert names["value"].is_sorted()


def test_labels_of_meeting_lines_do_not_overlap(tmp_path: Path) -> None:
    """Where all lines end at 0 or 1, their labels are stacked."""
    arms = {f"arm {k}": [[k < 5] * 30] * 2 for k in range(10)}
    save(curve_chart(frame_of(arms, chance=1 / 30)), tmp_path / "c.svg")
    drawn = texts(tmp_path / "c.svg")
    names = sorted(drawn[name] for name in [*arms, "chance"])
    assert len({across for across, _ in names}) == 1
    below = [down for _, down in names]
    assert all(lower - upper > 14 for upper, lower in pairwise(below))
    top, bottom = drawn["100%"][1], drawn["0%"][1]
    assert top - 2 <= below[0] < below[-1] <= bottom + 2


def test_axis_covers_planned_turns() -> None:
    """The x axis ends at the planned number of turns, even if fewer were played."""
    spec = curve_chart(frame_of({"a": LEARNER}, planned=200)).to_dict()
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == [0, 200]


@pytest.mark.parametrize(
    ("arms", "window"),
    [
        ({"a": [[True]]}, 20),
        ({"a": [[True, False], [True]]}, 1),
        ({"a": LEARNER, "b": [[True]] * 3}, 1_000),
        ({"a": [*LEARNER, [True]]}, 10),
    ],
)
def test_minimal_data_is_drawn(
    tmp_path: Path, arms: Arms, window: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """One session, one turn, or a window longer than any session is drawn without warnings."""
    save(curve_chart(frame_of(arms, planned=100), window), tmp_path / "c.svg")
    assert texts(tmp_path / "c.svg").keys() >= {*arms, "chance", "100"}
    assert capfd.readouterr() == ("", "")


def test_single_window_is_a_dot(tmp_path: Path) -> None:
    """An arm with only one window is drawn as a dot."""
    save(curve_chart(frame_of({"a": LEARNER}), 30), tmp_path / "one.svg")
    save(curve_chart(frame_of({"a": LEARNER}), 29), tmp_path / "two.svg")
    drawn = [(tmp_path / f"{name}.svg").read_text("utf-8") for name in ("one", "two")]
    dots = ['aria-roledescription="circle"' in svg for svg in drawn]
    assert dots == [True, False]


def test_experiments_are_named(tmp_path: Path) -> None:
    """Lines of several experiments are named by experiment and arm, each with its chance level."""
    turns = pl.concat(
        [
            frame_of({"a": LEARNER}, experiment="one", chance=0.1),
            frame_of({"a": LEARNER, "b": LEARNER}, experiment="two", chance=0.5, planned=60),
        ]
    )
    save(curve_chart(turns), tmp_path / "c.svg")
    drawn = texts(tmp_path / "c.svg")
    assert drawn.keys() >= {"one / a", "two / a", "two / b", "Learning curves"}
    assert "9 sessions of 30 or 60 turns; model: m-1 (served as m-1-x)" in drawn
    rows = [row for rows in curve_chart(turns).to_dict()["datasets"].values() for row in rows]
    assert {row["value"] for row in rows if row.get("name") == "chance"} == {0.1, 0.5}


def marks(chart: AnyChart, kind: str) -> list[dict[str, Any]]:
    """Return the layers of a kind of mark, as Vega-Lite."""
    layers: list[dict[str, Any]] = chart.to_dict()["layer"]
    return [layer for layer in layers if layer["mark"]["type"] == kind]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_the_default_window_fits_short_sessions(lengths: list[int]) -> None:
    """By default a window is 20 turns, but at most a fifth of the longest session."""
    turns = frame_of({"a": [[True] * length for length in lengths]}, planned=60)
    window = fitting_window(turns)
    assert 1 <= window <= 20
    assert window <= max(1, max(lengths) / 5)


def test_curves_use_the_default_window() -> None:
    """A curve without a window given is drawn with the default one."""
    turns = frame_of({"a": [[True] * 30, [turn % 3 > 0 for turn in range(30)]]}, planned=60)
    default, fitting, other = (
        curve_chart(turns, *window).to_dict() for window in ((), (fitting_window(turns),), (11,))
    )
    assert default == fitting != other


def test_the_axis_covers_turns_beyond_the_plan() -> None:
    """A session that played more turns than planned is drawn inside the axis."""
    turns = frame_of({"a": [[True] * 40]}, planned=20)
    [line, *_] = marks(curve_chart(turns), "line")
    assert line["encoding"]["x"]["scale"]["domain"] == [0, 40]


@pytest.mark.parametrize("count", [2, 3])
def test_equal_curves_stay_visible(count: int) -> None:
    """Lines of arms with equal curves are drawn in pieces, so that each is visible somewhere."""
    equal = {f"arm {k}": [[t % 3 > 0 for t in range(30)]] for k in range(count)}
    drawn = marks(curve_chart(frame_of(equal | {"other": [[False] * 30]})), "line")[-1]
    *strokes, other = drawn["encoding"]["strokeDash"]["scale"]["range"]
    assert strokes[0] == other == []
    period = sum(strokes[1])
    pixels = [0] * period  # the arm on top at each pixel of a period
    for place, (dash, gap) in enumerate(strokes[1:], start=1):
        assert dash + gap == period
        pixels[:dash] = [place] * dash
    assert {pixels.count(place) for place in range(count)} == {period // count}


def test_an_arm_called_chance_is_told_from_the_chance_line(tmp_path: Path) -> None:
    """The chance line is grey and has another name than an arm called `chance`."""
    chart = curve_chart(frame_of({"chance": LEARNER}))
    labels = chart.layer[-1].data
    assert isinstance(labels, pl.DataFrame)
    assert set(labels.select("name", "colour").iter_rows()) == {
        ("chance", TEXT_COLOURS[0]),
        ("chance level", PAPER.faint),
    }
    save(chart, tmp_path / "c.svg")
    assert {"chance", "chance level"} <= texts(tmp_path / "c.svg").keys()


def test_pdf_is_one_page_with_text(tmp_path: Path) -> None:
    """A .pdf has one page and embeds its fonts."""
    save(curve_chart(frame_of({"a": LEARNER})), tmp_path / "c.pdf")
    written = (tmp_path / "c.pdf").read_bytes()
    assert written.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", written)) == 1
    assert b"/FontFile" in written


@pytest.mark.parametrize("draw", [curve_chart, compared_chart, token_chart, confusion_chart])
def test_every_figure_obeys_its_look(played: pl.DataFrame, draw: Callable[..., AnyChart]) -> None:
    """A look sets title and size of each figure, and can leave the caption out."""
    look = Look(title="Mine", width=321, height=123, captions=False)
    for spec, captioned in (
        (draw(played).to_dict(), True),
        (draw(played, look=look).to_dict(), False),
    ):
        assert spec["title"]["anchor"] == "start"
        assert ("subtitle" in spec["title"]) == captioned
        assert (spec["title"]["text"] == "Mine") != captioned
        sizes = {(each["width"], each["height"]) for each in spec.get("concat", [spec])}
        assert (sizes == {(321, 123)}) != captioned


def thin_lines(turns: pl.DataFrame, window: int) -> list[dict[str, Any]]:
    """Return the points of the lines of single sessions."""
    spec = curve_chart(turns, window).to_dict()
    points: list[dict[str, Any]] = spec["datasets"][spec["layer"][0]["data"]["name"]]
    return points


def test_chart_size_is_bounded() -> None:
    """However many sessions there are, single ones are drawn with a bounded number of points."""
    many = frame_of({"a": LEARNER * 100, "b": LEARNER * 5})
    rows = thin_lines(many, 1)
    drawn = {name: {row["path"] for row in rows if row["name"] == name} for name in "ab"}
    assert (len(drawn["a"]), len(drawn["b"])) == (20, 15)
    assert "some of the sessions" in curve_chart(many).to_dict()["title"]["subtitle"][1]
    rows = thin_lines(frame_of({f"{k}": [[True] * 2_000] * 3 for k in range(3)}), 20)
    assert PAPER.points / 2 < len(rows) <= PAPER.points


def test_plot_errors(tmp_path: Path) -> None:
    """No turns, an unknown extension and a missing folder each give one clear error."""
    turns = frame_of({"a": LEARNER})
    with pytest.raises(InputError, match="no turns"):
        curve_chart(turns.clear())
    chart = curve_chart(turns)
    with pytest.raises(InputError, match=r"c\.pgn .*did you mean .\.png."):
        save(chart, tmp_path / "c.pgn")
    with pytest.raises(StoppedShort, match=r"c\.svg cannot be written: No such file"):
        save(chart, tmp_path / "nowhere" / "c.svg")


SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"


@pytest.fixture(scope="module")
def played() -> pl.DataFrame:
    """The turns of the shipped sample."""
    return frame([SAMPLE])


@pytest.mark.parametrize("draw", [token_chart, confusion_chart, outcome_chart])
def test_every_figure_names_its_arms(
    played: pl.DataFrame, tmp_path: Path, draw: Callable[[pl.DataFrame], AnyChart]
) -> None:
    """Each figure of saved sessions is drawn without warnings and names every arm."""
    save(draw(played), tmp_path / "c.svg")
    drawn = " ".join(texts(tmp_path / "c.svg"))
    assert all(arm in drawn for arm in set(played["arm"]))


def test_contrast_chart_shows_numbers(played: pl.DataFrame, tmp_path: Path) -> None:
    """Each contrast has a row with its difference; without a primary contrast there is an error."""
    [conclusion] = conclude_each(played, ("label", "none"))
    assert conclusion.primary is not None
    assert conclusion.primary.theta is not None
    save(contrast_chart(conclusion), tmp_path / "c.svg")
    assert {"label - none", f"{100 * conclusion.primary.theta:+.1f}"} <= texts(
        tmp_path / "c.svg"
    ).keys()
    with pytest.raises(InputError, match="no primary contrast"):
        contrast_charts(conclude_each(played))


def test_long_names_of_contrasts_are_not_cut(tmp_path: Path) -> None:
    """Long names take several lines in rows of their own, and every character is drawn."""
    first, second = (f"arm-{t}_model=some-model-7b_temperature={t}" for t in (0.7, 1.3))
    found = conclude(studied({first: HIGH, second: LOW}), (first, second))
    save(contrast_chart(found), tmp_path / "c.svg")
    drawn = texts(tmp_path / "c.svg")
    assert not any("\u2026" in text for text in drawn)
    lines = [text for text in drawn if len(text) > 4 and text in f"{first}- {second}"]
    assert "".join(lines) == f"{first}- {second}"
    assert max(map(len, lines)) <= 36


def test_single_contrast_has_no_empty_layer(played: pl.DataFrame) -> None:
    """Marks of secondary contrasts exist only if there are any: browsers warn of empty layers."""
    alone = played.filter(pl.col("arm").is_in(["label", "none"]))
    for turns, dots in ((alone, 1), (played, 2)):
        [conclusion] = conclude_each(turns, ("label", "none"))
        layers = contrast_chart(conclusion).to_dict()["layer"]
        assert sum(each["mark"]["type"] == "point" for each in layers) == dots


def test_token_chart_separates_cached_tokens(played: pl.DataFrame) -> None:
    """Cached and uncached tokens are separate and add up to the prompt's."""
    used = played.with_columns(prompt=pl.col("turn") * 10 + 5, cached=pl.col("turn") * 4)
    for panel in token_panels(used).values():
        [values] = panel.to_dict()["datasets"].values()
        rows = pl.DataFrame(values)
        sums = rows.group_by("turn").agg(pl.col("value").sum()).sort("turn")
        assert sums["value"].to_list() == [turn * 10 + 5 for turn in sums["turn"]]
        assert set(rows["tokens"]) == {"cached", "uncached"}


def test_baseline_curves(played: pl.DataFrame) -> None:
    """The baseline has one dotted curve per arm, in the colour of the arm."""
    baseline = played.select("path", "turn", baseline=pl.lit(value=True))
    spec = curve_chart(played, 5, baseline, learner="reference/nearest").to_dict()
    [dotted] = [
        layer["data"]["name"]
        for layer in spec["layer"]
        if layer["mark"].get("strokeDash") == [1, 2]
    ]
    rows = spec["datasets"][dotted]
    assert {row["name"] for row in rows} == set(played["arm"])
    assert {row["accuracy"] for row in rows} == {1.0}
    assert "reference/nearest" in spec["title"]["subtitle"][-1]


def test_compared_runs_share_scales(tmp_path: Path) -> None:
    """Each run has a panel, all have one window, and arms of the same name share a colour."""
    runs = [frame_of({"a": LEARNER, name: LEARNER}, experiment=name) for name in ("one", "two")]
    short = frame_of({"a": [[True] * 10], "two": [[False] * 10]}, experiment="three")
    fitting = compared_chart(pl.concat([*runs, short])).to_dict()["concat"]
    windows = {
        layer["encoding"]["y"]["title"]
        for panel in fitting
        for layer in panel["layer"]
        if "accuracy in" in str(layer["encoding"].get("y"))
    }
    assert windows == {"accuracy in windows of 2 turns"}
    chart = compared_chart(pl.concat(runs), 5)
    scales = {
        json.dumps(layer["encoding"]["color"]["scale"])
        for panel in chart.to_dict()["concat"]
        for layer in panel["layer"]
        if "scale" in (layer["encoding"].get("color") or {}) and layer["encoding"]["color"]["scale"]
    }
    assert len(scales) == 1
    save(chart, tmp_path / "c.svg")
    assert {"one", "two", "a"} <= texts(tmp_path / "c.svg").keys()


def test_models_have_their_own_panels() -> None:
    """Each model has a panel, in which arms in the same place have the same colour."""
    arms = {"a_feedback": LEARNER, "a_none": LEARNER, "b_feedback": LEARNER, "b_none": LEARNER}
    known = settings_of(
        {
            arm: {"setup": f'{{"model": {{"name": "{arm[0]}"}}}}', "experiment": "one"}
            for arm in arms
        }
    )
    turns = frame_of(arms, experiment="one")
    separate = by_model(turns, known)
    assert separate["experiment"].unique().sort().to_list() == ["one / a", "one / b"]
    panels = compared_chart(separate, 5).to_dict()["concat"]
    colours = [
        {
            json.dumps(layer["encoding"]["color"]["scale"]["range"])
            for layer in panel["layer"]
            if (layer["encoding"].get("color") or {}).get("scale")
        }
        for panel in panels
    ]
    assert len(panels) == 2
    assert colours[0] == colours[1]
    assert by_model(turns, known.filter(pl.col("arm").str.starts_with("a"))).equals(turns)


def test_svg_embeds_its_font(tmp_path: Path) -> None:
    """An SVG contains its font and loads nothing."""
    save(curve_chart(frame_of({"a": LEARNER})), tmp_path / "c.svg")
    drawn = (tmp_path / "c.svg").read_text("utf-8")
    assert "@font-face" in drawn
    assert 'font-family="Aileron' in drawn
    assert set(re.findall(r"url\((.{10})", drawn)) == {'"data:font'}


@pytest.mark.parametrize("colour", TEXT_COLOURS)
def test_label_contrast(colour: str) -> None:
    """Labels have a contrast of at least 4.5 to 1 on white (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    luminance = sum(
        weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )
    assert 1.05 / (luminance + 0.05) >= 4.5
