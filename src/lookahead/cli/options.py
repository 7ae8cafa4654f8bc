"""Options that several commands have, and what they stand for."""

from enum import StrEnum
from typing import Annotated, Literal

import typer

from lookahead.config import DraftMode, LookaheadConfig
from lookahead.errors import ConfigError

DEFAULTS = LookaheadConfig()
AUTO: Literal["auto"] = "auto"


class DtypeName(StrEnum):
    """The number formats a model can be loaded in."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    FLOAT64 = "float64"


Model = Annotated[
    str,
    typer.Option(help="'embedded' (SmolLM2-135M-Instruct), a hub id, a folder or a .gguf file."),
]
Dtype = Annotated[DtypeName, typer.Option(help="Number format of the weights.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, …", show_default="cuda where there is one, else cpu")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, envvar="OMP_NUM_THREADS", help="CPU threads.", show_default="the physical cores"),
]
FusedStep = Annotated[
    bool,
    typer.Option(
        help="Do steps by a function of our own over the model's weights, where one is known (CPU)."
    ),
]
DecodingLength = Annotated[
    str,
    typer.Option(
        help="Tokens that one forward verifies, the current one included; 1 drafts nothing, "
        "auto as many as pay."
    ),
]
BranchLength = Annotated[int, typer.Option(help="The deepest a draft may go, in tokens.")]
Mode = Annotated[DraftMode, typer.Option(help="How drafts are laid out.")]


def decoding_length_in(text: str) -> int | Literal["auto"]:
    """Return what `--decoding-length` says.

    Raises:
        ConfigError: it is neither an integer nor auto.
    """
    if text == AUTO:
        return AUTO
    try:
        return int(text)
    except ValueError:
        message = f"decoding_length={text!r} is not allowed; give an integer or {AUTO}"
        raise ConfigError(message) from None


def integers_in(option: str, listed: str) -> list[int]:
    """Return the positive integers that an option lists, separated by commas.

    Raises:
        ConfigError: it lists something else.
    """
    try:
        integers = [int(part) for part in listed.split(",")]
    except ValueError:
        integers = []
    if not integers or min(integers) < 1:
        message = f"{option} {listed!r} is not allowed; give positive integers separated by commas: 8,16"
        raise ConfigError(message)
    return integers
