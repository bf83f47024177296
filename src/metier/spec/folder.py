"""What the weights of a model folder are, by its configuration and the heads of its files."""

from pathlib import Path
from typing import Any

from metier.artifact import read_json
from metier.errors import ArtifactError
from metier.spec.weights import EMBEDDING, EXPERTS, Weights, part_of

_AGAIN = "Delete the folder and run the command again"

_KINDS = ("model-*.safetensors", "*.safetensors")


def weights_of_folder(folder: Path, fix: str) -> Weights | None:
    """Return the weights of a model folder; None for an OpenMoE whose files are no safetensors.

    Args:
        folder: holds config.json and ``*.safetensors``.
        fix: what to do where that is damaged.

    Raises:
        ArtifactError: when it is damaged or incomplete, quantised, or no language model.
    """
    config = read_json(folder / "config.json", fix)
    if config.get("quantization_config"):
        found, wanted = "its weights are quantised already", "Choose the base in float32, float16 or bfloat16"
        raise ArtifactError(str(folder / "config.json"), found, wanted)
    files = weight_files(folder, fix)
    if not files and describes_openmoe(config):
        return None
    if not files:
        held = "config.json, a tokenizer and *.safetensors (pickled .bin files are not read)"
        raise ArtifactError(str(folder), "has no *.safetensors", f"A model folder holds {held}")
    shapes = shapes_of_folder(folder, fix)
    used = next((config[key] for key in ("num_experts_per_tok", "router_topk") if key in config), None)
    return checked(folder, shapes, used, fix)


def shapes_of_folder(folder: Path, fix: str = _AGAIN) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model folder's weights by name, an embedding that is the output matrix, too, once.

    Raises:
        ArtifactError: when a file is damaged or missing; ``fix`` says what to do, by default of a folder of metier's.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder, fix):
        shapes |= _shapes(file, fix)
    if read_json(folder / "config.json", fix).get("tie_word_embeddings", False):
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("lm_head")}
    return shapes


def weight_files(folder: Path, fix: str) -> list[Path]:
    """Return the files that hold a folder's weights, as transformers finds them: one file, else those its index names.

    Where there is neither, it is the first kind found.

    Raises:
        ArtifactError: when the index is damaged, or names a file that is not there.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        found = (sorted(folder.glob(kind)) for kind in _KINDS)
        # some authors add the weights once more, in a layout of their own
        ours = ([file for file in files if not file.name.startswith("consolidated")] for files in found)
        return next(filter(None, ours), [])
    named = read_json(index, fix).get("weight_map")
    names = set(named.values()) if isinstance(named, dict) else set()
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ArtifactError(str(index), "is no index of files beside it", fix)
    for name in sorted(names):
        if not (folder / name).is_file():
            raise ArtifactError(str(index), f"names {name}, which is missing", fix)
    return sorted(folder / name for name in names)


def checked(place: Path, shapes: dict[str, tuple[int, ...]], experts_per_token: Any, fix: str) -> Weights:
    """Return weights of these shapes.

    Raises:
        ArtifactError: when they are not those of a language model.
    """
    parts = {part_of(name) for name in shapes}
    matrices = all(len(shape) == 2 for name, shape in shapes.items() if part_of(name) == EMBEDDING)
    if not {EMBEDDING, "attention"} <= parts or not matrices:
        raise ArtifactError(str(place), "holds no language model: no embedding or no attention", fix)
    if EXPERTS in parts and not isinstance(experts_per_token, int):
        raise ArtifactError(str(place), "does not say how many experts a token passes through", fix)
    return Weights(shapes, experts_per_token if EXPERTS in parts else 0)


def _shapes(file: Path, fix: str) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(str(file), f"cannot be read ({error})", fix) from error


def describes_openmoe(config: dict[str, Any]) -> bool:
    """Whether a config.json is that of an OpenMoE model, by our model type or by the published one."""
    architectures = config.get("architectures")
    published = isinstance(architectures, list) and "OpenMoeForCausalLM" in architectures
    return published or config.get("model_type") == "openmoe"
