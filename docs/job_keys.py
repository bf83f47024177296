"""Write the tables of keys in docs/steps/job.md from the job description's own types and descriptions.

python docs/job_keys.py
"""

import json
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from metier.artifact import write_atomically
from metier.spec.job import Job

PAGE = Path(__file__).parent / "steps" / "job.md"
START, END = "<!-- keys: written by docs/job_keys.py -->", "<!-- end of keys -->"

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}


def with_keys(page: str) -> str:
    """Return the page with its tables of keys written anew."""
    before, rest = page.split(START)
    return f"{before}{START}\n\n{_tables(Job, '')}\n{END}{rest.split(END)[1]}"


def _tables(model: type[BaseModel], name: str) -> str:
    """Return a heading and a table for the model's own keys, then the same for every table inside it."""
    title = f"`[{name}]`" if name else "Top of the file"
    if name in ("data.train", "data.test"):
        title = "`[[data.train]]` and `[[data.test]]`"
    if name in ("data.text", "data.facts", "qa.phrasings"):
        title = f"`[[{name}]]`"
    own, inner = [], []
    for key, field in model.model_fields.items():
        if table := _table_in(field.annotation):
            inner.append((table, f"{name}.{key}".lstrip(".")))
        else:
            own.append(f"| `{key}` | {_kind(field)} | {_default(field)} | {_cell(field.description or '')} |")
    about = "" if not name else f"{(model.__doc__ or '').strip()}\n\n"
    lines = ["| key | value | default | meaning |", "|---|---|---|---|", *own]
    shown = f"### {title}\n\n{about}" + ("\n".join(lines) + "\n" if own else "It holds the tables below.\n")
    rest = [_tables(table, inner_name) for table, inner_name in inner if inner_name != "data.test"]
    return "\n".join([shown, *rest])


def _table_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_table_in, typing.get_args(annotation))), None)


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{words} {getattr(rule, name)}"
        for rule in field.metadata
        for name, words in _BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([_words(field.annotation), *bounds])


def _words(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{json.dumps(part)}`" for part in parts)
    if origin is list:
        return f"list of {_words(parts[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(part) for part in parts if part is not type(None))
    return _WORDS[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    return "-" if value is None else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    write_atomically(PAGE, with_keys(PAGE.read_text(encoding="utf-8")))
