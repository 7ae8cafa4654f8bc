"""Prompts and steps by the compiled CPU decoder, which reads the weights in the model's parameters.

The model is not changed. Its own code runs every forward pass of a model that is modified in any way: an
adapter, a hook, replaced code, weights packed by others, another device.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lookahead.backends.cpu.decoder import CpuDecoder, DecoderWeights, LayerWeights
from lookahead.backends.cpu.kernels.vectors import multiplies_and_adds
from lookahead.backends.cpu.tables import TreeTables
from lookahead.backends.cpu.team import torch_thread_team
from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.fingerprint.known_models import decoder_layers, unknown_reason
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.modifications import modifications
from lookahead.hf.models.packed_modules import matrix_of, outputs_of
from lookahead.hf.steps.runner import StepBatch, StepLogits


class CpuRunner:
    """A model's forward passes by the compiled CPU decoder, which is created at the first one.

    Args:
        model: One that `unsupported_reason` is empty for.
        layout: How its layers see the past.
    """

    def __init__(self, model: PreTrainedModel, layout: AttentionLayout) -> None:
        self._model = model
        self._layout = layout

    def create(self, cache: ArenaCache) -> bool:
        """Create a cache's layers, if it has none yet; return whether the decoder supports the model."""
        if self._decoder is None:
            return False
        cache.create(self._decoder.states)
        return True

    def run(self, batch: StepBatch) -> StepLogits | None:
        """Verify trees, each row's of its own size.

        Return None if padding is not on the left, if the layers do not all lie in one tensor in order, or if
        the model changed so that the decoder does not support it.
        """
        logits = self._forward(batch, None)
        return None if logits is None else StepLogits(logits, range(len(batch.rows)))

    def read(self, batch: StepBatch, logits_of: Sequence[int]) -> Sequence[Tensor] | None:
        """Read parts of prompts and trees of any sizes in one forward pass; None in the cases of `run`."""
        return self._forward(batch, logits_of)

    def _forward(self, batch: StepBatch, logits_of: Sequence[int] | None) -> Sequence[Tensor] | None:
        """Return, for each row, the logits of its last nodes, as many as are wanted; of all if None."""
        shifts = [row.shift for row in batch.rows if row.shift is not None]
        if not batch.is_padded_left or any(shift.ndim > 0 for shift in shifts):
            return None
        model: Any = self._model
        embedded = model.model.embed_tokens(batch.flat_tokens[None])
        rope = model.model.rotary_emb(embedded, position_ids=batch.flat_positions[None])
        decoder, arena = self._decoder, batch.cache.arena
        if decoder is None or not self.create(batch.cache):
            return None
        slots = [row.slot for row in batch.rows]
        by_row = {slot: len(tree) for slot, tree in zip(slots, batch.trees, strict=True)}
        cache = arena.claim_for_writing(max(by_row.values()), by_row)
        if cache is None or not decoder.fits(cache):
            return None
        trees = TreeTables.of(batch.tree_rows, cache_rows=slots, windows=decoder.windows)
        logits = decoder.forward(embedded[0], (rope[0][0], rope[1][0]), trees, cache, logits_of)
        return torch.split(logits, list(by_row.values() if logits_of is None else logits_of))

    def close(self) -> None:
        """Do nothing: nothing is borrowed."""

    @cached_property
    def _decoder(self) -> CpuDecoder | None:
        """The decoder of the weights as they are at the first forward pass; None if they are not supported.

        It holds the memory that it reads, also when a parameter is given another. `StepRunners` makes a new
        runner when the weights move.
        """
        weights, team = _weights_of(self._model, self._layout), torch_thread_team()
        return None if team is None or weights.unsupported_reason() else CpuDecoder(weights, team)


def unsupported_reason(model: PreTrainedModel) -> str:
    """Return why the compiled CPU decoder does not support a model, in words; empty if it does.

    Reasons that the weights give are in `DecoderWeights.unsupported_reason`. `CpuRunner.run` and
    `KVArena.claim_for_writing` decide, for each batch, what the model's own code serves.
    """
    if model.device.type != "cpu":
        return f"it is on {model.device}, not on the CPU"
    reason = modifications(model) or unknown_reason(model)
    if reason:
        return reason
    if torch_thread_team() is None:
        return "torch does not use OpenMP here"
    if not multiplies_and_adds():
        return "this processor has no fused multiply-add"
    return _weights_of(model, None).unsupported_reason()


def _weights_of(model: PreTrainedModel, layout: AttentionLayout | None) -> DecoderWeights:
    """Return the weights as aliases, which keep their memory when a parameter is given another."""
    untyped: Any = model
    attention = untyped.model.layers[0].self_attn
    windows: Sequence[int | None] = layout.kept if layout is not None and layout.kept else ()
    layers = [
        _layer_weights(layer, windows[index] if index < len(windows) else None)
        for index, layer in enumerate(decoder_layers(model))
    ]
    return DecoderWeights(
        layers,
        last_norm=untyped.model.norm.weight.detach(),
        output=matrix_of(untyped.lm_head),
        heads=outputs_of(attention.q_proj) // attention.head_dim,
        key_heads=outputs_of(attention.k_proj) // attention.head_dim,
        width=attention.head_dim,
        epsilon=untyped.model.norm.variance_epsilon,
        scale=attention.scaling,
    )


def _layer_weights(layer: Any, window: int | None) -> LayerWeights:
    attention, units = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    norms = (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
    return LayerWeights(
        norm=layer.input_layernorm.weight.detach(),
        projections=[matrix_of(linear) for linear in projections],
        out=matrix_of(attention.o_proj),
        inner_norm=layer.post_attention_layernorm.weight.detach(),
        gate=matrix_of(units.gate_proj),
        up=matrix_of(units.up_proj),
        down=matrix_of(units.down_proj),
        biases=[None if linear.bias is None else linear.bias.detach() for linear in projections],
        head_norms=[None if norm is None else norm.weight.detach() for norm in norms],
        window=window,
    )
