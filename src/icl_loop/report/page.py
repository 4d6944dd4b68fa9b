"""The HTML report: results, charts and every turn of some sessions in one offline file."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from icl_loop.analysis import (
    ArmMetrics,
    Checkpoint,
    Conclusion,
    checkpoints,
    conclude_each,
    measure,
    nearest_pictures,
    notes,
    probes,
    sentence,
    sessions,
    summarise,
    warnings,
)
from icl_loop.analysis.baseline import LEARNER, ArmBaseline, BaselineResult, compare_with_baseline
from icl_loop.analysis.side_requests import note_usage
from icl_loop.analysis.spending import spending
from icl_loop.plots.answer_charts import MOST_LABELS, outcome_chart
from icl_loop.plots.contrasts import contrast_chart
from icl_loop.plots.curves import MAX_WITH_THIN, curve_chart
from icl_loop.plots.probes import probe_chart
from icl_loop.plots.theme import PAGE
from icl_loop.plots.token_usage import exposure_chart, knows_tokens, reports_tokens, token_panels
from icl_loop.report.branch_history import branch_rows
from icl_loop.report.experiment_settings import experiment_file
from icl_loop.report.page_budget import MOST_BYTES, MOST_TURNS, Stream, select_streams
from icl_loop.report.page_data import in_script, packed
from icl_loop.report.page_tables import (
    answer_tables,
    arm_rows,
    contrast_rows,
    note_rows,
    outcome_rows,
    probe_table,
    question_rows,
)
from icl_loop.report.session_browser import NamedSession
from icl_loop.terminal.formatting import printable
from icl_loop.transcripts import Header, Transcript
from icl_loop.transcripts.header import VERSION
from icl_loop.transcripts.loading import SavedSessions

WINDOWS = (5, 10, 20, 50, 100)
"""Window sizes in turns that the reader can choose from."""
MOST_PICTURES = 50_000
"""Maximum number of turns for which nearest images are computed."""


NO_BASELINE = BaselineResult(LEARNER, None)


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
    archive, known = SavedSessions.at(paths), sessions(paths)
    has_turns = pl.col("path").is_in(played.implode())
    known = known.filter(has_turns)
    conclusions = conclude_each(turns, primary, known)
    streams = _streams(turns, archive, baseline)
    browser, left_out = select_streams(streams, most_turns, most_bytes)
    checks = checkpoints(probes(paths).filter(has_turns))
    figures = _figures(turns, conclusions, baseline, checks)
    headers = [archive.header(path) for path in played]
    return _render(
        experiments=turns["experiment"].unique(maintain_order=True).to_list(),
        models=sorted({str(_model(header)) for header in headers}),
        conclusions=[_verdict(each) for each in conclusions],
        arms=_arms(turns, known, baseline, paths),
        notes=warnings(summarise(turns)),
        windows=_windows(turns),
        thin=turns.select("experiment", "arm").n_unique() <= MAX_WITH_THIN,
        answers=answer_tables(turns),
        most_labels=MOST_LABELS,
        outcomes=outcome_rows(turns),
        probes=probe_table(checks),
        taken=note_rows(note_usage(notes(paths).filter(has_turns))),
        baseline=baseline,
        figures={name: packed(figure) for name, figure in figures.items()},
        index=in_script(browser.index),
        blobs=browser.blobs,
        left_out=left_out,
        runs=_runs(turns, headers),
        reported=reports_tokens(turns),
        command=command,
        version=VERSION,
    )


def _model(header: Header) -> str | None:
    model = header.settings.get("model")
    return model.get("name") if isinstance(model, dict) else None


def _verdict(conclusion: Conclusion) -> dict[str, Any]:
    return {
        "experiment": conclusion.experiment,
        "verdict": conclusion.verdict or "no verdict",
        "sentence": sentence(conclusion),
        "contrasts": contrast_rows(conclusion),
        "ladder": question_rows(conclusion),
        "notes": conclusion.warnings,
    }


def _arms(
    turns: pl.DataFrame, known: pl.DataFrame, baseline: BaselineResult, paths: Sequence[Path]
) -> list[dict[str, Any]]:
    baselines: Sequence[ArmBaseline] = (
        ()
        if baseline.turns is None
        else compare_with_baseline(turns, baseline.turns, known, baseline.learner)
    )
    spent = spending(turns, paths=paths)
    return arm_rows(summarise(turns), _metrics(turns, paths), baselines, spent)


def _metrics(turns: pl.DataFrame, paths: Sequence[Path]) -> list[ArmMetrics]:
    return measure(turns, nearest_pictures(paths) if turns.height <= MOST_PICTURES else {})


def _windows(turns: pl.DataFrame) -> list[int]:
    """Return the window sizes that fit the sessions, at least one."""
    longest = turns.group_by("path").len()["len"].max()
    return [size for size in WINDOWS if size <= longest] or [WINDOWS[0]]  # type: ignore[operator]  # a column of integers


def _curves(turns: pl.DataFrame, baseline: BaselineResult) -> dict[str, Any]:
    return {
        str(size): curve_chart(turns, size, baseline.turns, PAGE).to_dict()
        for size in _windows(turns)
    }


def _figures(
    turns: pl.DataFrame,
    conclusions: Sequence[Conclusion],
    baseline: BaselineResult,
    checks: Sequence[Checkpoint],
) -> dict[str, Any]:
    """Return the Vega-Lite specifications of all charts by name."""
    contrasts = {
        f"contrasts-{place}": contrast_chart(each, PAGE)
        for place, each in enumerate(conclusions)
        if each.primary is not None and each.primary.k
    }
    tokens = token_panels(turns, PAGE).values() if knows_tokens(turns) else ()
    charts = {
        **contrasts,
        "exposure": exposure_chart(turns, PAGE),
        **{f"tokens-{place}": each for place, each in enumerate(tokens)},
        "outcomes": outcome_chart(turns, PAGE),
        **({"probes": probe_chart(turns, checks, PAGE)} if checks else {}),
    }
    return {
        "curves": _curves(turns, baseline),
        **{name: chart.to_dict() for name, chart in charts.items()},
    }


def _streams(turns: pl.DataFrame, archive: SavedSessions, baseline: BaselineResult) -> list[Stream]:
    """Return the streams of each experiment; the sessions of a stream share their samples."""
    stream, correct = ("experiment", "stream"), _by_path(baseline)

    reached = dict(turns.group_by("path").agg(pl.col("turn").max() + 1).iter_rows())

    def read(experiment: str, paths: Sequence[str]) -> Iterator[NamedSession]:
        for path in paths:
            saved = _until(archive.read(path), reached[path])
            yield NamedSession(experiment, saved, correct.get(path, {}))

    counted = turns.group_by(*stream, "path", maintain_order=True).len()
    grouped = counted.group_by(stream, maintain_order=True).agg("path", pl.col("len").sum())
    return [
        Stream(count, partial(read, experiment, paths))
        for experiment, _, paths, count in grouped.sort(stream).iter_rows()
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
    )


def _by_path(baseline: BaselineResult) -> Mapping[str, Mapping[int, bool]]:
    if baseline.turns is None:
        return {}
    grouped = baseline.turns.group_by("path").agg("turn", "baseline")
    return {path: dict(zip(at, right, strict=True)) for path, at, right in grouped.iter_rows()}


def _runs(turns: pl.DataFrame, headers: Sequence[Header]) -> list[dict[str, Any]]:
    """Return the experiment file and the branches of each experiment."""
    names = turns.group_by("path", maintain_order=True).agg(pl.col("experiment").first())
    found: dict[str, list[Header]] = {}
    for name, header in zip(names["experiment"], headers, strict=True):
        found.setdefault(name, []).append(header)
    return [
        {
            "name": name,
            "file": experiment_file(each),
            "version": each[0].icl_loop,
            "branches": branch_rows(each),
        }
        for name, each in found.items()
    ]


def _render(**context: Any) -> str:  # noqa: ANN401  the template takes anything
    environment = Environment(
        loader=PackageLoader("icl_loop.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["printable"] = printable
    style, script = (_source(environment, name) for name in ("page.css", "page.js"))
    scripts = (_bundle(), script)
    context["index"] = Markup(context["index"])  # noqa: S704  it is escaped by `in_script`
    return environment.get_template("page.html").render(
        **context,
        policy=_policy(style, scripts),
        style=Markup(style),  # noqa: S704  our own file
        scripts=[Markup(each) for each in scripts],  # noqa: S704  our own file and the chart library
    )


def _source(environment: Environment, name: str) -> str:
    """Return a template file without rendering it."""
    assert environment.loader is not None  # noqa: S101  set in `_render`
    return environment.loader.get_source(environment, name)[0]


@lru_cache(maxsize=1)
def _bundle() -> str:
    """Return the chart library as a script."""
    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub has no default


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Return a content security policy that allows only the page's own scripts, styles and images."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, scripts))}",
            f"style-src {_hash(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    """Return the source expression of an inline element (CSP Level 3, section 2.3.1)."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
