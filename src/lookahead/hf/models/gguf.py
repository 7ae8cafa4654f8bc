"""Reading a GGUF file with transformers: dequantized to plain weights, without log output.

Its reader makes an object of every text of the vocabulary, several times, which takes 20 seconds and more. So
the configuration is read from a copy of the file's header without those texts.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    TOKENIZER_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from lookahead.errors import MissingDependencyError, UnsupportedModelError
from lookahead.hf.models.gguf_file import GgufFile

READ_BY_US = ("llama", "qwen2", "qwen3")
"""Architectures of files whose configuration, tokenizer and weights need no slow conversion."""


def load_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model, in eval mode with its weights dequantized to `dtype`, and its tokenizer.

    Raises:
        MissingDependencyError: `gguf` or `accelerate` is not installed.
    """
    source = _source(path)
    # The conversion draws its own tqdm bar: only redirecting stderr silences it.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype, **_dequantized())
        tokenizer = AutoTokenizer.from_pretrained(**source)
    return model, tokenizer


def load_gguf_config(file: GgufFile) -> PreTrainedConfig:
    """Return the configuration that transformers makes of a GGUF file.

    Raises:
        MissingDependencyError: `gguf` or `accelerate` is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        header = Path(folder) / "header.gguf"
        header.write_bytes(file.without_vocabulary())
        with quiet_transformers():
            config: PreTrainedConfig = AutoConfig.from_pretrained(**_source(header))
    config.name_or_path = str(file.path.parent)
    return config


def load_gguf_tokenizer(path: Path, config: PreTrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a GGUF file.

    Args:
        path: The file.
        config: Of the model in it, if that is one of `READ_BY_US` and was read.

    Raises:
        MissingDependencyError: `gguf` or `accelerate` is not installed.
    """
    source = _source(path)
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer: PreTrainedTokenizerBase = _tokenizer_class(path, config).from_pretrained(**source)
    return tokenizer


def _tokenizer_class(path: Path, config: PreTrainedConfig | None) -> Any:
    """Return the class that `AutoTokenizer` would take, or that itself where it has to read more."""
    if (path.parent / "tokenizer_config.json").exists():  # it may name another class
        return AutoTokenizer
    config = config or _config_read_by_us(path)
    if config is None or config.model_type not in READ_BY_US or getattr(config, "tokenizer_class", None):
        return AutoTokenizer
    return TOKENIZER_MAPPING.get(type(config), PreTrainedTokenizerFast)


def _config_read_by_us(path: Path) -> PreTrainedConfig | None:
    try:
        file = GgufFile.read(path)
    except (UnsupportedModelError, OSError):
        return None  # transformers says what is wrong
    return load_gguf_config(file) if file.metadata.get("general.architecture") in READ_BY_US else None


def _source(path: Path) -> dict[str, Any]:
    check_gguf_packages()
    return {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
        "local_files_only": True,
    }


def check_gguf_packages() -> None:
    """Raise `MissingDependencyError` unless the packages that read GGUF files are installed."""
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        message = f"reading a GGUF file needs {names}; install with: pip install 'lookahead-llm[gguf]'"
        raise MissingDependencyError(message)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and warnings within the block."""
    bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _dequantized() -> dict[str, Any]:
    """Return the argument that dequantizes the weights; releases without it always do."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}
