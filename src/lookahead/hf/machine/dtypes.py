"""The number formats that a model is loaded in, by name."""

import torch

from lookahead.errors import ConfigError

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float16": torch.float16,
    "float64": torch.float64,
}


def resolve_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The torch dtype of that name; a torch dtype is returned as it is.

    Raises:
        ConfigError: the dtype is not one of `DTYPES`.
    """
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    message = f"dtype={dtype!r} is not allowed; choose one of {', '.join(map(repr, DTYPES))}"
    raise ConfigError(message)


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a torch dtype, `bfloat16` say."""
    return str(dtype).removeprefix("torch.")
