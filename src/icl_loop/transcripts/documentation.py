"""The tables of fields in `docs/transcripts.md`: `python -m icl_loop.transcripts.documentation`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from icl_loop.transcripts.header import Header
from icl_loop.transcripts.schema import (
    Doc,
    End,
    ExchangeLine,
    Line,
    NoteLine,
    ProbeLine,
    TurnLine,
)
from icl_loop.transcripts.tables import python_type

PATH = Path("docs/transcripts.md")
MARK = "<!-- generated from src/icl_loop/transcripts/schema.py by `make docs` -->\n"
_TITLES: dict[type[Line], str] = {
    Header: "`session`, the first line",
    TurnLine: "`turn`",
    NoteLine: "`note`",
    ProbeLine: "`probe`",
    ExchangeLine: "Fields that turns, notes and probes share",
    End: "`end`, the last line",
}


def field_tables() -> str:
    """Return the tables of all fields as Markdown."""
    return "\n".join(_table(model, title) for model, title in _TITLES.items())


def _table(model: type[Line], title: str) -> str:
    head = f"### {title}\n\n| field | type | since | meaning |\n| --- | --- | --- | --- |\n"
    return head + "".join(_rows(model))


def _rows(model: type[Line]) -> Iterator[str]:
    shared = () if model is ExchangeLine else ExchangeLine.model_fields
    for name, field in model.model_fields.items():
        docs = [each for each in field.metadata if isinstance(each, Doc)]
        if name in shared or not docs:
            continue
        yield f"| `{name}` | {_type_name(model, name)} | {docs[0].since} | {docs[0].meaning} |\n"


def _type_name(model: type[Line], name: str) -> str:
    annotation = model.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    kind, nullable = python_type(model, name)
    is_list = get_origin(kind) in (list, tuple)
    return _TYPE_NAMES.get(kind, "list" if is_list else "object") + (" or null" if nullable else "")


_TYPE_NAMES = {int: "integer", float: "number", bool: "boolean", str: "string", bytes: "string"}


if __name__ == "__main__":
    text = PATH.read_text()
    PATH.write_text(text[: text.index(MARK) + len(MARK)] + "\n" + field_tables())
