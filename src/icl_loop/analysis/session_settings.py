"""The settings of saved sessions, one row per session."""

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis.frame import each_once, separate_runs
from icl_loop.core.records import LARGEST
from icl_loop.transcripts.columns import SESSION_SETTINGS, is_exported, read_table
from icl_loop.transcripts.files import sources
from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import read_header

EARLY_STOP_NAME = "stopped-early.json"
"""A file beside the transcripts of a run that stopped early because its evidence sufficed."""

_COMPARED = frozenset({"context", "feedback", "probes"})
"""Tables of settings in which arms with the same setup may differ."""
_ACCOUNT = frozenset({"base_url", "api_key_env", "organization", "headers", "headers_env"})
"""Settings of the model's address and account, which do not distinguish arms."""


def sessions(paths: Iterable[Path]) -> pl.DataFrame:
    """Return the settings of the transcripts or exports at `paths`, one row per session.

    Columns: `path`, `experiment` (named as in `frame`), `arm`, `stream`, `repeat`, `seed`, `id` (of the
    source if the session was rescored), `model`, `model_settings` (JSON), `dataset`, `labels` (the kind of label
    names), `policy`, `context` (all its settings, JSON), `feedback` (its kind), `feedback_settings`
    (all but the donor, JSON), `donor` (the arm whose feedback is repeated), `donor_stream`, `donor_repeat`,
    `donor_id`, `setup` (all settings but context, feedback and probes, JSON), `primary` (the two arms of the
    primary contrast), `secondary` (those of the secondary ones, JSON), `margin` (of equivalence),
    `planned_streams`, `stopped_early` (because the evidence sufficed), `first_own_turn` (the first
    turn that was requested for this session: that at which a branch left its parent, otherwise 0;
    null if the session was rescored), `imported` (the file that it was imported from), `published` (the
    published result that the arm is compared with, JSON).
    Settings that are not recorded are null.

    Raises:
        TranscriptError: A file does not begin with a session line, or a session is named twice.
    """
    parts = [
        _exported(files) if exported else _saved(files)
        for exported, files in groupby(sources(paths), is_exported)
    ]
    return separate_runs(each_once(pl.concat(parts)))


def _exported(files: Iterable[Path]) -> pl.DataFrame:
    return pl.concat([read_table(file, "sessions", SESSION_SETTINGS) for file in files])


def _saved(files: Iterable[Path]) -> pl.DataFrame:
    return pl.DataFrame([_row(path, read_header(path)) for path in files], schema=SESSION_SETTINGS)


def _row(path: Path, header: Header) -> dict[str, Any]:
    analysis, donor = header.analysis, header.donor
    return {
        "path": str(path),
        "experiment": header.experiment,
        "arm": header.arm,
        "stream": header.stream,
        "repeat": header.repeat,
        "seed": header.seed,
        "id": header.source.id if header.source else header.id,
        "dataset": header.dataset.name,
        **arm_columns(header.settings),
        "donor_stream": donor.stream if donor else None,
        "donor_repeat": donor.repeat if donor else None,
        "donor_id": donor.id if donor else None,
        "primary": list(analysis.primary) if analysis.primary else None,
        "secondary": json.dumps(analysis.secondary),
        "margin": analysis.margin if 0 < analysis.margin < LARGEST else None,
        "planned_streams": analysis.streams,
        "stopped_early": path.with_name(EARLY_STOP_NAME).exists(),
        "first_own_turn": None if header.source else header.branch.at if header.branch else 0,
        "imported": header.imported and header.imported.file,
        "published": analysis.published and analysis.published.model_dump_json(),
    }


def arm_columns(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of `sessions` that depend on the settings of an arm alone."""
    model, context = table_in(settings, "model"), table_in(settings, "context")
    feedback = table_in(settings, "feedback")
    setup = {key: value for key, value in settings.items() if key not in _COMPARED}
    setup["model"] = {key: value for key, value in model.items() if key not in _ACCOUNT}
    return {
        "model": _text(model, "name"),
        "model_settings": json.dumps(model, sort_keys=True),
        "labels": _text(table_in(settings, "task"), "labels"),
        "policy": _text(context, "policy"),
        "context": json.dumps(context, sort_keys=True),
        "feedback": _text(feedback, "kind"),
        "feedback_settings": json.dumps({**feedback, "donor": None}, sort_keys=True),
        "donor": _text(feedback, "donor"),
        "setup": json.dumps(setup, sort_keys=True),
    }


def table_in(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the table at `key`, or an empty one."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _text(values: Mapping[str, Any], key: str) -> str | None:
    """Return the text at `key`, or None."""
    value = values.get(key)
    return value if isinstance(value, str) else None
