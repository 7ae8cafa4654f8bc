"""Whether a model is one of the families that the compiled CPU decoder knows, in structure and in code."""

import math
import sys
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lookahead.hf.compat.attention import attention_name
from lookahead.hf.compat.config import text_config
from lookahead.hf.compat.fingerprint.known_code import KNOWN_CODE, RELEASES
from lookahead.hf.compat.fingerprint.library_code import innermost, known_digest
from lookahead.hf.compat.fingerprint.places import replaced_code
from lookahead.hf.models.packed_modules import PackedEmbedding, PackedLinear, outputs_of

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Families whose layers the decoder implements. To add one, add its name and run `scripts/known_code.py`."""
PARTS = ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm")
FUNCTIONS = ("apply_rotary_pos_emb", "rotate_half", "repeat_kv", "eager_attention_forward")
_ATTENTIONS = ("sdpa", "eager")
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
_ACTIVATIONS = (nn.SiLU, SiLUActivation)


def decoder_layers(model: PreTrainedModel) -> Sequence[Any]:
    """Return the layers that a forward pass goes through: as many as the configuration says."""
    untyped: Any = model
    layers: Sequence[Any] = untyped.model.layers[: untyped.model.config.num_hidden_layers]
    return layers


def unknown_reason(model: PreTrainedModel) -> str:
    """Return what of a model the compiled CPU decoder does not know, in words; empty if it knows it."""
    family = next((name for name in FAMILIES if type(model).__name__ == f"{name}ForCausalLM"), None)
    if family is None:
        return "the compiled CPU decoder does not know it"
    try:
        return (
            _unknown_module(model, family)
            or replaced_code(model)
            or _unknown_code(model, family)
            or _unknown_structure(model)
            or _unknown_numbers(model)
        )
    except AttributeError as missing:  # a part was removed or replaced
        return f"it is not built as its family is: {missing}"


def _unknown_module(model: PreTrainedModel, family: str) -> str:
    """Return which module is of a class that its place does not have in the family."""
    expected = {
        "": "ForCausalLM",
        "model": "Model",
        "self_attn": "Attention",
        "mlp": "MLP",
        "rotary_emb": "RotaryEmbedding",
    }
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last in _LINEAR:
            is_known = type(module) in (nn.Linear, PackedLinear)
        elif last in ("embed_tokens", "layers"):
            is_known = type(module) in (nn.Embedding, PackedEmbedding, nn.ModuleList)
        elif last == "act_fn":
            is_known = type(module) in _ACTIVATIONS
        else:
            part = expected.get(last, "DecoderLayer" if last.isdigit() else "RMSNorm")
            library = f"transformers.models.{family.lower()}.modeling_{family.lower()}"
            is_known = type(module).__name__ == family + part and type(module).__module__ == library
        if not is_known:
            kind = type(module).__name__
            return f"its {name} is a {kind}" if name else f"it is a {type(module).__module__}.{kind}"
    if any(type(parameter) is not nn.Parameter for parameter in model.parameters()):
        return "its weights are not plain parameters"
    return ""


def _unknown_code(model: PreTrainedModel, family: str) -> str:
    """Return which function that the decoder stands in for has code that it does not know."""
    for name, expected, function in _functions(model, family):
        code = getattr(innermost(function), "__code__", None)
        if known_digest(function) not in KNOWN_CODE[name] or code is None or code.co_qualname != expected:
            return f"the code of {expected} is not that of transformers {RELEASES}"
    return ""


def _functions(model: PreTrainedModel, family: str) -> Iterator[tuple[str, str, Any]]:
    """Yield the functions that the decoder stands in for: known name, expected qualified name, function."""
    module = sys.modules[type(model).__module__]
    for part in PARTS:
        yield f"{part}.forward", f"{family}{part}.forward", vars(module)[family + part].forward
    for name in FUNCTIONS:
        yield name, name, vars(module)[name]
    yield "SiLUActivation.forward", "SiLUActivation.forward", SiLUActivation.forward
    if attention_name(model) == "sdpa":
        attention: Any = ALL_ATTENTION_FUNCTIONS.get("sdpa")
        is_function = isinstance(attention, FunctionType)
        yield "sdpa_attention_forward", "sdpa_attention_forward", attention
        yield "repeat_kv", "repeat_kv", attention.__globals__["repeat_kv"] if is_function else None


def _unknown_structure(model: PreTrainedModel) -> str:
    """Return how the layers are otherwise than a new model's, in words."""
    untyped: Any = model
    name = attention_name(model)
    if name not in _ATTENTIONS:
        return f"its attention function is {name}, not one of {', '.join(_ATTENTIONS)}"
    config = text_config(model)
    layers = decoder_layers(model)
    if [layer.self_attn.layer_idx for layer in layers] != list(range(config.num_hidden_layers)):
        return "its layers are not those that it was built with, in their order"
    modules = list(model.modules())
    if any(getattr(module, "config", config) is not config for module in modules):
        return "its modules do not share one configuration"
    if any(part.training for layer in layers for part in (layer, layer.self_attn)):  # dropout, checkpoints
        return "some of its layers are in training mode"
    for layer in layers:
        biased = (layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
        if any(linear.bias is not None for linear in (*biased, untyped.lm_head)):
            return "some of its layers have biases that its family does not have"
    return ""


def _unknown_numbers(model: PreTrainedModel) -> str:
    """Return which number differs between the layers, or is none, in words."""
    untyped: Any = model
    attentions = [layer.self_attn for layer in decoder_layers(model)]
    norms = [module for module in model.modules() if hasattr(module, "variance_epsilon")]
    groups = outputs_of(attentions[0].q_proj) // max(1, outputs_of(attentions[0].k_proj))
    numbers = {
        "scaling": [attention.scaling for attention in attentions],
        "head_dim": [attention.head_dim for attention in attentions],
        "num_key_value_groups": [groups, *(attention.num_key_value_groups for attention in attentions)],
        "is_causal": [True, *(attention.is_causal for attention in attentions)],
        "variance_epsilon": [untyped.model.norm.variance_epsilon, *(norm.variance_epsilon for norm in norms)],
    }
    for name, found in numbers.items():
        first = found[0]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in found):
            return f"the {name} of its layers is not a number"
        if any(number != first for number in found):
            return f"the {name} of its layers differs from layer to layer"
    return ""
