"""The dtypes that models are loaded in, by name."""

import torch

from lookahead.errors import ConfigError

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float16": torch.float16,
    "float64": torch.float64,
}


def resolve_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return the torch dtype of that name, or the torch dtype itself.

    Raises:
        ConfigError: The dtype is not one of `DTYPES`.
    """
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    message = f"dtype={dtype!r} is not allowed; choose one of {', '.join(map(repr, DTYPES))}"
    raise ConfigError(message)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the short name of a torch dtype, for example `bfloat16`."""
    return str(dtype).removeprefix("torch.")
