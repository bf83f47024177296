"""OpenMoE (Xue et al. 2024): the model, its published checkpoints and the conventions of its tokenizer."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from metier.model.openmoe.config import OpenMoeConfig
from metier.model.openmoe.modeling import OpenMoeForCausalLM, OpenMoeModel
from metier.model.openmoe.routing import Routing

AutoConfig.register(OpenMoeConfig.model_type, OpenMoeConfig, exist_ok=True)
AutoModel.register(OpenMoeConfig, OpenMoeModel, exist_ok=True)
AutoModelForCausalLM.register(OpenMoeConfig, OpenMoeForCausalLM, exist_ok=True)

__all__ = ["OpenMoeConfig", "OpenMoeForCausalLM", "OpenMoeModel", "Routing"]
