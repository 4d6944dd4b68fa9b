"""What the sessions of a frame were set to, one row a session."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from icl_loop.analysis.frame import find, runs_apart
from icl_loop.errors import TranscriptError

SESSION_SCHEMA: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "path": pl.String,
    "experiment": pl.String,
    "arm": pl.String,
    "stream": pl.Int64,
    "seed": pl.Int64,
    "id": pl.String,
    "model": pl.String,
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
    """Return what the sessions of the transcripts at `paths` were set to, one row each.

    Columns: `path`, `experiment` (named as in `frame`), `arm`, `stream`, `seed`, `id` (that of the source
    where replies were read again), `model`,
    `dataset`, `labels` (their kind), `policy`, `context` (all settings of it, as JSON), `feedback`
    (its kind), `donor` (the arm whose verdicts were told), `donor_stream`, `donor_id` (of the session
    they were taken from), `setup` (all settings but context, feedback and probes, as JSON),
    `primary` (the two arms compared first), `margin` (of equivalence), `planned_streams` and `stopped_early` (whether
    the run stopped because its evidence sufficed). What a header does not say is null.

    Raises:
        TranscriptError: A file does not begin with the line of a session.
    """
    rows = [_row(path, _header(path)) for path in find(paths)]
    return runs_apart(pl.DataFrame(rows, schema=SESSION_SCHEMA))


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            said = json.loads(file.readline())
    except OSError as error:
        raise TranscriptError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
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
        "experiment": _text(header, "experiment"),
        "arm": _text(header, "arm"),
        "stream": header.get("stream"),
        "seed": header.get("seed"),
        "id": _text(_table(header, "source"), "id") or _text(header, "id"),
        "model": _text(_table(settings, "model"), "name"),
        "dataset": _text(_table(header, "dataset"), "name"),
        "labels": _text(_table(settings, "task"), "labels"),
        "policy": _text(context, "policy"),
        "context": json.dumps(context, sort_keys=True),
        "feedback": _text(feedback, "kind"),
        "donor": _text(feedback, "donor"),
        "donor_stream": donor.get("stream"),
        "donor_id": _text(donor, "id"),
        "setup": json.dumps(setup, sort_keys=True),
        "primary": _pair(analysis.get("primary")),
        "margin": _number(analysis.get("margin")),
        "planned_streams": analysis.get("streams"),
        "stopped_early": path.with_name(EARLY_STOP_NAME).exists(),
    }


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the table at `key`, an empty one if there is none."""
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _text(values: Mapping[str, Any], key: str) -> str | None:
    found = values.get(key)
    return found if isinstance(found, str) else None


def _pair(value: object) -> list[str] | None:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(arm, str) for arm in value):
        return value
    return None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None
