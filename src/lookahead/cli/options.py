"""Options that several commands share, and how their values are parsed."""

import math
from enum import StrEnum
from typing import Annotated, Literal

import typer

from lookahead.config import DraftMode, LookaheadConfig
from lookahead.errors import ConfigError

DEFAULTS = LookaheadConfig()
MIN_TEMPERATURE = 1e-6
"""Below it, logits divided by it leave the range of a float32."""
AUTO: Literal["auto"] = "auto"


class DtypeName(StrEnum):
    """The dtypes that a model can be loaded in."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    FLOAT64 = "float64"


Model = Annotated[
    str, typer.Option(help="'embedded' (SmolLM2-135M-Instruct), a hub id, a folder or a .gguf file.")
]
Dtype = Annotated[DtypeName, typer.Option(help="Dtype of the weights.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, …", show_default="cuda if available, else cpu")
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="CPU threads.", show_default="OMP_NUM_THREADS, else the number of physical cores"
    ),
]
Packed = Annotated[
    bool,
    typer.Option(
        "--packed",
        help="Leave the weights of a .gguf file, or of the embedded model, in the file's blocks: the same "
        "text in less memory, on a CPU.",
    ),
]
PackedIfPossible = Annotated[
    bool | None,
    typer.Option(
        help="Leave the weights of a .gguf file, or of the embedded model, in the file's blocks.",
        show_default="on a CPU, where they can be read so",
    ),
]
CompiledCpu = Annotated[bool, typer.Option(help="Use the compiled CPU decoder for models that it supports.")]
DecodingLength = Annotated[
    str,
    typer.Option(
        help="Tokens that one forward pass verifies, the current one included; 1 drafts nothing, "
        "auto chooses for each step."
    ),
]
BranchLength = Annotated[int, typer.Option(help="Maximum depth of a draft, in tokens.")]
Mode = Annotated[DraftMode, typer.Option(help="Layout of drafts.")]


def decoding_length_in(text: str) -> int | Literal["auto"]:
    """Return the value of `--decoding-length`.

    Raises:
        ConfigError: It is neither an integer nor auto.
    """
    if text == AUTO:
        return AUTO
    try:
        return int(text)
    except ValueError:
        message = f"decoding_length={text!r} is not allowed; give an integer or {AUTO}"
        raise ConfigError(message) from None


def check_sampling(temperature: float | None, seed: int | None) -> None:
    """Check a temperature and a seed.

    Raises:
        ConfigError: One of them is out of range.
    """
    if temperature is not None and temperature != 0 and not MIN_TEMPERATURE <= temperature < math.inf:
        message = (
            f"temperature={temperature} is not allowed; give 0 to be greedy, or a number of at least "
            f"{MIN_TEMPERATURE}"
        )
        raise ConfigError(message)
    if seed is not None and not -(2**63) <= seed < 2**64:
        message = f"seed={seed} is not allowed; give an integer of 64 bits"
        raise ConfigError(message)


def integers_in(option: str, listed: str) -> list[int]:
    """Return the positive integers of an option that lists them separated by commas.

    Raises:
        ConfigError: It lists something else.
    """
    try:
        integers = [int(part) for part in listed.split(",")]
    except ValueError:
        integers = []
    if not integers or min(integers) < 1:
        message = f"{option} {listed!r} is not allowed; give positive integers separated by commas: 8,16"
        raise ConfigError(message)
    return integers
