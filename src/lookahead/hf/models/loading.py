"""Loading a model by name: `embedded`, a GGUF file, a folder or a hub id; encoding a prompt for it."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lookahead.errors import ConfigError, NotFoundError, UnsupportedModelError, first_line
from lookahead.hf.machine.devices import resolve_device
from lookahead.hf.machine.dtypes import resolve_dtype
from lookahead.hf.models.embedded import load_embedded, load_embedded_tokenizer
from lookahead.hf.models.gguf import load_gguf_tokenizer, quiet_transformers
from lookahead.hf.models.packed import load_packed, load_unpacked

EMBEDDED = "embedded"

logger = logging.getLogger("lookahead")

Read = TypeVar("Read")


def load_model(
    name: str | None = None,
    dtype: torch.dtype | str = torch.bfloat16,
    device: str | None = None,
    *,
    packed: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model, in eval mode, and its tokenizer.

    Args:
        name: None or `"embedded"`; a path to a `.gguf` file; a folder written by `save_pretrained`; a hub id.
        dtype: A torch dtype or its name.
        device: The target device; None takes the first CUDA device, or the CPU if there is none.
        packed: Leave the weights of a GGUF file in its blocks, mapped, for the compiled CPU decoder: the same
            text as without, in a fraction of the memory. The model's own `forward` is slow.

    Raises:
        ConfigError: The dtype or the device is not allowed, or `packed` is asked of what is no GGUF file.
        NotFoundError: The name leads to no model.
        MissingDependencyError: Reading it needs a package that is not installed.
        UnsupportedModelError: It is not a decoder-only language model, or has no tokenizer; or its weights
            cannot stay packed.
    """
    torch_dtype = resolve_dtype(dtype)
    target = resolve_device("cpu" if packed and device is None else device)
    if packed:
        _check_packed(name, target)
    if name is None or name == EMBEDDED:
        model, tokenizer = load_embedded(torch_dtype, packed=packed)
    elif packed:
        model, tokenizer = _read_gguf_file(
            Path(name).expanduser(), lambda path: load_packed(path, torch_dtype)
        )
    elif name.lower().endswith(".gguf"):
        model, tokenizer = _read_gguf_file(
            Path(name).expanduser(), lambda path: load_unpacked(path, torch_dtype)
        )
    else:
        model, tokenizer = _load_pretrained(name, torch_dtype)
    _set_pad_token(model, tokenizer)
    model.to(target)  # type: ignore[arg-type]  # the library's wrapper hides the argument's type
    return model, tokenizer


def load_packed_if_possible(
    name: str | None, dtype: torch.dtype | str, device: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model with packed weights if it is in a GGUF file that can be read so, on the CPU; else without.

    It raises what `load_model` raises.
    """
    if is_gguf(name) and resolve_device(device).type == "cpu":
        try:
            return load_model(name, dtype, "cpu", packed=True)
        except UnsupportedModelError as error:
            logger.warning("the weights are unpacked when they are loaded: %s", error)
    return load_model(name, dtype, device)


def is_gguf(name: str | None) -> bool:
    """Return whether a model's name leads to a GGUF file, the embedded model's included."""
    return name is None or name == EMBEDDED or name.lower().endswith(".gguf")


def _check_packed(name: str | None, device: torch.device) -> None:
    """Refuse to keep weights packed that are in no GGUF file, or on another device than the CPU."""
    if not is_gguf(name):
        message = f"packed=True is not allowed for {name!r}: only weights of a .gguf file, or 'embedded', are"
        raise ConfigError(message)
    if device.type != "cpu":
        message = f"packed=True is not allowed on {device}: the CPU decoder alone reads packed weights"
        raise ConfigError(message)


def load_tokenizer(name: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model without its weights.

    Args:
        name: As for `load_model`; a folder may hold only the tokenizer.

    Raises:
        NotFoundError: The name leads to no tokenizer.
        MissingDependencyError: Reading it needs a package that is not installed.
        UnsupportedModelError: The GGUF file holds no tokenizer that transformers reads.
    """
    if name is None or name == EMBEDDED:
        return load_embedded_tokenizer()
    if name.lower().endswith(".gguf"):
        return _read_gguf_file(Path(name).expanduser(), load_gguf_tokenizer)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        _check_folder(name, folder)
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else name)
    except (OSError, ValueError, KeyError) as error:
        message = f"the tokenizer of {name!r} cannot be loaded ({first_line(error)}); give a folder or hub id"
        raise NotFoundError(message) from error


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, text: str, model: PreTrainedModel, *, raw: bool = False
) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of a prompt, both int64 [1, L], on the model's device.

    Args:
        tokenizer: The model's tokenizer.
        text: The message of a user; it is put into the chat template if the tokenizer has one.
        model: The model that will read the prompt.
        raw: Use the text as it is, without the chat template.
    """
    if raw or tokenizer.chat_template is None:
        encoded = tokenizer(text, return_tensors="pt")
    else:
        encoded = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
    return {name: encoded[name].to(model.device) for name in ("input_ids", "attention_mask")}


def _read_gguf_file(path: Path, read: Callable[[Path], Read]) -> Read:
    if not path.is_file():
        message = f"there is no GGUF file {path}; give the path of one, a folder, a hub id, or 'embedded'"
        raise NotFoundError(message)
    try:
        return read(path)
    except UnsupportedModelError:
        raise
    except (ValueError, NotImplementedError, KeyError, IndexError) as error:
        message = f"{path} cannot be read as a GGUF model: {first_line(error)}"
        raise UnsupportedModelError(message) from error


def _load_pretrained(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    _check_folder(name, folder)
    try:
        with quiet_transformers():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(source)
    except OSError as error:
        why = "its folder cannot be read" if folder.is_dir() else "no such folder, and not on the hub"
        message = (
            f"model {name!r} cannot be loaded: {why} ({first_line(error)}); give a folder, a .gguf file, a "
            "hub id, or 'embedded'"
        )
        raise NotFoundError(message) from error
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        message = (
            f"model {name!r} cannot be used: {first_line(error)}; give a decoder-only model that "
            "AutoModelForCausalLM and AutoTokenizer load"
        )
        raise UnsupportedModelError(message) from error
    return model, tokenizer


def _check_folder(name: str, folder: Path) -> None:
    """Refuse a name that can only be a path and holds no model, before asking the hub."""
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            message = f"the folder {name} has no config.json; give a folder written by save_pretrained"
            raise NotFoundError(message)
    elif folder.exists():
        message = (
            f"{name} is a file, but not a .gguf file; give a .gguf file, a folder, a hub id, or 'embedded'"
        )
        raise NotFoundError(message)
    elif _looks_like_a_path(name):
        message = f"there is no folder {name}; give a folder, a .gguf file, a hub id, or 'embedded'"
        raise NotFoundError(message)


def _looks_like_a_path(name: str) -> bool:
    """Return whether a name cannot be a hub id, which is `name` or `owner/name`."""
    return name.startswith((".", "~", "/", os.sep)) or name.count("/") > 1 or "\\" in name


def _set_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set a missing padding token once; `generate` would do so in every call, with a warning."""
    config = model.generation_config
    if config is not None and config.pad_token_id is None:
        end = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
