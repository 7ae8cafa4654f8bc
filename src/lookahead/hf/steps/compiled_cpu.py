"""Steps by the compiled CPU decoder, which reads the weights in the memory of the model's parameters.

The model is not changed. Its own code reads the prompt, and runs every step of a model that is modified in
any way: an adapter, a hook, packed weights, another device.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from lookahead.backends.cpu.decoder import CpuDecoder, DecoderWeights, LayerWeights
from lookahead.backends.cpu.kernels.vectors import multiplies_and_adds
from lookahead.backends.cpu.team import torch_thread_team
from lookahead.hf.compat.config import text_config
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.modifications import modifications
from lookahead.hf.steps.runner import StepBatch, StepLogits

_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Families whose layers `backends.cpu` implements. To add one, add its name: the probe checks it."""
_PARTS = ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")
_COMMON = (nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation)


class CpuRunner:
    """A model's steps by the compiled CPU decoder, which is created at the first step after the prompt.

    Args:
        model: One that `unsupported_reason` is empty for.
        layout: How its layers see the past.
    """

    def __init__(self, model: PreTrainedModel, layout: AttentionLayout) -> None:
        self._model = model
        self._layout = layout

    def run(self, batch: StepBatch) -> StepLogits | None:
        """Verify trees.

        Return None if padding is not on the left, or if the layers do not all lie in one tensor in order.
        """
        if not batch.is_padded_left:
            return None
        size = batch.width
        cache = batch.cache.arena.claim_for_writing(size)
        if cache is None:
            return None
        model: Any = self._model
        embedded = model.get_input_embeddings()(batch.tokens(size))
        rope = model.model.rotary_emb(embedded, position_ids=batch.positions(size))
        slots = [row.slot for row in batch.rows]
        logits = self._decoder.forward(embedded, rope, batch.tree_rows, slots, cache)
        return StepLogits(logits, range(len(slots)))

    def close(self) -> None:
        """Do nothing: nothing is borrowed."""

    @cached_property
    def _decoder(self) -> CpuDecoder:
        team = torch_thread_team()
        assert team is not None, "used only if the decoder is supported"  # noqa: S101  # cannot happen
        return CpuDecoder(_weights_of(self._model, self._layout), team)


def unsupported_reason(model: PreTrainedModel) -> str:
    """Return why the compiled CPU decoder does not support a model, in words; empty if it does.

    Reasons that the weights give are in `DecoderWeights.unsupported_reason`. `CpuRunner.run` and
    `KVArena.claim_for_writing` decide, for each batch, what the model's own code serves.
    """
    family = next((name for name in _FAMILIES if type(model).__name__ == f"{name}ForCausalLM"), None)
    if family is None:
        return "the compiled CPU decoder does not know it"
    if model.device.type != "cpu":
        return f"it is on {model.device}, not on the CPU"
    known = {f"{family}{part}" for part in _PARTS}
    for name, module in model.named_modules():
        if not (type(module) in _COMMON or (type(module).__name__ in known and _is_library_module(module))):
            return f"its {name} is a {type(module).__name__}"
    if any(type(parameter) is not nn.Parameter for parameter in model.parameters()):
        return "its weights are not plain parameters"
    return modifications(model) or _unsupported_weights(model)


def _unsupported_weights(model: PreTrainedModel) -> str:
    untyped: Any = model
    config = text_config(model)
    for layer in untyped.model.layers:
        biased = (layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
        if any(linear.bias is not None for linear in (*biased, untyped.lm_head)):
            return "some of its layers have biases that its family does not have"
    if config.hidden_act != "silu":
        return f"its MLP uses {config.hidden_act}, not silu"
    if torch_thread_team() is None:
        return "torch does not use OpenMP here"
    if not multiplies_and_adds():
        return "this processor has no fused multiply-add"
    return _weights_of(model, None).unsupported_reason()


def _weights_of(model: PreTrainedModel, layout: AttentionLayout | None) -> DecoderWeights:
    untyped: Any = model
    attention = untyped.model.layers[0].self_attn
    config = text_config(model)
    windows: Sequence[int | None] = layout.kept if layout is not None and layout.kept else ()
    layers = [
        _layer_weights(layer, windows[index] if index < len(windows) else None)
        for index, layer in enumerate(untyped.model.layers)
    ]
    return DecoderWeights(
        layers,
        last_norm=untyped.model.norm.weight,
        output=untyped.lm_head.weight,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        width=attention.head_dim,
        epsilon=untyped.model.norm.variance_epsilon,
        scale=attention.scaling,
    )


def _layer_weights(layer: Any, window: int | None) -> LayerWeights:
    attention, units = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    norms = (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
    return LayerWeights(
        norm=layer.input_layernorm.weight,
        projections=[linear.weight for linear in projections],
        out=attention.o_proj.weight,
        inner_norm=layer.post_attention_layernorm.weight,
        gate=units.gate_proj.weight,
        up=units.up_proj.weight,
        down=units.down_proj.weight,
        biases=[linear.bias for linear in projections],
        head_norms=[None if norm is None else norm.weight for norm in norms],
        window=window,
    )


def _is_library_module(module: nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.")
