"""OpenMoE as a transformers model.

B = batch, T = time, H = model width, V = vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel, initialization
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, MoeCausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.utils.output_capturing import capture_outputs

from metier.model.openmoe.config import OpenMoeConfig
from metier.model.openmoe.layers import (
    OpenMoeAttention,
    OpenMoeExperts,
    OpenMoeLayer,
    OpenMoeSparseFfn,
    Projection,
    Rotation,
)
from metier.model.openmoe.losses import causal_lm_loss, router_losses
from metier.model.openmoe.routing import Routing


@dataclass
class OpenMoeModelOutput(BaseModelOutputWithPast):
    """Hidden states, and what each MoE layer decided."""

    routing: tuple[Routing, ...] | None = None


@dataclass
class OpenMoeOutput(MoeCausalLMOutputWithPast):
    """Logits, losses (``aux_loss`` is the load balance), and what each MoE layer decided."""

    z_loss: Tensor | None = None
    routing: tuple[Routing, ...] | None = None


class OpenMoePreTrainedModel(PreTrainedModel):
    """What the library needs to know: what can be recorded, split and checkpointed, and how weights begin."""

    config: OpenMoeConfig
    config_class = OpenMoeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["OpenMoeLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": OpenMoeLayer, "attentions": OpenMoeAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Begin as the JAX code does: variance 0.1 / fan-in, the query's divided by D for the unscaled attention."""
        if isinstance(module, Projection):
            initialization.normal_(module.weight, std=module.std)
        elif isinstance(module, nn.Linear):
            _truncated_normal(module)
        elif isinstance(module, nn.Embedding):
            initialization.normal_(module.weight, std=1.0)
        elif isinstance(module, LlamaRMSNorm):
            initialization.ones_(module.weight)
        elif isinstance(module, OpenMoeExperts):
            for weight_EIO in (module.wi_gate, module.wi_up, module.wo):
                initialization.normal_(weight_EIO, std=math.sqrt(0.1 / weight_EIO.shape[1]))
        elif isinstance(module, OpenMoeSparseFfn):
            initialization.normal_(module.gate_weight, std=self.config.initializer_range)
        elif isinstance(module, LlamaRotaryEmbedding):
            super()._init_weights(module)  # type: ignore[no-untyped-call]


def _truncated_normal(linear: nn.Linear) -> None:
    """Draw within two standard deviations, widened so that the variance is 0.1 / fan-in all the same (as JAX does)."""
    std = math.sqrt(0.1 / linear.in_features) / 0.87962566103423978
    initialization.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)


class OpenMoeModel(OpenMoePreTrainedModel):
    """The decoder without its head."""

    def __init__(self, config: OpenMoeConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([OpenMoeLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)  # type: ignore[arg-type]  # reads what ours has, too
        self.post_init()  # type: ignore[no-untyped-call]

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> OpenMoeModelOutput:
        """Return the last hidden states ``[B, T, H]`` and each MoE layer's routing.

        Args:
            input_ids: tokens ``[B, T]``; or give ``inputs_embeds``.
            attention_mask: ``[B, cached + T]``, 0 for padding; or a finished ``[B, 1, T, cached + T]`` mask.
            position_ids: ``[B, T]``; by default places in the row, padding counted. Only differences matter.
            cache: keys and values of earlier tokens.
            inputs_embeds: ``[B, T, H]`` instead of tokens.
            use_cache: whether to return a cache.
            kwargs: what the library's attention functions take.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        h_BTH: Tensor = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        past = cache.get_seq_length() if cache is not None else 0
        places = (torch.arange(h_BTH.shape[1], device=h_BTH.device) + past)[None]
        position_ids = places if position_ids is None else position_ids
        query_ids = position_ids
        if self.config.released_inference and attention_mask is not None:
            attention_mask, query_ids, position_ids = _as_released(attention_mask, places)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=h_BTH,
            attention_mask=attention_mask,
            cache=cache,
            position_ids=position_ids,
        )
        rotation = Rotation(self.rotary_emb(h_BTH, query_ids), self.rotary_emb(h_BTH, position_ids))
        routings = []
        for layer in self.layers:
            h_BTH, routing = layer(h_BTH, rotation, mask, cache=cache, **kwargs)
            if routing is not None:
                routings.append(routing)
        return OpenMoeModelOutput(last_hidden_state=self.norm(h_BTH), cache=cache, routing=tuple(routings))


def _as_released(mask_BT: Tensor, places_1T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mask, query places and key places with the oddities of the released inference code.

    Key 0 is visible, even as padding. In a step of one token the query's place does not count padding, and its
    key's does; since the text's first token is the padding id, that shifts most queries by one.
    """
    query_BT = mask_BT.sum(dim=1, keepdim=True) - 1 if places_1T.shape[1] == 1 else places_1T
    visible_BT = torch.cat([torch.ones_like(mask_BT[:, :1]), mask_BT[:, 1:]], dim=1)
    return visible_BT, query_BT, places_1T


class OpenMoeForCausalLM(OpenMoePreTrainedModel, GenerationMixin):
    """OpenMoE with its head, which is not tied to the embedding."""

    def __init__(self, config: OpenMoeConfig) -> None:
        super().__init__(config)
        self.model = OpenMoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_routing: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> OpenMoeOutput:
        """Return float32 logits ``[B, T, V]`` and, with labels, the training loss.

        The loss is the mean over targets of cross-entropy and output z-loss, plus load balance and router z-loss,
        each the mean over MoE layers, times the factors of the configuration.

        Args:
            input_ids: see `OpenMoeModel.forward`, also for those not named here.
            attention_mask: 0 for padding.
            position_ids: positions.
            cache: earlier keys and values.
            inputs_embeds: instead of tokens.
            labels: the tokens themselves ``[B, T]``; -100 and the padding id are no targets.
            use_cache: whether to return a cache.
            logits_to_keep: compute the head for the last so many positions; 0: for all.
            output_routing: return each MoE layer's `Routing`, and the router losses.
            num_items_in_batch: divide the summed loss by this instead of the number of targets.
            kwargs: passed on.
        """
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits_BTV = self.lm_head(out.last_hidden_state[:, -logits_to_keep:]).float()
        loss, balance, router_z = None, None, None
        if out.routing and (labels is not None or output_routing):
            balance, router_z = router_losses(out.routing)
        if labels is not None:
            loss = causal_lm_loss(
                logits_BTV,
                labels,
                pad=self.config.pad_token_id,
                label_smoothing=self.config.label_smoothing,
                z_loss=self.config.z_loss_factor,
                count=num_items_in_batch,
            )
            if balance is not None and router_z is not None:
                loss = loss + self.config.router_aux_loss_factor * balance + self.config.router_z_loss_factor * router_z
        return OpenMoeOutput(
            loss=loss,
            aux_loss=balance,
            z_loss=router_z,
            logits=logits_BTV,
            cache=out.cache,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            routing=out.routing if output_routing else None,
        )

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """Generate as the library does, but take the start token, whose id is also the padding's, for text.

        Without an attention mask, the library would hide every token that has the padding id.
        """
        ids_BT = inputs if inputs is not None else kwargs.get("input_ids")
        if ids_BT is not None and kwargs.get("attention_mask") is None and not self.config.released_inference:
            kwargs["attention_mask"] = text_mask(ids_BT, self.config.pad_token_id)
        return super().generate(inputs, **kwargs)


def text_mask(ids_BT: Tensor, pad: int | None) -> Tensor:
    """Return 0 for left padding, 1 for the start token, which is the last of a row's leading padding ids, and after."""
    leading_BT = (ids_BT == (-1 if pad is None else pad)).long().cumprod(dim=1)
    padding_BT = torch.cat([leading_BT[:, 1:], torch.zeros_like(leading_BT[:, :1])], dim=1)
    return 1 - padding_BT
