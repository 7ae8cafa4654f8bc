"""Settings of a `Lookahead`: one frozen, validated object."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from lookahead.errors import ConfigError

MOST_NODES_OF_AUTO = 64
"""With `decoding_length="auto"`; beyond it drafts gain little, and hardly any device has them free."""
_MOST_NODES_OF_A_BATCH = 256
_USUAL_SHAPE = 16
"""Tokens of each row in every forward where reproducible text needs one shape."""
DEFAULT_MEMORY_BYTES = 256 * 2**20
LEAST_MEMORY_BYTES = 2**15
MOST_MEMORY_BYTES = 2**44


class DraftMode(StrEnum):
    """How drafts are laid out (arXiv 2312.12728, section 4.3)."""

    HIERARCHICAL = "hierarchical"
    """One tree: branches merged by their shared prefix."""
    PARALLEL = "parallel"
    """Independent branches side by side, nothing shared but the current token."""
    SINGLE = "single"
    """One chain, the most probable continuation (LLMA's way)."""


@dataclass(frozen=True, kw_only=True)
class LookaheadConfig:
    """Settings of a `Lookahead`.

    Args:
        decoding_length: tokens that one forward verifies, the current token included; 1 drafts nothing.
            The rows of a batch share them, each having as many.
            `"auto"` chooses for each step as many as pay, from how long forwards take and how probable drafts
            are; it measures the former once for a model and keeps it on disk.
        branch_length: the deepest a draft may go, in tokens under the current one.
        prompt_logits: of so many of a prompt's last tokens the logits are recycled, too. More than 1 makes
            the prefill compute them, which pays where that is cheap: large models, long answers.
        fused_step: do the steps of models that it is known for by a function of our own over their weights,
            on the CPU several times faster than the model's own code. Prompts are read by that.
        captured_step: on CUDA devices, capture the steps of models in CUDA graphs, which are launched at once
            instead of kernel by kernel. A model that no graph can hold is left as it is, with one warning.
        reproducible: the text is a function of model, prompt, settings and seed alone, to the last bit of
            every logit, never of what was drafted or remembered. Fused steps are so at no cost; other
            forwards then all have one shape, of 16 tokens a row or of as many as are given here, however few
            are drafted. Models that can be had in neither way are decoded in plain steps.
        mode: `"hierarchical"`, `"parallel"` or `"single"`.
        memory_bytes: hard cap on the draft memory that is made where none is given, in bytes.

    Raises:
        ConfigError: a value is out of range.
    """

    decoding_length: int | Literal["auto"] = "auto"
    branch_length: int = 64
    prompt_logits: int = 1
    fused_step: bool = True
    captured_step: bool = True
    reproducible: bool | int = False
    mode: DraftMode = DraftMode.HIERARCHICAL
    memory_bytes: int = DEFAULT_MEMORY_BYTES

    def __post_init__(self) -> None:
        if self.decoding_length != "auto":
            _check_integer("decoding_length", self.decoding_length, smallest=1, largest=4096, other='"auto"')
        _check_integer("branch_length", self.branch_length, smallest=1, largest=1024)
        _check_integer("prompt_logits", self.prompt_logits, smallest=1, largest=4096)
        _check_integer(
            "memory_bytes", self.memory_bytes, smallest=LEAST_MEMORY_BYTES, largest=MOST_MEMORY_BYTES
        )
        for name in ("fused_step", "captured_step"):
            if not isinstance(getattr(self, name), bool):
                message = f"{name}={getattr(self, name)!r} is not allowed; give True or False"
                raise ConfigError(message)
        if not isinstance(self.reproducible, bool):
            _check_integer("reproducible", self.reproducible, smallest=2, largest=256, other="True or False")
        object.__setattr__(self, "mode", _checked_mode(self.mode))

    @property
    def shape(self) -> int | None:
        """Tokens of each row in every forward that has to have one shape; None where they may differ."""
        if not self.reproducible:
            return None
        return _USUAL_SHAPE if self.reproducible is True else self.reproducible

    def most_nodes(self, rows: int = 1) -> int:
        """Return how many tokens one forward verifies at most for each of so many rows."""
        if self.decoding_length == "auto":
            return min(MOST_NODES_OF_AUTO, max(1, _MOST_NODES_OF_A_BATCH // rows))
        return max(1, self.decoding_length // rows)


def _checked_mode(mode: str) -> DraftMode:
    try:
        return DraftMode(mode)
    except ValueError:
        allowed = ", ".join(repr(known.value) for known in DraftMode)
        message = f"mode={mode!r} is unknown; choose one of {allowed}"
        raise ConfigError(message) from None


def _check_integer(name: str, value: object, *, smallest: int, largest: int, other: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
        allowed = f"an integer from {smallest} to {largest}" + (f" or {other}" if other else "")
        message = f"{name}={value!r} is not allowed; give {allowed}"
        raise ConfigError(message)
