"""The shapes of the released bases that this project was tried with, for a plan before one is fetched."""

import re
from dataclasses import dataclass
from pathlib import Path

from metier.artifact import read_json
from metier.errors import ArtifactError
from metier.spec.contestants import kind_and_name
from metier.spec.weights import Weights

TRIED = Path(__file__).with_name("tried.json")
"""Read with `metier.run.gguf_header.read_header` from the files in these packages. All layers of each are alike."""


@dataclass(frozen=True)
class Tried:
    """A released base whose shapes come with metier."""

    name: str
    weights: Weights


def tried_base(reference: str) -> Tried | None:
    """Return the shapes of a base by the package it comes in; None for any other base, and any other version of it.

    Raises:
        ArtifactError: when the file with the shapes is damaged.
    """
    kind, name = kind_and_name(reference)
    package, _, version = (part.strip() for part in name.partition("=="))
    known = f"{kind}:{re.sub(r'[-_.]+', '-', package).lower()}"
    fix = "Install metier again"
    try:
        one = read_json(TRIED, fix).get(known)
        if one is None or version not in ("", one["version"]):
            return None
        layers = {f"blk.{n}.{name}": tuple(size) for n in range(one["layers"]) for name, size in one["layer"].items()}
        beside = {name: tuple(size) for name, size in one["beside"].items()}
        return Tried(f"{one['name']} {one['version']}", Weights({**beside, **layers}))
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(str(TRIED), f"is no table of shapes ({error!r})", fix) from error
