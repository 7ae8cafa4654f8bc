"""Steps by the compiled CPU decoder, which reads the weights in the memory of the model's parameters.

The model is not changed. Its own code reads the prompt, and runs every step of a model that is modified in
any way: an adapter, a hook, replaced code, packed weights, another device.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedModel

from lookahead.backends.cpu.decoder import CpuDecoder, DecoderWeights, LayerWeights
from lookahead.backends.cpu.kernels.vectors import multiplies_and_adds
from lookahead.backends.cpu.tables import TreeTables
from lookahead.backends.cpu.team import torch_thread_team
from lookahead.hf.compat.fingerprint.known_models import decoder_layers, unknown_reason
from lookahead.hf.compat.layout import AttentionLayout
from lookahead.hf.compat.modifications import modifications
from lookahead.hf.steps.runner import StepBatch, StepLogits


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

        Return None if padding is not on the left, if the layers do not all lie in one tensor in order, or if
        the model changed so that the decoder does not support it.
        """
        if not batch.is_padded_left:
            return None
        model: Any = self._model
        size = batch.width
        embedded = model.model.embed_tokens(batch.tokens(size))
        rope = model.model.rotary_emb(embedded, position_ids=batch.positions(size))
        decoder = self._decoder
        cache = None if decoder is None else batch.cache.arena.claim_for_writing(size)
        if decoder is None or cache is None or not decoder.fits(cache):
            return None
        slots = [row.slot for row in batch.rows]
        trees = TreeTables.of(batch.tree_rows, size=size, cache_rows=slots, windows=decoder.windows)
        cosines, sines = (part.expand(len(slots), -1, -1).flatten(0, 1) for part in rope)
        logits = decoder.forward(embedded.flatten(0, 1), (cosines, sines), trees, cache)
        return StepLogits(logits.view(len(slots), size, -1), range(len(slots)))

    def close(self) -> None:
        """Do nothing: nothing is borrowed."""

    @cached_property
    def _decoder(self) -> CpuDecoder | None:
        """The decoder of the weights as they are at the first step; None if they are not supported then.

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
        output=untyped.lm_head.weight.detach(),
        heads=attention.q_proj.weight.shape[0] // attention.head_dim,
        key_heads=attention.k_proj.weight.shape[0] // attention.head_dim,
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
        projections=[linear.weight.detach() for linear in projections],
        out=attention.o_proj.weight.detach(),
        inner_norm=layer.post_attention_layernorm.weight.detach(),
        gate=units.gate_proj.weight.detach(),
        up=units.up_proj.weight.detach(),
        down=units.down_proj.weight.detach(),
        biases=[None if linear.bias is None else linear.bias.detach() for linear in projections],
        head_norms=[None if norm is None else norm.weight.detach() for norm in norms],
        window=window,
    )
