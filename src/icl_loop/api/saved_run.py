"""The saved sessions of a run: turns, learning curves, verdict and report."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Self

import polars as pl

from icl_loop.analysis import (
    Conclusion,
    conclude_each,
    frame,
    probes,
    sentence,
    summarise,
)
from icl_loop.analysis import sessions as session_settings
from icl_loop.analysis.arm_roles import by_model
from icl_loop.analysis.baseline import BaselineResult
from icl_loop.core.errors import InputError, StoppedShort, reason_of
from icl_loop.plots.curves import compared_chart, curve_chart
from icl_loop.plots.inline import InlineConcatChart, InlineLayerChart
from icl_loop.terminal.chart_baseline import chart_baseline
from icl_loop.terminal.formatting import arm_name, percent
from icl_loop.transcripts.files import sources


def load_run(*paths: str | Path) -> "SavedRun":
    """Return the sessions that are saved at `paths`: transcripts, exports, or folders of either.

    Raises:
        TranscriptError: A path does not exist, or there are no turns.
    """
    return SavedRun.of(paths)


@dataclass(frozen=True)
class SavedRun:
    """Saved sessions, of one experiment or of several.

    Attributes:
        paths: The transcripts or exports that hold them.
    """

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, paths: Iterable[Path | str]) -> Self:
        """Return the sessions at `paths` and below folders; see `load_run`."""
        found = cls(tuple(sources(paths)))
        _ = found.turns  # raises an error now rather than later
        return found

    @cached_property
    def turns(self) -> pl.DataFrame:
        """One row per turn; `icl_loop.frame` describes the columns."""
        return frame(self.paths)

    @cached_property
    def sessions(self) -> pl.DataFrame:
        """The settings of each session in one row; `icl_loop.analysis.sessions` describes the columns."""
        return session_settings(self.paths)

    @cached_property
    def verdicts(self) -> tuple["Verdict", ...]:
        """The verdict about each experiment and, where it has several, about each model."""
        probed = probes(self.paths)
        found = conclude_each(self.turns, None, self.sessions, probed, self.paths)
        return tuple(map(Verdict.of, found))

    @property
    def verdict(self) -> "Verdict":
        """The verdict; with several models, that about the model of the primary contrast.

        Raises:
            InputError: There are several experiments.
        """
        if len(names := self._experiments) > 1:
            raise InputError(
                f"there are {len(names)} experiments: {', '.join(names)}; see `verdicts`"
            )
        recorded = (each for each in self.verdicts if each.conclusion.recorded)
        return next(recorded, self.verdicts[0])

    def curve(
        self, window: int | None = None, *, baseline: bool = True
    ) -> InlineLayerChart | InlineConcatChart:
        """Return the learning curves of the arms, in a panel for each experiment and model.

        Notebooks display the chart without a network. `icl_loop.plots.save` writes it to a file.

        Args:
            window: Number of turns over which accuracy is averaged; by default, one that fits.
            baseline: Draw what a reference learner would reach on the context that the model was
                shown, unless there are too many turns to compute it quickly.
        """
        found = self._baseline if baseline else BaselineResult("", None)
        turns = by_model(self.turns, self.sessions)
        draw = curve_chart if turns["experiment"].n_unique() == 1 else compared_chart
        return draw(turns, window, found.turns, learner=found.learner)

    def report(self, path: str | Path) -> Path:
        """Write the HTML report, one page that works offline, to `path`, and return the path.

        Raises:
            StoppedShort: The file cannot be written.
        """
        from icl_loop.report import page  # noqa: PLC0415  only this method needs it

        path = Path(path)
        html = page(self.turns, None, self._baseline, f"report({str(path)!r})", paths=self.paths)
        try:
            path.write_text(html, encoding="utf-8", newline="\n")
        except OSError as error:
            raise StoppedShort(f"{path} cannot be written: {reason_of(error)}") from None
        return path

    @cached_property
    def _baseline(self) -> BaselineResult:
        # It is computed in an event loop of its own, and a notebook has one running in this thread.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(chart_baseline, self.turns, None, paths=self.paths).result()

    @cached_property
    def _experiments(self) -> list[str]:
        return [str(name) for name in self.turns["experiment"].unique(maintain_order=True)]

    def _sizes(self) -> str:
        arms = self.turns.select("experiment", "arm").n_unique()
        sessions, turns = self.turns["path"].n_unique(), self.turns.height
        return f"{_count(arms, 'arm')}, {_count(sessions, 'session')}, {_count(turns, 'turn')}"

    def __repr__(self) -> str:
        return f"<SavedRun {', '.join(self._experiments)}: {self._sizes()}>"

    def _repr_html_(self) -> str:
        """Return verdicts and accuracies as HTML, for notebooks."""
        models = {
            (experiment, arm): model
            for experiment, arm, model in self.sessions.select("experiment", "arm", "model").rows()
        }
        summaries = summarise(self.turns)
        name = arm_name(summaries)
        head = ("arm", "model", "sessions", "turns", "early accuracy (%)", "late accuracy (%)")
        rows = [
            (
                name(each),
                str(models[each.experiment, each.arm]),
                str(each.sessions),
                f"{each.turns:,}",
                percent(each.early),
                percent(each.late),
            )
            for each in summaries
        ]
        title = f"<b>{escape(', '.join(self._experiments))}</b>: {self._sizes()}"
        table = _row(head, "th") + "".join(_row(row, "td") for row in rows)
        verdicts = "".join(f"<p>{escape(each.sentence)}</p>" for each in self.verdicts)
        return f"<div><p>{title}</p><table>{table}</table>{verdicts}</div>"


@dataclass(frozen=True, repr=False)
class Verdict:
    """What an experiment shows: it is printed as its sentence, and its numbers are attributes.

    The numbers are those of the primary contrast, and None without one.

    Attributes:
        sentence: The verdict in words.
        name: The verdict in a word or two, such as "learned".
        arms: The arm of interest and the arm it is compared with.
        effect: Late accuracy of the first arm minus that of the second, as a mean over streams.
        interval: Its 95 % confidence interval; None with fewer than six streams.
        p: Its two-sided p-value; None with fewer than five streams.
        detectable: The effect that would have been found with 80 % power; None if it is unknown.
        streams: The number of streams that both arms completed.
        warnings: What to keep in mind when reading the verdict.
        conclusion: All of the above in full, and the secondary contrasts.
    """

    sentence: str
    name: str | None
    arms: tuple[str, str] | None
    effect: float | None
    interval: tuple[float, float] | None
    p: float | None
    detectable: float | None
    streams: int
    warnings: tuple[str, ...]
    conclusion: Conclusion

    @classmethod
    def of(cls, conclusion: Conclusion) -> Self:
        """Return a conclusion as a verdict."""
        contrast = conclusion.primary
        return cls(
            sentence=sentence(conclusion),
            name=conclusion.verdict,
            arms=contrast.arms if contrast else None,
            effect=contrast.theta if contrast else None,
            interval=contrast.interval if contrast else None,
            p=contrast.p if contrast else None,
            detectable=contrast.mde if contrast else None,
            streams=contrast.k if contrast else 0,
            warnings=conclusion.warnings,
            conclusion=conclusion,
        )

    def __repr__(self) -> str:
        return self.sentence


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _row(cells: Iterable[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
