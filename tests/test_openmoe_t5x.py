"""T5X arrays become PyTorch's tensors by the published mapping."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from metier.errors import ArtifactError
from metier.model.openmoe import OpenMoeForCausalLM
from metier.model.openmoe.checkpoint import read_config
from metier.model.openmoe.t5x import from_t5x, mapping

FIXTURE = Path(__file__).parent / "fixtures" / "openmoe"
WEIGHTS = load_file(FIXTURE / "model.safetensors")
CONFIG = read_config(FIXTURE)


def as_t5x():
    """The fixture as T5X would hold it, written out by hand."""

    def ffn(path, ours):
        for kernel, name in (("wi_0", "gate_proj"), ("wi_1", "up_proj"), ("wo", "down_proj")):
            arrays[f"{path}/{kernel}/kernel"] = WEIGHTS[f"{ours}.{name}.weight"].T.copy()

    arrays = {
        "token_embedder/embedding": WEIGHTS["model.embed_tokens.weight"],
        "decoder/decoder_norm/scale": WEIGHTS["model.norm.weight"],
        "decoder/logits_dense/kernel": WEIGHTS["lm_head.weight"].T.copy(),
    }
    for i in range(4):
        path, ours = f"decoder/layers_{i}", f"model.layers.{i}"
        arrays[f"{path}/pre_self_attention_layer_norm/scale"] = WEIGHTS[f"{ours}.input_layernorm.weight"]
        arrays[f"{path}/pre_mlp_layer_norm/scale"] = WEIGHTS[f"{ours}.post_attention_layernorm.weight"]
        for name in ("query", "key", "value", "out"):
            matrix = WEIGHTS[f"{ours}.self_attn.{name[0]}_proj.weight"]
            arrays[f"{path}/self_attention/{name}/kernel"] = matrix.T.copy()
        if i % 2 == 0:
            ffn(f"{path}/mlp", f"{ours}.mlp")
            continue
        arrays[f"{path}/mlp/router/router_weights/w/kernel"] = WEIGHTS[f"{ours}.mlp.gate_weight"].T.copy()
        for kernel, name in (("wi_0", "wi_gate"), ("wi_1", "wi_up"), ("wo", "wo")):
            arrays[f"{path}/mlp/expert/{kernel}/kernel"] = WEIGHTS[f"{ours}.mlp.experts.{name}"]
        arrays[f"{path}/pre_extra_mlp_layer_norm/scale"] = WEIGHTS[f"{ours}.pre_extra_mlp_layernorm.weight"]
        ffn(f"{path}/extra_mlp", f"{ours}.extra_mlp")
    return {f"target/{path}": array for path, array in arrays.items()}


def test_the_arrays_of_t5x_become_the_published_tensors():
    found = from_t5x(as_t5x() | {"state/step": np.zeros(1)}, CONFIG)
    assert found.keys() == WEIGHTS.keys()
    assert all(np.array_equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_the_mapping_names_every_tensor_of_the_model_once():
    with torch.device("meta"):
        names = list(OpenMoeForCausalLM(CONFIG).state_dict())
    assert sorted(row.torch for row in mapping(CONFIG)) == sorted(names)
    assert len({row.t5x for row in mapping(CONFIG)}) == len(names)


def test_arrays_that_do_not_fit_are_refused():
    path = "target/decoder/layers_1/mlp/router/router_weights/w/kernel"
    arrays = as_t5x()
    with pytest.raises(ArtifactError, match=f"{path} is missing"):
        from_t5x({name: array for name, array in arrays.items() if name != path}, CONFIG)
    with pytest.raises(ArtifactError, match=r"gate_weight of shape \(32, 8\), not \(8, 32\)"):
        from_t5x(arrays | {path: arrays[path].T}, CONFIG)
    with pytest.raises(ArtifactError, match="target/decoder/relpos belongs to no OpenMoE"):
        from_t5x(arrays | {"target/decoder/relpos": np.zeros(2)}, CONFIG)
