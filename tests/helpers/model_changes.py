"""Changes of a model that `generate` follows, each with how to undo it: between calls and within them."""

import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any

import torch
from torch import nn
from transformers.integrations import sdpa_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Change = Callable[[Any, ExitStack], None]
"""Changes a model; the stack undoes it."""

LATE = 22
"""Position above which late changes act: further than the texts of any trial."""


def set_for_now(undo: ExitStack, target: object, name: str, value: object) -> None:
    """Set an attribute until it is undone."""
    has_own = name in vars(target)
    before = vars(target).get(name)
    setattr(target, name, value)
    if has_own:
        undo.callback(setattr, target, name, before)
    else:
        undo.callback(delattr, target, name)


def modeling(model) -> Any:
    """Return the module that defines a model's classes."""
    return sys.modules[type(model).__module__]


def layer(model, index=0):
    return model.model.layers[index]


def scaled_forward(kind: type, factor: float = 1.4) -> Callable[..., Any]:
    own = kind.forward

    @wraps(own)
    def forward(self, *args, **kwargs):
        return own(self, *args, **kwargs) * factor

    return forward


def class_of_mlp(model, undo):
    kind = type(layer(model).mlp)
    set_for_now(undo, kind, "forward", scaled_forward(kind))


def class_of_norms(model, undo):
    kind = type(model.model.norm)
    set_for_now(undo, kind, "forward", scaled_forward(kind))


def class_linear(_model, undo):
    set_for_now(undo, nn.Linear, "forward", scaled_forward(nn.Linear, 1.1))


def class_embedding(_model, undo):
    set_for_now(undo, nn.Embedding, "forward", scaled_forward(nn.Embedding, 1.7))


def class_of_attention(model, undo):
    kind = type(layer(model).self_attn)
    own = kind.forward

    def forward(self, *args, **kwargs):
        states, weights = own(self, *args, **kwargs)
        return states * 2.5, weights

    set_for_now(undo, kind, "forward", forward)


def class_of_layers_late(model, undo):
    """Act on all tokens once the text is long."""
    kind = type(layer(model))
    own = kind.forward

    def forward(self, states, *args, position_ids=None, **kwargs):
        out = own(self, states, *args, position_ids=position_ids, **kwargs)
        return out * 1.5 if int(position_ids.max()) > LATE else out

    set_for_now(undo, kind, "forward", forward)


def class_of_layers_late_by_token(model, undo):
    kind = type(layer(model))
    own = kind.forward

    def forward(self, states, *args, position_ids=None, **kwargs):
        out = own(self, states, *args, position_ids=position_ids, **kwargs)
        return torch.where((position_ids > LATE)[..., None], out.flip(-1), out)

    set_for_now(undo, kind, "forward", forward)


def class_of_model(model, undo):
    kind = type(model)
    own = kind.forward

    def forward(self, *args, **kwargs):
        outputs = own(self, *args, **kwargs)
        outputs.logits = outputs.logits.flip(-1)
        return outputs

    set_for_now(undo, kind, "forward", forward)


def call_of_all_modules(model, undo):
    own, kind = nn.Module.__call__, type(layer(model).mlp)

    def call(self, *args, **kwargs):
        out = own(self, *args, **kwargs)
        return out * 1.4 if type(self) is kind else out

    set_for_now(undo, nn.Module, "__call__", call)


def call_of_one_class(model, undo):
    own, kind = nn.Module.__call__, type(layer(model).mlp)
    set_for_now(undo, kind, "__call__", lambda self, *args: own(self, *args) * 1.4)


def code_of_a_function(model, undo):
    """The function stays, its code is another."""
    function = type(layer(model).mlp).forward
    own = function.__code__

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) - self.up_proj(x))

    function.__code__ = forward.__code__
    undo.callback(setattr, function, "__code__", own)


def forward_of_another_class(model, undo):
    kind = type(layer(model).mlp)
    set_for_now(undo, kind, "forward", nn.Identity.forward)


def rotary_function(model, undo):
    module = modeling(model)
    own = module.apply_rotary_pos_emb
    set_for_now(undo, module, "apply_rotary_pos_emb", lambda q, k, cos, sin, **_: own(q * 1.3, k, cos, sin))


def half_of_the_rotary_function(model, undo):
    set_for_now(undo, modeling(model), "rotate_half", lambda x: x.flip(-1))


def mask_function(model, undo):
    """Each token sees only itself and the one before."""
    module = modeling(model)

    def mask(**given):
        length = given["past_key_values"].get_seq_length() if given["past_key_values"] is not None else 0
        tokens = given["inputs_embeds"].shape[1]
        places = torch.arange(length, length + tokens)
        keys = torch.arange(length + tokens)
        near = (keys[None] <= places[:, None]) & (keys[None] >= places[:, None] - 1)
        return near[None, None]

    set_for_now(undo, module, "create_causal_mask", mask)


def activation_function(_model, undo):
    set_for_now(undo, nn.functional, "silu", lambda x, **_: torch.tanh(x))


def linear_function(_model, undo):
    own = nn.functional.linear
    set_for_now(undo, nn.functional, "linear", lambda x, weight, bias=None: own(x, weight, bias) * 1.1)


def function_of_torch(_model, undo):
    own = torch.rsqrt
    set_for_now(undo, torch, "rsqrt", lambda x: own(x) * 1.2)


def method_of_tensors(_model, undo):
    own = torch.Tensor.pow
    set_for_now(undo, torch.Tensor, "pow", lambda self, exponent: own(self, exponent) * 3)


def other_attention(module, query, key, value, mask, **kwargs):
    kwargs["scaling"] = 0.01
    return sdpa_attention.sdpa_attention_forward(module, query, key, value, mask, **kwargs)


def registered_attention(_model, undo):
    mapping = type(ALL_ATTENTION_FUNCTIONS)._global_mapping
    undo.callback(mapping.__setitem__, "sdpa", mapping["sdpa"])
    mapping["sdpa"] = other_attention


def registered_attention_of_one_object(_model, undo):
    ALL_ATTENTION_FUNCTIONS["sdpa"] = other_attention
    undo.callback(ALL_ATTENTION_FUNCTIONS._local_mapping.pop, "sdpa")


def function_behind_the_attention(_model, undo):
    own = nn.functional.scaled_dot_product_attention

    def attend(query, key, value, **given):
        return own(query * 0.2, key, value, **given)

    set_for_now(undo, nn.functional, "scaled_dot_product_attention", attend)


def scaling_of_one_layer(model, undo):
    set_for_now(undo, layer(model, 1).self_attn, "scaling", 0.01)


def scaling_of_all_layers(model, undo):
    for found in model.model.layers:
        set_for_now(undo, found.self_attn, "scaling", 0.02)


def epsilon_of_one_norm(model, undo):
    set_for_now(undo, layer(model, 1).input_layernorm, "variance_epsilon", 30.0)


def epsilon_of_all_norms(model, undo):
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            set_for_now(undo, module, "variance_epsilon", 5.0)


def heads_in_the_configuration(model, undo):
    set_for_now(undo, model.config, "num_attention_heads", 1)


def layers_in_the_configuration(model, undo):
    set_for_now(undo, model.config, "num_hidden_layers", 1)


def strides_of_a_weight(model, undo):
    """The same memory, read as another matrix."""
    weight = layer(model).self_attn.q_proj.weight
    undo.callback(setattr, weight, "data", weight.data)
    weight.data = weight.data.t()


def memory_of_a_weight(model, undo):
    weight = layer(model).mlp.up_proj.weight
    undo.callback(setattr, weight, "data", weight.data)
    weight.data = weight.data.flip(0).contiguous()


def weight_replaced(model, undo):
    linear = layer(model).mlp.up_proj
    undo.callback(setattr, linear, "weight", linear.weight)
    linear.weight = nn.Parameter(linear.weight.detach().flip(0).clone())


def weight_shared(model, undo):
    linear = layer(model).mlp.up_proj
    undo.callback(setattr, linear, "weight", linear.weight)
    linear.weight = layer(model, 1).mlp.up_proj.weight


def numbers_of_a_weight(model, undo):
    weight = layer(model).mlp.up_proj.weight
    before = weight.detach().clone()

    def restore():
        with torch.no_grad():
            weight.copy_(before)

    undo.callback(restore)
    with torch.no_grad():
        weight.mul_(-2.0)


def bias_added(model, undo):
    linear = layer(model).self_attn.o_proj
    undo.callback(setattr, linear, "bias", None)
    linear.bias = nn.Parameter(torch.ones(linear.out_features, dtype=linear.weight.dtype) * 3)


def _layers_become(model, undo, layers):
    undo.callback(setattr, model.model, "layers", model.model.layers)
    model.model.layers = nn.ModuleList(layers)


def last_layer_deleted(model, undo):
    _layers_become(model, undo, [layer(model, 0)])


def first_layer_deleted(model, undo):
    _layers_become(model, undo, [layer(model, 1)])


def layers_shared(model, undo):
    _layers_become(model, undo, [layer(model, 0), layer(model, 0)])


def layers_swapped(model, undo):
    _layers_become(model, undo, [layer(model, 1), layer(model, 0)])


def activation_module(model, undo):
    undo.callback(setattr, layer(model).mlp, "act_fn", layer(model).mlp.act_fn)
    layer(model).mlp.act_fn = nn.GELU()


def module_of_another_class(model, undo):
    class Negated(nn.Linear):
        def forward(self, states):
            return -super().forward(states)

    linear = layer(model, 1).mlp.up_proj
    undo.callback(setattr, linear, "__class__", nn.Linear)
    linear.__class__ = Negated


def hook(model, undo):
    handle = layer(model, 1).mlp.register_forward_hook(lambda _module, _inputs, output: output.flip(-1))
    undo.callback(handle.remove)


def hook_before(model, undo):
    handle = layer(model).mlp.register_forward_pre_hook(lambda _module, inputs: (inputs[0].flip(-1),))
    undo.callback(handle.remove)


def hook_of_all_modules(model, undo):
    kind = type(layer(model).mlp)
    register = nn.modules.module.register_module_forward_hook
    handle = register(lambda module, _inputs, out: out.flip(-1) if type(module) is kind else None)
    undo.callback(handle.remove)


def forward_of_one_module(model, undo):
    mlp = layer(model).mlp
    own = mlp.forward
    set_for_now(undo, mlp, "forward", lambda states: own(states).flip(-1))


def attention_implementation(model, undo):
    undo.callback(model.set_attn_implementation, model.config._attn_implementation)
    model.set_attn_implementation("eager")


def with_adapters(model):
    """Return the model with two adapters, the first of them active."""
    import peft

    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # peft warns of a second adapter
        for name in ("first", "second"):
            config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            model.add_adapter(config, adapter_name=name)
    model.set_adapter("first")
    return model.eval()


def other_adapter(model, undo):
    model.set_adapter("second")
    undo.callback(model.set_adapter, "first")


def no_adapter(model, undo):
    model.disable_adapters()
    undo.callback(model.enable_adapters)


def strength_of_an_adapter(model, undo):
    linear = layer(model).self_attn.q_proj
    undo.callback(linear.scaling.__setitem__, "first", linear.scaling["first"])
    linear.scaling["first"] *= -5


ADAPTER_CHANGES: list[Change] = [other_adapter, no_adapter, strength_of_an_adapter]

CHANGES: list[Change] = [
    class_of_mlp,
    class_of_norms,
    class_linear,
    class_embedding,
    class_of_attention,
    class_of_layers_late,
    class_of_layers_late_by_token,
    class_of_model,
    call_of_all_modules,
    call_of_one_class,
    code_of_a_function,
    forward_of_another_class,
    rotary_function,
    half_of_the_rotary_function,
    mask_function,
    activation_function,
    linear_function,
    function_of_torch,
    method_of_tensors,
    registered_attention,
    registered_attention_of_one_object,
    function_behind_the_attention,
    scaling_of_one_layer,
    scaling_of_all_layers,
    epsilon_of_one_norm,
    epsilon_of_all_norms,
    heads_in_the_configuration,
    layers_in_the_configuration,
    strides_of_a_weight,
    memory_of_a_weight,
    weight_replaced,
    weight_shared,
    numbers_of_a_weight,
    bias_added,
    last_layer_deleted,
    first_layer_deleted,
    layers_shared,
    layers_swapped,
    activation_module,
    module_of_another_class,
    hook,
    hook_before,
    hook_of_all_modules,
    forward_of_one_module,
    attention_implementation,
]
