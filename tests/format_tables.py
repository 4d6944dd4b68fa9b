"""The tables of fields in `docs/transcripts.md`, which `python tests/format_tables.py` writes."""

from pathlib import Path
from typing import Any

from icl_loop.transcripts.header import Header
from icl_loop.transcripts.schema import Doc, End, ExchangeLine, Line, NoteLine, ProbeLine, TurnLine

PAGE = Path(__file__).parents[1] / "docs" / "transcripts.md"
MARK = "<!-- generated from src/icl_loop/transcripts/schema.py by `make docs` -->\n"
TITLES: dict[type[Line], str] = {
    Header: "`session`, the first line",
    TurnLine: "`turn`",
    NoteLine: "`note`",
    ProbeLine: "`probe`",
    ExchangeLine: "Fields that turns, notes and probes share",
    End: "`end`, the last line",
}


def field_tables() -> str:
    """Return the tables of all fields as Markdown."""
    return "\n".join(table(model, title) for model, title in TITLES.items())


def table(model: type[Line], title: str) -> str:
    """Return the table of the fields of one kind of line."""
    types = model.model_json_schema()["properties"]
    rows = [f"### {title}\n\n| field | type | since | meaning |\n| --- | --- | --- | --- |\n"]
    for name, field in model.model_fields.items():
        docs = [each for each in field.metadata if isinstance(each, Doc)]
        if docs and (model is ExchangeLine or name not in ExchangeLine.model_fields):
            kind = type_name(types[name])
            rows.append(f"| `{name}` | {kind} | {docs[0].since} | {docs[0].meaning} |\n")
    return "".join(rows)


def type_name(schema: dict[str, Any]) -> str:
    """Return the type that a JSON schema describes."""
    if "anyOf" in schema:
        return " or ".join(map(type_name, schema["anyOf"]))
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    kind = schema.get("type", "object").replace("array", "list")
    return ", ".join(f"`{value}`" for value in values) or kind


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(MARK) + len(MARK)] + "\n" + field_tables())
