"""Reading a GGUF file with transformers: dequantized to plain weights, without log output."""

import contextlib
import io
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lookahead.errors import MissingDependencyError


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


def load_gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a GGUF file.

    Raises:
        MissingDependencyError: `gguf` or `accelerate` is not installed.
    """
    source = _source(path)
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**source)
    return tokenizer


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
