"""The HTML report: results, charts and every turn of some sessions in one offline file."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import starmap
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from icl_loop.analysis import (
    ArmSummary,
    Checkpoint,
    Conclusion,
    checkpoints,
    conclude_each,
    difference_sentence,
    measure,
    model_differences,
    models_played,
    nearest_turns,
    notes,
    probes,
    sentence,
    sessions,
    summarise,
    verdict_effects,
    warnings,
)
from icl_loop.analysis.answer_problems import problems
from icl_loop.analysis.arm_roles import by_model
from icl_loop.analysis.baseline import LEARNER, BaselineResult, compare_with_baseline
from icl_loop.analysis.graded_learning import (
    graded_arms,
    graded_contrasts,
    graded_sentence,
    graded_turns,
)
from icl_loop.analysis.side_requests import choice_sentences, note_usage
from icl_loop.analysis.spending import spending
from icl_loop.analysis.use_of_feedback import (
    Nearest,
    feedback_use_contrasts,
    feedback_use_sentence,
)
from icl_loop.core.names import printable
from icl_loop.plots.answer_charts import CLASSES, MOST_LABELS, outcome_chart
from icl_loop.plots.contrasts import contrast_chart
from icl_loop.plots.curves import MAX_WITH_THIN, curve_chart, curve_panels
from icl_loop.plots.graded_learning import calibration_chart, score_chart
from icl_loop.plots.line_charts import fitting_window
from icl_loop.plots.probes import probe_chart
from icl_loop.plots.theme import PAGE
from icl_loop.plots.token_usage import exposure_chart, knows_tokens, reports_tokens, token_panels
from icl_loop.report.page_budget import MOST_BYTES, MOST_TURNS, Stream, select_streams
from icl_loop.report.session_browser import NamedSession, packed
from icl_loop.report.session_headers import branches, experiment_file
from icl_loop.report.table_cells import (
    answer_tables,
    interval,
    number,
    outcome_rows,
    p_value,
    points,
    probe_rows,
)
from icl_loop.terminal.formatting import decimals, percent
from icl_loop.transcripts import Header, Transcript
from icl_loop.transcripts.header import VERSION
from icl_loop.transcripts.loading import SavedSession, saved_sessions

WINDOWS = (5, 10, 20, 50, 100)
"""Window sizes in turns that the reader can choose from."""
MOST_COMPARED = 50_000
"""Maximum number of turns for which nearest samples are computed."""
NO_BASELINE = BaselineResult(LEARNER, None)
_FILTERS = {
    "printable": printable,
    "percent": percent,
    "decimals": decimals,
    "number": number,
    "points": points,
    "interval": interval,
    "p_value": p_value,
    "sentence": sentence,
    "difference_sentence": difference_sentence,
}


def page(
    turns: pl.DataFrame,
    primary: tuple[str, str] | None = None,
    baseline: BaselineResult = NO_BASELINE,
    command: str = "icl-loop report",
    most_turns: int = MOST_TURNS,
    most_bytes: int = MOST_BYTES,
    paths: Iterable[Path] | None = None,
) -> str:
    """Return the report on a frame of turns as HTML.

    Args:
        turns: The result of `frame`.
        primary: The arms of the primary contrast, if not the recorded ones.
        baseline: The baseline of the turns.
        command: The command that made the page, shown in its footer.
        most_turns: Maximum number of turns to step through; above it, evenly chosen streams are kept.
        most_bytes: Maximum size of these turns in the page, in bytes.
        paths: The paths given to `frame`; by default the transcripts that the turns come from.
    """
    played = turns["path"].unique(maintain_order=True)
    paths = list(paths or map(Path, played))
    saved = saved_sessions(paths)
    headers = {path: saved[path].header() for path in played}
    has_turns = pl.col("path").is_in(played.implode())
    known = sessions(paths).filter(has_turns)
    probed = probes(paths).filter(has_turns)
    conclusions = conclude_each(turns, primary, known, probed, paths)
    checks = checkpoints(probed)
    streams = _streams(turns, saved, baseline)
    browser, left_out = select_streams(streams, most_turns, most_bytes)
    experiments = turns["experiment"].unique(maintain_order=True).to_list()
    summaries = summarise(turns)
    graded = graded_turns(turns, paths)
    nearest = nearest_turns(paths) if turns.height <= MOST_COMPARED else {}
    separate = by_model(turns, known)
    panels = [""] if separate is turns else separate["experiment"].unique(maintain_order=True)
    figures = _figures(turns, conclusions, checks, graded) | _curves(separate, baseline, panels)
    return _render(
        experiments=experiments,
        several=len(experiments) > 1,
        models=models_played(turns) or ["the model"],
        conclusions=conclusions,
        differences=model_differences(conclusions),
        problems=problems(turns, paths),
        arms=_arms(turns, summaries, known, baseline, paths, nearest),
        feedback_sentences=starmap(
            feedback_use_sentence, feedback_use_contrasts(turns, nearest, conclusions)
        ),
        warnings=[*warnings(summaries), *choice_sentences(turns, paths)],
        windows=_windows(separate),
        window=_default_window(separate),
        panels=panels,
        thin=turns.select("experiment", "arm").n_unique() <= MAX_WITH_THIN * len(panels),
        answers=answer_tables(turns),
        most_labels=MOST_LABELS,
        classes=list(CLASSES),
        outcomes=outcome_rows(turns),
        checkpoints=sorted({each.after_turn for each in checks}),
        probes=probe_rows(checks),
        effects=verdict_effects(probed),
        graded=[] if graded is None else graded_arms(graded),
        graded_sentences=[]
        if graded is None
        else map(graded_sentence, graded_contrasts(graded, conclusions)),
        notes=note_usage(notes(paths).filter(has_turns)),
        baseline=baseline,
        figures={name: packed(figure) for name, figure in figures.items()},
        index=browser.index,
        blobs=browser.blobs,
        left_out=left_out,
        runs=_runs(turns, headers),
        reported=reports_tokens(turns),
        command=command,
        version=VERSION,
    )


def _arms(
    turns: pl.DataFrame,
    summaries: Sequence[ArmSummary],
    known: pl.DataFrame,
    baseline: BaselineResult,
    paths: Sequence[Path],
    nearest: Nearest,
) -> list[dict[str, Any]]:
    """Return the results of each arm."""
    compared = (
        compare_with_baseline(turns, baseline.turns, known, baseline.learner)
        if baseline.turns is not None
        else []
    )
    baselines = {(each.experiment, each.arm): each for each in compared}
    metrics = measure(turns, nearest)
    return [
        {
            "summary": summary,
            "metrics": measured,
            "spent": spent,
            "baseline": baselines.get((summary.experiment, summary.arm)),
        }
        for summary, measured, spent in zip(
            summaries, metrics, spending(turns, paths=paths), strict=True
        )
    ]


def _windows(turns: pl.DataFrame) -> list[int]:
    """Return the window sizes to choose from: the default, and those that fit the sessions."""
    longest = max(turns["turn"]) + 1
    return sorted({_default_window(turns), *(size for size in WINDOWS if size <= longest)})


def _default_window(turns: pl.DataFrame) -> int:
    """Return the window that `plot` uses: one that fits the shortest experiment."""
    return min(map(fitting_window, turns.select("experiment", "turn").partition_by("experiment")))


def _figures(
    turns: pl.DataFrame,
    conclusions: Sequence[Conclusion],
    checks: Sequence[Checkpoint],
    graded: pl.DataFrame | None,
) -> dict[str, Any]:
    """Return the Vega-Lite specifications of all charts but the curves, by name."""
    charts = {
        f"contrasts-{place}": contrast_chart(each, PAGE)
        for place, each in enumerate(conclusions)
        if each.primary is not None and each.primary.k
    }
    if turns["exposure"].count():
        charts["exposure"] = exposure_chart(turns, PAGE)
    charts["outcomes"] = outcome_chart(turns, PAGE)
    if knows_tokens(turns):
        panels = token_panels(turns, PAGE).values()
        charts |= {f"tokens-{place}": each for place, each in enumerate(panels)}
    if checks:
        charts["probes"] = probe_chart(turns, checks, PAGE)
    if graded is not None:
        charts["log-loss"] = score_chart(graded, look=PAGE)
        charts["calibration"] = calibration_chart(graded, PAGE)
    return {name: chart.to_dict() for name, chart in charts.items()}


def _curves(
    turns: pl.DataFrame, baseline: BaselineResult, panels: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Return the specifications of the learning curves in each panel, by window size.

    The panels are experiments in `turns`; a single one without a name holds all of them.
    """
    drawn = {
        size: curve_panels(turns, size, baseline.turns, PAGE)
        if all(panels)
        else {"": curve_chart(turns, size, baseline.turns, PAGE)}
        for size in _windows(turns)
    }
    return {
        f"curves-{place}": {str(size): charts[name].to_dict() for size, charts in drawn.items()}
        for place, name in enumerate(panels)
    }


def _streams(
    turns: pl.DataFrame, saved: Mapping[str, SavedSession], baseline: BaselineResult
) -> list[Stream]:
    """Return the streams of each experiment; the sessions of a stream share their samples."""
    right: dict[str, dict[int, bool]] = {}
    if baseline.turns is not None:
        for path, turn, correct in baseline.turns.select("path", "turn", "baseline").iter_rows():
            right.setdefault(path, {})[turn] = correct
    reached = dict(turns.group_by("path").agg(pl.col("turn").max() + 1).iter_rows())

    def read(name: str, paths: Sequence[str]) -> Iterator[NamedSession]:
        for path in paths:
            yield NamedSession(name, _until(saved[path].read(), reached[path]), right.get(path, {}))

    grouped = turns.group_by("experiment", "stream").agg(
        pl.col("path").unique(maintain_order=True), pl.len()
    )
    return [
        Stream(count, partial(read, experiment, paths))
        for experiment, _, paths, count in grouped.sort("experiment", "stream").iter_rows()
    ]


def _until(saved: Transcript, turns: int) -> Transcript:
    """Return a session as it was when the frame was read; a running session keeps growing."""
    if len(saved.turns) <= turns:
        return saved
    return replace(
        saved,
        turns=saved.turns[:turns],
        end=None,
        probes=tuple(probe for probe in saved.probes if probe.after_turn <= turns),
        notes=tuple(note for note in saved.notes if note.after_turn <= turns),
        choices=tuple(choice for choice in saved.choices if choice.after_turn < turns),
    )


def _runs(turns: pl.DataFrame, headers: dict[str, Header]) -> list[dict[str, Any]]:
    """Return the experiment file and the branches of each experiment."""
    paths = turns.group_by("experiment", maintain_order=True).agg(
        pl.col("path").unique(maintain_order=True)
    )
    runs = [(name, [headers[path] for path in played]) for name, played in paths.iter_rows()]
    return [
        {
            "name": name,
            "file": experiment_file(played),
            "version": played[0].icl_loop,
            "branches": branches(played),
        }
        for name, played in runs
    ]


def _render(**context: Any) -> str:  # noqa: ANN401  the template takes anything
    loader = PackageLoader("icl_loop.report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= _FILTERS
    style, script = (loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))
    scripts = (_chart_library(), script)
    return environment.get_template("page.html").render(
        **context,
        policy=_policy(style, scripts),
        style=Markup(style),  # noqa: S704  our own file
        scripts=[Markup(each) for each in scripts],  # noqa: S704  our own file and the chart library
    )


@lru_cache(maxsize=1)
def _chart_library() -> str:
    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub has no default


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Return a content security policy that allows only the page's own scripts, styles and images."""
    return (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    """Return the source expression of an inline element (CSP Level 3, section 2.3.1)."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
