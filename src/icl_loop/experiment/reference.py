"""What an experiment file can contain, derived from the settings: a commented file, a schema, a table."""

import json
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from icl_loop.experiment.answer_settings import AnswerSettings
from icl_loop.experiment.feedback_settings import FeedbackSettings
from icl_loop.experiment.published_settings import PublishedSettings
from icl_loop.experiment.run_settings import LimitSettings, PriceSettings
from icl_loop.experiment.settings import (
    AnalysisSettings,
    ContextSettings,
    ExperimentFile,
    ModelSettings,
    ProbeSettings,
    Settings,
    TaskSettings,
)

TABLES: Mapping[str, type[BaseModel]] = {
    "": ExperimentFile,
    "task": TaskSettings,
    "model": ModelSettings,
    "context": ContextSettings,
    "feedback": FeedbackSettings,
    "probes": ProbeSettings,
    "answers": AnswerSettings,
    "analysis": AnalysisSettings,
    "limits": LimitSettings,
    "price": PriceSettings,
}
"""The tables of an experiment file; "" is its top level."""
EXAMPLES: Mapping[str, str] = {
    "name": '"digits-by-verdict"',
    "turns": "300",
    "streams": "12",
    "repeats": "3",
    "seed": "20261126",
    "sweep": '{ "model.params.temperature" = [0, 1] }',
    "task.dataset": '"csv:flowers.csv"',
    "task.encoding": '"sparse"',
    "task.order": '"easy_first"',
    "task.choice": '{ every = 2, among = 4, by = "model" }',
    "task.labels": '"abstract"',
    "task.pixels": '"permuted"',
    "task.prompts": '"prompts/mine.toml"',
    "task.swap_at": "100",
    "model.name": '"gpt-4o-mini"',
    "model.context_window": '"auto"',
    "model.base_url": '"http://127.0.0.1:8080/v1"',
    "model.api_key_env": '"MY_SERVER_KEY"',
    "model.organization": '"org-1234"',
    "model.headers": '{ X-Title = "learning curves" }',
    "model.headers_env": '{ X-Team = "MY_TEAM" }',
    "model.params": "{ temperature = 0.7 }",
    "model.annealing": "{ start = 1.0, end = 0.0, turns = 100 }",
    "model.answer_format": '"choice"',
    "context.policy": '"only_correct | last(50)"',
    "context.reserve": "64",
    "context.counter": '"estimate:cl100k_base"',
    "context.replies": '"answer"',
    "feedback.kind": '"label"',
    "feedback.donor": '"feedback"',
    "feedback.donor_kind": '"label"',
    "feedback.noise": "0.1",
    "feedback.delay": "2",
    "feedback.form": '"echo"',
    "feedback.every": "5",
    "feedback.only": '"positive"',
    "probes.at": "[0, 50, 100]",
    "probes.verdicts": '["told", "flipped"]',
    "answers.rule": '"strict"',
    "answers.labels": '{ 7 = ["seven", "sept"] }',
    "analysis.primary": '["feedback", "none"]',
    "analysis.effect": "0.15",
    "limits.requests_per_minute": "500",
    "limits.tokens_per_minute": "200_000",
    "price.input": "0.15",
    "price.output": "0.60",
    "price.cached": "0.075",
}
"""An example in TOML of each key whose default is not one."""
_ARMS = """\
[[arms]]
name = "feedback"  # right or wrong after each answer

[[arms]]
name = "yoked"  # the same words, but those that another session was told: only their content differs
feedback.kind = "yoked"
feedback.donor = "feedback"

[[arms]]
name = "none"  # answers are acknowledged, not judged
feedback.kind = "none"

[[arms]]
name = "label"  # the right label after each answer: how much could be learned
feedback.kind = "label"
"""
_WIDTH = 96


def keys(table: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted name and the field of each key of a table, without tables inside it."""
    for key, field in TABLES[table].model_fields.items():
        if key not in (*TABLES, "arms"):
            yield (f"{table}.{key}" if table else key), field


def default_of(field: FieldInfo) -> str | None:
    """Return the default of a key in TOML, or None if there is none."""
    value = None if field.is_required() else field.default
    return None if value is None else json.dumps(value)


def example_of(name: str, field: FieldInfo) -> str:
    """Return an example of a value in TOML."""
    return EXAMPLES.get(name) or default_of(field) or ""


def commented_file(chosen: Mapping[str, object]) -> str:
    """Return an experiment file with all keys, their meanings and defaults as comments.

    Args:
        chosen: Values by dotted key; these keys are set instead of commented out.
    """
    given = {"name": "my-experiment", "analysis.primary": ["feedback", "none"], **chosen}
    parts = []
    for table in TABLES:
        if table == "analysis":
            parts.append(_ARMS)
        lines = [f"[{table}]" if table != "price" else "# [price]"] if table else []
        for name, field in keys(table):
            key = name.rpartition(".")[2]
            lines += [f"# {line}" for line in wrap(field.description or "", _WIDTH)]
            value = default_of(field) or EXAMPLES[name]
            lines += [
                f"{key} = {json.dumps(given[name])}" if name in given else f"# {key} = {value}"
            ]
        parts.append("\n".join(lines) + "\n")
    return "# Play it with `icl-loop run`; a commented key shows its default or an example.\n\n" + (
        "\n".join(parts)
    )


def file_schema() -> dict[str, Any]:
    """Return the JSON Schema of experiment files, with which editors complete and check them."""
    file, settings = ExperimentFile.model_json_schema(), Settings.model_json_schema()
    tables = settings["properties"]
    published = PublishedSettings.model_json_schema()
    arm = {
        "type": "object",
        "properties": {"name": file["properties"]["name"], "published": published, **tables},
        "required": ["name"],
        "additionalProperties": False,
    }
    file["properties"] |= {**tables, "arms": {**file["properties"]["arms"], "items": arm}}
    file["$defs"] |= settings["$defs"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **file}
