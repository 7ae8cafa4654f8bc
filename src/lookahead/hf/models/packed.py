"""Loading a GGUF file with its weights as they lie, mapped and shared between processes, or unpacked.

Both have the very numbers that transformers' dequantizing gives. The configuration and the tokenizer are
those that transformers makes of the file, in a second or two; both are kept in the user's cache folder.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.backends.cpu.packed import PackedMatrix
from lookahead.errors import UnsupportedModelError
from lookahead.hf.machine.cache_folder import user_cache_folder
from lookahead.hf.models.copies import load_copy, store_copy
from lookahead.hf.models.gguf import (
    READ_BY_US,
    check_gguf_packages,
    load_gguf,
    load_gguf_config,
    load_gguf_tokenizer,
    quiet_transformers,
)
from lookahead.hf.models.gguf_file import GgufFile, GgufTensor
from lookahead.hf.models.packed_modules import PackedEmbedding, PackedLinear

_DTYPES = (torch.bfloat16, torch.float32)
_INTERLEAVED = ("llama",)
"""Architectures in whose files the two halves of each query and key head take turns."""
_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_IGNORED = ("rope_freqs.weight",)
"""Tensors that transformers does not read either."""


def load_packed(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model, in eval mode on the CPU with its weights packed, and its tokenizer.

    Raises:
        MissingDependencyError: `gguf` or `accelerate` is not installed.
        UnsupportedModelError: The file's architecture, a weight's format or the dtype is not supported.
    """
    if dtype not in _DTYPES:
        message = f"packed weights cannot be unpacked to {dtype}; choose bfloat16 or float32, or packed=False"
        raise UnsupportedModelError(message)
    return _load(path, dtype, is_packed=True)


def load_unpacked(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model, in eval mode on the CPU with ordinary weights, and its tokenizer.

    Transformers converts what cannot be read here.

    Raises:
        MissingDependencyError: `gguf` or `accelerate` is not installed.
    """
    try:
        return _load(path, dtype, is_packed=False)
    except UnsupportedModelError:
        return load_gguf(path, dtype)


def _load(
    path: Path, dtype: torch.dtype, *, is_packed: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    check_gguf_packages()
    file = GgufFile.read(path)
    architecture = file.metadata.get("general.architecture")
    if architecture not in READ_BY_US:
        message = (
            f"{path.name} holds a model of architecture {architecture!r}, whose weights cannot stay packed; "
            f"those of {', '.join(READ_BY_US)} can; load it with packed=False"
        )
        raise UnsupportedModelError(message)
    config, tokenizer = _config_and_tokenizer(file)
    config.name_or_path = tokenizer.name_or_path = str(path.parent)  # as without a copy
    model = _empty_model(config, dtype)
    _fill(model, file, dtype, is_packed=is_packed)
    return model.eval(), tokenizer


def _config_and_tokenizer(file: GgufFile) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return what transformers makes of a file, from a copy if there is one: reading that takes less."""
    cache = user_cache_folder()
    name = f"{file.digest[:16]}-transformers-{transformers.__version__}"
    folder = None if cache is None else cache / "gguf" / name
    copied = load_copy(folder, _read_copy)
    if copied is not None:
        return copied
    config = load_gguf_config(file)
    tokenizer = load_gguf_tokenizer(file.path, config)
    if type(tokenizer) is PreTrainedTokenizerFast:  # others do not read what they have written as it was
        store_copy((config, tokenizer), folder)
    return config, tokenizer


def _read_copy(folder: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return config, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model whose parameters have no memory yet; its buffers are as they should be."""
    from accelerate import init_empty_weights  # noqa: PLC0415  # takes a second, and is an extra

    with init_empty_weights(include_buffers=False), quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model


def _fill(model: PreTrainedModel, file: GgufFile, dtype: torch.dtype, *, is_packed: bool) -> None:
    """Put the file's weights into a model: packed matrices as modules of ours, numbers as parameters."""
    mapped = file.map()
    matrices = dict(_matrices(model, file, mapped, dtype if dtype in _DTYPES else torch.float32))
    for name, tensor in file.tensors.items():
        if name in _IGNORED:
            continue
        place = _place_of(name)
        if place not in matrices:
            module_name, _, kind = place.rpartition(".")
            numbers = _numbers(file, mapped, tensor, dtype)
            _set_numbers(model, module_name, kind, numbers, learns=not is_packed)
    for place, matrix in matrices.items():
        name = place.removesuffix(".weight")
        if is_packed:
            _set_packed(model, name, matrix)
        else:
            _set_numbers(model, name, "weight", matrix.numbers().to(dtype), learns=True)
    if "output.weight" not in file.tensors:
        embeddings = model.get_submodule("model.embed_tokens")
        if isinstance(embeddings, PackedEmbedding):
            model.set_submodule("lm_head", PackedLinear(embeddings.packed))
        else:
            model.get_submodule("lm_head").weight = embeddings.weight
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        message = f"{file.path.name} has no weights for {', '.join(missing[:3])}; its file is incomplete"
        raise UnsupportedModelError(message)


def _matrices(
    model: PreTrainedModel, file: GgufFile, mapped: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, PackedMatrix]]:
    """Yield the weights that stay packed, by the name of their parameter."""
    architecture = file.metadata["general.architecture"]
    for tensor in file.tensors.values():
        packing = tensor.packing
        if tensor.dtype is not None or tensor.name in _IGNORED:
            continue
        if packing is None:
            message = (
                f"{tensor.name} is in format {_format_name(tensor.kind)}, which cannot stay packed; "
                f"{', '.join(known.name for known in Packing)} can; load the file with packed=False"
            )
            raise UnsupportedModelError(message)
        takes_turns = ".attn_q." in tensor.name or ".attn_k." in tensor.name
        head = _head_width(model) if takes_turns and architecture in _INTERLEAVED else 0
        blocks = file.data(mapped, tensor)
        yield _place_of(tensor.name), PackedMatrix(blocks, packing, tensor.shape[-1], dtype, head)


def _head_width(model: PreTrainedModel) -> int:
    untyped: Any = model
    width: int = untyped.model.layers[0].self_attn.head_dim
    return width


def _format_name(kind: int) -> str:
    from gguf import GGMLQuantizationType  # noqa: PLC0415  # an extra

    try:
        return str(GGMLQuantizationType(kind).name)
    except ValueError:
        return str(kind)


def _place_of(name: str) -> str:
    """Return a model's name for a tensor of the file.

    Raises:
        UnsupportedModelError: The families that are supported have no such weight.
    """
    base, _, kind = name.rpartition(".")
    if base in _OUTER:
        return f"{_OUTER[base]}.{kind}"
    first, layer, inner = (*base.split(".", 2), "", "")[:3]
    if first == "blk" and inner in _INNER:
        return f"model.layers.{layer}.{_INNER[inner]}.{kind}"
    message = f"the file has a tensor {name}, which no supported family has; load it with packed=False"
    raise UnsupportedModelError(message)


def _numbers(file: GgufFile, mapped: Tensor, tensor: GgufTensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor of numbers, rounded to `dtype` by way of float32, as transformers does."""
    return file.data(mapped, tensor).float().to(dtype)


def _set_numbers(
    model: PreTrainedModel, module_name: str, kind: str, numbers: Tensor, *, learns: bool
) -> None:
    module = model.get_submodule(module_name)
    expected = getattr(module, kind, None)
    if expected is None or expected.shape != numbers.shape:
        message = (
            f"the file's {module_name}.{kind} is {list(numbers.shape)}, not "
            f"{None if expected is None else list(expected.shape)}; load it with packed=False"
        )
        raise UnsupportedModelError(message)
    setattr(module, kind, nn.Parameter(numbers, requires_grad=learns))


def _set_packed(model: PreTrainedModel, name: str, matrix: PackedMatrix) -> None:
    module: Any = model.get_submodule(name)
    if tuple(module.weight.shape) != matrix.shape:
        message = (
            f"the file's {name} is {matrix.shape}, not {list(module.weight.shape)}; load it packed=False"
        )
        raise UnsupportedModelError(message)
    packed: nn.Module
    if isinstance(module, nn.Embedding):
        packed = PackedEmbedding(matrix, module.padding_idx)
    else:
        packed = PackedLinear(matrix, None if module.bias is None else module.bias.detach())
    model.set_submodule(name, packed)
