"""Read a job description: a strict TOML file, its mistakes reported at once with what to write."""

import difflib
import os
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from metier.errors import SpecError
from metier.spec.base import Base
from metier.spec.contestants import kind_and_name
from metier.spec.data import AnySource
from metier.spec.facts import FactSource
from metier.spec.job import Job

_MAX_BYTES = 1 << 20
"""A job description is a few kilobytes; anything above this is another file."""


def load_job(path: Path) -> Job:
    """Return a job description with its relative local paths made absolute.

    Args:
        path: the TOML file, or the folder with its ``job.toml``.

    Raises:
        SpecError: when the file cannot be read, or for all mistakes in single keys, a line each, or else for
            the first thing that does not fit together.
    """
    file = path / "job.toml" if path.is_dir() else path
    table = _parse(file, _read(file))
    try:
        job = Job.model_validate(table)
    except ValidationError as error:
        raise _all_mistakes(file, error, table) from error
    folder = file.parent.resolve()
    data = job.data.model_copy(
        update={
            "train": [_local_source(source, folder) for source in job.data.train],
            "test": [_local_source(source, folder) for source in job.data.test],
            "text": [_local_source(source, folder) for source in job.data.text],
            "facts": [_local_facts(source, folder) for source in job.data.facts],
        }
    )
    base = _local_base(job.base, folder, file)
    return job.model_copy(update={"base": base, "data": data, **_local_rivals(job, base.model, folder, file)})


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a job description, for editors that check TOML."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Job.model_json_schema(),
        "title": "metier job description",
    }


def _read(file: Path) -> str:
    if not file.exists():
        beside = sorted(str(found) for found in file.parent.glob("*.toml"))
        near = difflib.get_close_matches(str(file), beside, n=1)
        fix = f"Did you mean {near[0]}?" if near else "Write one with 'metier new NAME --task ...'"
        raise SpecError(str(file), "there is no such file", fix)
    try:
        with file.open("rb") as handle:
            data = handle.read(_MAX_BYTES + 1)
    except OSError as error:
        fix = "Name a job description you may read"
        raise SpecError(str(file), f"cannot be read ({error.strerror})", fix) from error
    if not data.strip():
        raise SpecError(str(file), "the file is empty", "Write a job description with 'metier new'")
    if len(data) > _MAX_BYTES or b"\0" in data:
        found = "more than a megabyte" if len(data) > _MAX_BYTES else "NUL bytes"
        raise SpecError(str(file), f"{found}: not a job description", "Name a TOML file saved as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{file}, line {line}", "not UTF-8 text", "Save the file as UTF-8") from error


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        found = f"not valid TOML: {error}" if isinstance(error, ValueError) else "nested too deeply"
        fix = 'Write key = value, with text in "quotes" and tables in [brackets]'
        raise SpecError(str(file), found, fix) from error


def _all_mistakes(file: Path, error: ValidationError, table: dict[str, Any]) -> SpecError:
    mistakes: dict[str, tuple[str, str]] = {}
    for details in error.errors(include_url=False):
        key, found, fix = _mistake(details, table)
        if key in mistakes and mistakes[key][1] != fix:  # a key that may be of two types fails at both
            fix = f"{mistakes[key][1]} or: {fix[0].lower()}{fix[1:]}"
        mistakes[key] = (found, fix)
    if len(mistakes) == 1:
        ((key, (found, fix)),) = mistakes.items()
        return SpecError(f"{file}, {key}", found, fix)
    lines = "".join(f"\n  {key}: {found}. {fix}" for key, (found, fix) in mistakes.items())
    return SpecError(str(file), f"{len(mistakes)} mistakes", f"Correct them and run the command again:{lines}")


def _mistake(details: ErrorDetails, table: dict[str, Any]) -> tuple[str, str, str]:
    """Return key, what was found and what to write."""
    kind, context, unknown = details["type"], details.get("ctx", {}), details["type"] == "extra_forbidden"
    parts, model, description = _place(details["loc"], unknown)
    key = _dotted(parts)
    if kind == "mistake":
        key = ".".join(filter(None, (key, context["key"])))
        return key, context["found"], f"{context['fix']}."
    if unknown:
        return key, "unknown key", _known_key(str(parts[-1]), model)
    meaning = f" ({description.rstrip('.')})" if description else ""
    if kind == "missing":
        return key, "missing", f"Write this key{meaning}."
    if kind == "list_type" and isinstance(details["input"], dict):
        return key, "a single table", f"Write [[{key}]], with double brackets: there may be several."
    found = f"found {details['input']!r:.60}"
    fix = details["msg"].replace("Input should", "It should").replace("String should", "It should")
    choices = [choice.strip("'") for choice in str(context.get("expected", "")).replace(" or ", ", ").split(", ")]
    near = difflib.get_close_matches(str(details["input"]), choices, n=1)
    return key, found, f"{fix}{meaning}." + (f" Did you mean {near[0]!r}?" if near else "")


def _place(loc: tuple[int | str, ...], unknown: bool) -> tuple[list[int | str], type[BaseModel], str]:
    """Follow a location into the tables: return its parts, the innermost table, the key's description.

    Parts that are no key (pydantic names the alternatives of a union, too) are left out.
    """
    parts: list[int | str] = []
    model: type[BaseModel] = Job
    description = ""
    for number, part in enumerate(loc):
        if isinstance(part, int) or (unknown and number == len(loc) - 1):
            parts.append(part)
        elif part in model.model_fields:
            parts.append(part)
            field = model.model_fields[part]
            description = field.description or ""
            model = next(_tables(field.annotation), model)
    return parts, model, description


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the table types in an annotation such as ``list[Source]`` or ``Translation | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _tables(argument)


def _known_key(key: str, model: type[BaseModel]) -> str:
    if near := difflib.get_close_matches(key, model.model_fields, n=1):
        return f"Did you mean {near[0]!r}?"
    homes = [
        name
        for name, field in Job.model_fields.items()
        for table in _tables(field.annotation)
        if key in table.model_fields
    ]
    if key in Job.model_fields:
        return f"{key!r} belongs to the top of the file, before the first [table]."
    if homes:
        return f"{key!r} belongs under [{homes[0]}]."
    return f"Known keys here: {', '.join(model.model_fields)}."


def _dotted(parts: list[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _absolute(folder: Path, name: str) -> Path:
    return (folder / os.path.expanduser(name.strip())).resolve()  # noqa: PTH111 - never raises


def _local_source(source: AnySource, folder: Path) -> AnySource:
    names = source.local_names(lambda name: _absolute(folder, name).exists())
    local = "file:" + ",".join(str(_absolute(folder, name)) for name in names)
    return source.model_copy(update={"source": local}) if names else source


def _local_facts(source: FactSource, folder: Path) -> FactSource:
    kind, _, rest = source.source.partition(":")
    return source.model_copy(update={"source": f"file:{_absolute(folder, rest)}"}) if kind == "file" else source


def _local_base(base: Base, folder: Path, file: Path) -> Base:
    if base.from_scratch:
        return base
    near = difflib.get_close_matches(base.model, ["scratch"], n=1)
    fix = "Did you mean 'scratch'?" if near else "Write 'hf:...', 'pypi:...', 'scratch' or an existing path"
    return base.model_copy(update={"model": _local_model(base.model, folder, f"{file}, base.model", fix)})


def _local_rivals(job: Job, base: str, folder: Path, file: Path) -> dict[str, BaseModel]:
    if not job.evaluate.against:
        return {}
    where, fix = f"{file}, evaluate.against", "Write 'hf:...', 'pypi:...' or an existing path"
    found = {reference: _local_model(reference, folder, where, fix) for reference in job.evaluate.against}
    paths = list(found.values())
    for number, path in enumerate(paths):
        if path in paths[:number] or path == base:
            raise SpecError(where, f"{path} is named {'twice' if path != base else 'as the base, too'}", "Name it once")
    must_beat = [found.get(name, name) for name in job.release.must_beat]
    return {
        "evaluate": job.evaluate.model_copy(update={"against": paths}),
        "release": job.release.model_copy(update={"must_beat": must_beat}),
    }


def _local_model(reference: str, folder: Path, where: str, fix: str) -> str:
    """Return the reference of a model, a path made absolute; one that is not there is an error."""
    kind, name = kind_and_name(reference)
    if kind != "path":
        return reference
    path = _absolute(folder, name)
    if not path.exists():
        raise SpecError(where, f"there is no folder or file {path}", fix)
    return str(path)
