"""What the sessions of a frame were set to, one row a session."""

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis.frame import each_once, runs_apart
from icl_loop.core.errors import TranscriptError
from icl_loop.core.records import LARGEST
from icl_loop.transcripts.exported_tables import is_exported, table
from icl_loop.transcripts.files import sources

SESSION_SCHEMA: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "path": pl.String,
    "experiment": pl.String,
    "arm": pl.String,
    "stream": pl.Int64,
    "seed": pl.Int64,
    "id": pl.String,
    "model": pl.String,
    "model_settings": pl.String,
    "dataset": pl.String,
    "labels": pl.String,
    "policy": pl.String,
    "context": pl.String,
    "feedback": pl.String,
    "donor": pl.String,
    "donor_stream": pl.Int64,
    "donor_id": pl.String,
    "setup": pl.String,
    "primary": pl.List(pl.String),
    "margin": pl.Float64,
    "planned_streams": pl.Int64,
    "stopped_early": pl.Boolean,
}
EARLY_STOP_NAME = "stopped-early.json"
"""A file beside the transcripts of a run that played no more streams, for its evidence sufficed."""


_NO_SETUP = frozenset({"context", "feedback", "probes"})
"""Tables of settings in which arms may differ that are asked the same."""
_PLACE = frozenset({"base_url", "api_key_env", "organization", "headers", "headers_env"})
"""Where a model is asked and who pays, which makes no other arm of it."""


def sessions(paths: Iterable[Path]) -> pl.DataFrame:
    """Return what the sessions of the transcripts or exports at `paths` were set to, one row each.

    Columns: `path`, `experiment` (named as in `frame`), `arm`, `stream`, `seed`, `id` (that of the source
    where replies were read again), `model`, `model_settings` (as JSON),
    `dataset`, `labels` (their kind), `policy`, `context` (all settings of it, as JSON), `feedback`
    (its kind), `donor` (the arm whose verdicts were told), `donor_stream`, `donor_id` (of the session
    they were taken from), `setup` (all settings but context, feedback and probes, as JSON),
    `primary` (the two arms compared first), `margin` (of equivalence), `planned_streams` and `stopped_early` (whether
    the run stopped because its evidence sufficed). What a header does not say is null.

    Raises:
        TranscriptError: A file does not begin with the line of a session, or one was named twice.
    """
    parts = [
        _exported(files) if exported else _saved(files)
        for exported, files in groupby(sources(paths), is_exported)
    ]
    return runs_apart(each_once(pl.concat(parts)))


def _exported(files: Iterable[Path]) -> pl.DataFrame:
    return pl.concat([table(file, "sessions", SESSION_SCHEMA, ["path"]) for file in files])


def _saved(files: Iterable[Path]) -> pl.DataFrame:
    return pl.DataFrame([_row(path, _header(path)) for path in files], schema=SESSION_SCHEMA)


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            said = json.loads(file.readline())
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("type") != "session":
        raise TranscriptError(f"{path}, line 1 is not a line of a transcript: it is no session's")
    return said


def _row(path: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    settings = _table(header, "settings")
    feedback, analysis = _table(settings, "feedback"), _table(header, "analysis")
    context, donor = _table(settings, "context"), _table(header, "donor")
    setup = {key: value for key, value in settings.items() if key not in _NO_SETUP}
    model = _table(settings, "model")
    setup["model"] = {key: value for key, value in model.items() if key not in _PLACE}
    return {
        "path": str(path),
        "experiment": text_in(header, "experiment"),
        "arm": text_in(header, "arm"),
        "stream": whole_in(header, "stream"),
        "seed": whole_in(header, "seed"),
        "id": text_in(_table(header, "source"), "id") or text_in(header, "id"),
        "model": text_in(model, "name"),
        "model_settings": json.dumps(model, sort_keys=True),
        "dataset": text_in(_table(header, "dataset"), "name"),
        "labels": text_in(_table(settings, "task"), "labels"),
        "policy": text_in(context, "policy"),
        "context": json.dumps(context, sort_keys=True),
        "feedback": text_in(feedback, "kind"),
        "donor": text_in(feedback, "donor"),
        "donor_stream": whole_in(donor, "stream"),
        "donor_id": text_in(donor, "id"),
        "setup": json.dumps(setup, sort_keys=True),
        "primary": _pair(analysis.get("primary")),
        "margin": _number(analysis.get("margin")),
        "planned_streams": whole_in(analysis, "streams"),
        "stopped_early": path.with_name(EARLY_STOP_NAME).exists(),
    }


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the table at `key`, an empty one if there is none."""
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def text_in(values: Mapping[str, Any], key: str) -> str | None:
    """Return the text at `key`, None if there is none or no file can hold it."""
    found = values.get(key)
    return found if isinstance(found, str) and _is_utf8(found) else None


def _is_utf8(text: str) -> bool:
    """Return whether no half of a surrogate pair is in `text`, which JSON can say and no file hold."""
    return not any("\ud800" <= mark <= "\udfff" for mark in text)


def whole_in(values: Mapping[str, Any], key: str) -> int | None:
    """Return the whole number at `key`, None if there is none or 64 bits do not hold it."""
    found = values.get(key)
    return found if type(found) is int and abs(found) < 2**63 else None


def _pair(value: object) -> list[str] | None:
    arms = value if isinstance(value, list) else []
    sound = len(arms) == 2 and all(isinstance(arm, str) and _is_utf8(arm) for arm in arms)
    return arms if sound else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < LARGEST else None
