"""Evaluation logs for Inspect: one log per arm, one sample per session.

Import this module only to write logs: `inspect_ai` is an optional dependency.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import ModelUsage

from icl_loop.analysis import sessions
from icl_loop.core.errors import InputError
from icl_loop.export.inspect_sample import EPOCH, MEASURES, digest, model_name, sample, time_of
from icl_loop.export.source_file import OnSessions, SourceFile
from icl_loop.transcripts import Header, read
from icl_loop.transcripts.comparison import flat
from icl_loop.transcripts.header import VERSION

_ENDINGS = (".eval", ".json")
_FINISHED = ("complete", "context_full")
"""How a session ends that was played as far as possible."""


def write(files: Sequence[SourceFile], place: Path, on_sessions: OnSessions) -> None:
    """Write one log per arm into the folder `place`, or the log of a single arm to a file.

    Raises:
        InputError: `place` is a file, but there are several arms.
    """
    known = sessions([file.path for file in files])
    arms = known.group_by("experiment", "arm", maintain_order=True).agg("path").rows()
    is_file = place.suffix in _ENDINGS
    if is_file and len(arms) > 1:
        names = ", ".join(arm for _, arm, _ in arms)
        raise InputError(f"a log holds one arm, there are {len(arms)}: {names}; name a folder")
    for experiment, arm, paths in arms:
        file = place if is_file else place / f"{_plain(experiment)}_{_plain(arm)}.eval"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_eval_log(_log(experiment, arm, map(Path, paths), on_sessions), file)


def _plain(name: str) -> str:
    """Return a name that is safe in a file name, with a digest if characters were replaced."""
    plain = "".join(mark if mark.isalnum() or mark in ".-" else "-" for mark in name)[:80]
    return plain if plain == name else f"{plain.strip('.')}-{digest(name)[:8]}"


def _log(experiment: str, arm: str, files: Iterable[Path], on_sessions: OnSessions) -> EvalLog:
    samples, headers, finished, seen = [], [], [], Counter[int]()
    for file in files:
        transcript = read(file)
        header = transcript.header
        seen[header.stream] += 1
        samples.append(sample(transcript, file, epoch=seen[header.stream]))
        headers.append(header)
        finished.append(transcript.end is not None and transcript.end.status in _FINISHED)
        on_sessions(1)
    usages: dict[str, ModelUsage] = {}
    for each in samples:
        for model, usage in each.model_usage.items():
            usages[model] = usages.get(model, ModelUsage()) + usage
    return EvalLog(
        status="success" if all(finished) else "cancelled",
        eval=_spec(experiment, arm, headers),
        results=_results(samples),
        stats=EvalStats(
            started_at=min(each.started_at or "" for each in samples),
            completed_at=max(each.completed_at or "" for each in samples),
            model_usage=usages,
        ),
        samples=samples,
    )


def _spec(experiment: str, arm: str, headers: Sequence[Header]) -> EvalSpec:
    first, name = headers[0], f"{experiment} / {arm}"
    created = time_of(min(header.created for header in headers)) or EPOCH
    return EvalSpec(
        eval_id=digest("eval", name, *(header.id for header in headers)),
        run_id=digest("run", experiment, str(first.seed)),
        created=created.isoformat(),
        task=experiment,
        task_id=digest("task", name),
        task_display_name=name,
        task_args=flat(first.settings),
        dataset=EvalDataset(
            name=first.dataset.name,
            samples=len(headers),
            sample_ids=[header.stream for header in headers],
            shuffled=True,
        ),
        model=model_name(first),
        config=EvalConfig(epochs=1),
        tags=[arm],
        packages={"icl-loop": VERSION},
        metadata={
            "arm": arm,
            "seed": first.seed,
            "turns": first.turns,
            "labels": first.labels,
            "chance": 1 / len(first.labels) if first.labels else None,
            "dataset_sha256": first.dataset.sha256,
            "dataset_size": first.dataset.size,
            "analysis": first.analysis.model_dump(mode="json"),
        },
    )


def _results(samples: Sequence[EvalSample]) -> EvalResults:
    """Return means and standard errors over the sessions; a session without turns has no score."""
    scores = []
    for name in MEASURES:
        values = [each.scores[name].as_float() for each in samples if each.scores]
        known = [value for value in values if not math.isnan(value)]
        metrics = {"mean": fmean(known)} if known else {}
        if len(known) > 1:
            metrics["stderr"] = stdev(known) / math.sqrt(len(known))
        scores.append(
            EvalScore(
                name=name,
                scorer=name,
                scored_samples=len(known),
                unscored_samples=len(values) - len(known),
                metrics={key: EvalMetric(name=key, value=value) for key, value in metrics.items()},
            )
        )
    return EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=scores)
