"""Loading a model by what a person names it: the embedded one, a GGUF file, a folder, a hub id."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lookahead.errors import ConfigError, NotFoundError, UnsupportedModelError
from lookahead.hf.machine.dtypes import resolve_dtype
from lookahead.hf.models.embedded import load_embedded, load_embedded_tokenizer
from lookahead.hf.models.gguf import load_gguf, load_gguf_tokenizer, quiet_transformers

EMBEDDED = "embedded"

Read = TypeVar("Read")


def load_model(
    name: str | None = None, dtype: torch.dtype | str = torch.bfloat16, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of that name and its tokenizer, in eval mode.

    Args:
        name: None or `"embedded"`; a path to a `.gguf` file; a folder that transformers saved; or a hub id.
        dtype: a torch dtype or its name.
        device: where to put it; None takes the first CUDA device where there is one, else the CPU.

    Raises:
        ConfigError: the dtype or the device is not allowed.
        NotFoundError: nothing of that name is there, or it holds no model.
        MissingDependencyError: reading it needs a package that is not installed.
        UnsupportedModelError: it is not a decoder-only language model, or has no tokenizer.
    """
    torch_dtype = resolve_dtype(dtype)
    target = resolve_device(device)
    if name is None or name == EMBEDDED:
        model, tokenizer = load_embedded(torch_dtype)
    elif name.lower().endswith(".gguf"):
        model, tokenizer = _read_gguf_file(Path(name).expanduser(), lambda path: load_gguf(path, torch_dtype))
    else:
        model, tokenizer = _load_pretrained(name, torch_dtype)
    _set_pad_token(model, tokenizer)
    model.to(target)  # type: ignore[arg-type]  # the library's wrapper hides the argument's type
    return model, tokenizer


def load_tokenizer(name: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the model of that name, without reading its weights.

    Args:
        name: as for `load_model`; a folder needs to hold no more than the tokenizer.

    Raises:
        NotFoundError: nothing of that name is there.
        MissingDependencyError: reading it needs a package that is not installed.
        UnsupportedModelError: it has no tokenizer.
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
        message = (
            f"the tokenizer of {name!r} cannot be loaded ({_first_line(error)}); give a folder or hub id"
        )
        raise NotFoundError(message) from error


def resolve_device(device: str | None) -> torch.device:
    """The torch device of that name; None is the first CUDA device where there is one, else the CPU.

    Raises:
        ConfigError: torch knows no such device.
    """
    try:
        return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        message = f"device={device!r} is not known to torch; give cpu, cuda, cuda:0, …"
        raise ConfigError(message) from None


def _read_gguf_file(path: Path, read: Callable[[Path], Read]) -> Read:
    if not path.is_file():
        message = f"there is no GGUF file {path}; give the path of one, a folder, a hub id, or 'embedded'"
        raise NotFoundError(message)
    try:
        return read(path)
    except (ValueError, NotImplementedError, KeyError, IndexError) as error:
        message = f"{path} cannot be read as a GGUF model: {_first_line(error)}"
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
        message = (
            f"model {name!r} cannot be loaded: it is no folder here, and the hub has or gives no such model "
            f"({_first_line(error)})"
        )
        raise NotFoundError(message) from error
    except (ValueError, KeyError) as error:
        message = (
            f"model {name!r} cannot be used: {_first_line(error)}; give a decoder-only model that "
            "AutoModelForCausalLM and AutoTokenizer load"
        )
        raise UnsupportedModelError(message) from error
    return model, tokenizer


def _check_folder(name: str, folder: Path) -> None:
    """Refuse what is plainly a path and holds no model, before the hub is asked for it."""
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            message = f"the folder {name} has no config.json; give a folder written by save_pretrained"
            raise NotFoundError(message)
    elif folder.exists():
        message = (
            f"{name} is a file, but not a .gguf one; give a .gguf file, a folder, a hub id, or 'embedded'"
        )
        raise NotFoundError(message)
    elif _looks_like_a_path(name):
        message = f"there is no folder {name}; give a folder, a .gguf file, a hub id, or 'embedded'"
        raise NotFoundError(message)


def _looks_like_a_path(name: str) -> bool:
    """Whether it cannot be a hub id, which is `name` or `owner/name`."""
    return name.startswith((".", "~", "/", os.sep)) or name.count("/") > 1 or "\\" in name


def _set_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Name the padding token where the model names none, as `generate` does at every call, warning."""
    config = model.generation_config
    if config is not None and config.pad_token_id is None:
        end = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
