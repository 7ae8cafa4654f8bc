"""Models whose steps are fused on the CPU: the weights are read where transformers keeps them.

Nothing of the model is changed. Its prompt is read by its own code, and so is every step of a model that is
not exactly as the library makes it: an adapter, a hook, packed weights, another device.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from lookahead.backends.cpu.decoder import DecoderWeights, FusedDecoder, LayerWeights
from lookahead.backends.cpu.kernels.vectors import multiplies_and_adds
from lookahead.backends.cpu.team import torch_team
from lookahead.decoding.arena import KVArena
from lookahead.decoding.attention.visibility import TreeRow
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.traits import text_config

_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Whose layers are those of `decoding.fused`. To add one: a name here, and the probe will tell."""
_PARTS = ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")
_COMMON = (nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_parametrizations")
_HOOKS_OF_ALL = ("_global_forward_hooks", "_global_forward_pre_hooks")


class FusedModel:
    """A model's step, fused.

    Args:
        model: one that `why_not_fused` has nothing to say against.
        layout: how its layers see the past.
    """

    def __init__(self, model: PreTrainedModel, layout: AttentionLayout) -> None:
        untyped: Any = model
        team = torch_team()
        assert team is not None, "asked only where steps can be fused"  # noqa: S101  # cannot happen
        self._embed = untyped.get_input_embeddings()
        self._rotary = untyped.model.rotary_emb
        weights = _weights_of(model, layout)
        self._decoder = FusedDecoder(weights, team)

    def forward(
        self, tokens: Tensor, positions: Tensor, rows: Sequence[TreeRow], start: int, arena: KVArena
    ) -> Tensor | None:
        """Verify draft trees behind an arena and append them to it.

        Args:
            tokens: int64 [B, n].
            positions: int64 [B, n].
            rows: B trees.
            start: the slot of node 0 in all rows.
            arena: holds what stands before the trees.

        Returns:
            Logits [B, n, V]; None, and nothing has been done, where the arena or the padding is of a kind
            that only the model's own forward deals with.
        """
        if not all(row.is_padded_left for row in rows):
            return None
        cache = arena.claim(tokens.shape[1])
        if cache is None:
            return None
        embedded = self._embed(tokens)
        turning = self._rotary(embedded, position_ids=positions)
        return self._decoder.forward(embedded, turning, rows, start, cache)


def build_of(model: PreTrainedModel) -> tuple[object, ...]:
    """Return what `why_not_fused` depends on: the same as long as nothing of it changes, and quickly had."""
    found: list[object] = [torch.is_autocast_enabled("cpu"), "_compiled_call_impl" in vars(model)]
    found += [bool(getattr(nn.modules.module, hooks, None)) for hooks in _HOOKS_OF_ALL]
    waiting: list[nn.Module] = [model]
    while waiting:
        module = waiting.pop()
        state = vars(module)
        hooked = tuple(bool(state.get(hooks)) for hooks in _HOOKS)
        found += [type(module), "forward" in state, hooked]
        for parameter in state["_parameters"].values():
            found += [type(parameter), None if parameter is None else parameter.data_ptr()]
        waiting += [child for child in state["_modules"].values() if child is not None]
    return tuple(found)


def why_not_fused(model: PreTrainedModel) -> str:
    """Return why a model's steps are left to its own code, in words; empty where they can be fused."""
    family = next((name for name in _FAMILIES if type(model).__name__ == f"{name}ForCausalLM"), None)
    if family is None or model.device.type != "cpu":
        return "no fused step is known for it"
    is_compiled = getattr(model, "_compiled_call_impl", None) is not None
    are_hooked = any(getattr(nn.modules.module, hooks, None) for hooks in _HOOKS_OF_ALL)
    if is_compiled or are_hooked or torch.is_autocast_enabled("cpu"):
        return "it is compiled, computes in mixed precision or has a hook that all modules have"
    known = {f"{family}{part}" for part in _PARTS}
    for name, module in model.named_modules():
        if not (type(module) in _COMMON or (type(module).__name__ in known and _is_the_librarys(module))):
            return f"its {name} is a {type(module).__name__}"
        if "forward" in vars(module) or any(getattr(module, hooks, None) for hooks in _HOOKS):
            return f"its {name} has a hook"
    if any(type(parameter) is not nn.Parameter for parameter in model.parameters()):
        return "its weights are of a kind of their own"
    return _misfit(model)


def _misfit(model: PreTrainedModel) -> str:
    untyped: Any = model
    config = text_config(model)
    for layer in untyped.model.layers:
        biased = (layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
        if any(linear.bias is not None for linear in (*biased, untyped.lm_head)):
            return "some of its layers have biases that others of its kind have not"
    if config.hidden_act != "silu":
        return f"its gated units use {config.hidden_act}"
    if torch_team() is None:
        return "torch computes without OpenMP here"
    if not multiplies_and_adds():
        return "this processor has no fused multiply-add"
    return _weights_of(model, None).misfit()


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


def _is_the_librarys(module: nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.")
