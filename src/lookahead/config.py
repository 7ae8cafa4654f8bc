"""`LookaheadConfig`: the settings of a `Lookahead`, frozen and validated."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from lookahead.errors import ConfigError

MAX_NODES_OF_AUTO = 64
"""Maximum tree size with `decoding_length="auto"`: larger trees gain little and cost time."""
_MAX_NODES_PER_BATCH = 256
DEFAULT_MEMORY_BYTES = 256 * 2**20
MIN_MEMORY_BYTES = 5 * 2**13
MAX_MEMORY_BYTES = 2**44


class DraftMode(StrEnum):
    """How drafts are laid out (arXiv 2312.12728, section 4.3)."""

    HIERARCHICAL = "hierarchical"
    """One tree: branches share their common prefix."""
    PARALLEL = "parallel"
    """Independent branches that share only the current token."""
    SINGLE = "single"
    """One chain, the most probable continuation (as in LLMA)."""


@dataclass(frozen=True, kw_only=True)
class LookaheadConfig:
    """Settings of a `Lookahead`.

    Args:
        decoding_length: Tokens that one forward pass verifies, the current token included; 1 drafts nothing.
            The rows of a batch share them equally. `"auto"` chooses the number for each step from measured
            step times and the probability of the drafts.
        branch_length: Maximum depth of a draft tree, in tokens below the current one.
        recycle_prompt_tokens: Recycle the logits of the last N prompt tokens. With N above 1 the prefill has
            to compute them, which pays off for large models and long answers.
        compiled_cpu: Use the compiled CPU decoder for decode steps (Llama, Mistral, Qwen2, Qwen3).
        cuda_graphs: Capture decode steps in CUDA graphs on CUDA devices. A model that cannot be captured
            is decoded without them, with one warning.
        reproducible: Make the text a function of model, prompt, settings and seed alone, to the last bit of
            every logit: drafts and memory never change it. The compiled CPU decoder always does so; other
            backends then use forward passes of one fixed width. Models that support neither are decoded
            in plain steps.
        reproducible_width: Tokens of each row in a forward pass of fixed width.
        draft_mode: `"hierarchical"`, `"parallel"` or `"single"`.
        max_bytes: Hard cap in bytes on the draft memory that `Lookahead` creates if it is given none.

    Raises:
        ConfigError: A value is out of range.
    """

    decoding_length: int | Literal["auto"] = "auto"
    branch_length: int = 64
    recycle_prompt_tokens: int = 1
    compiled_cpu: bool = True
    cuda_graphs: bool = True
    reproducible: bool = False
    reproducible_width: int = 16
    draft_mode: DraftMode = DraftMode.HIERARCHICAL
    max_bytes: int = DEFAULT_MEMORY_BYTES

    def __post_init__(self) -> None:
        if self.decoding_length != "auto":
            check_integer("decoding_length", self.decoding_length, smallest=1, largest=4096, other='"auto"')
        check_integer("branch_length", self.branch_length, smallest=1, largest=1024)
        check_integer("recycle_prompt_tokens", self.recycle_prompt_tokens, smallest=1, largest=4096)
        check_integer("max_bytes", self.max_bytes, smallest=MIN_MEMORY_BYTES, largest=MAX_MEMORY_BYTES)
        check_integer("reproducible_width", self.reproducible_width, smallest=2, largest=256)
        for name in ("compiled_cpu", "cuda_graphs", "reproducible"):
            check_bool(name, getattr(self, name))
        object.__setattr__(self, "draft_mode", _checked_mode(self.draft_mode))

    @property
    def fixed_width(self) -> int | None:
        """Tokens of each row in every forward pass if `reproducible` is set; None where widths may differ."""
        return self.reproducible_width if self.reproducible else None

    def max_nodes(self, rows: int = 1) -> int:
        """Return the maximum number of tokens that one forward pass verifies for each of `rows` rows."""
        if self.decoding_length == "auto":
            return min(MAX_NODES_OF_AUTO, max(1, _MAX_NODES_PER_BATCH // rows))
        return max(1, self.decoding_length // rows)


def _checked_mode(mode: str) -> DraftMode:
    try:
        return DraftMode(mode)
    except ValueError:
        allowed = ", ".join(repr(known.value) for known in DraftMode)
        message = f"draft_mode={mode!r} is not allowed; choose one of {allowed}"
        raise ConfigError(message) from None


def check_bool(name: str, value: object) -> None:
    """Check a setting that is true or false.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, bool):
        message = f"{name}={value!r:.80} is not allowed; give True or False"
        raise ConfigError(message)


def check_integer(name: str, value: object, *, smallest: int, largest: int, other: str = "") -> None:
    """Check a setting that is an integer.

    Raises:
        ConfigError: It is not, or out of range; the message names `other` as allowed, too.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
        allowed = f"an integer from {smallest} to {largest}" + (f" or {other}" if other else "")
        message = f"{name}={value!r:.80} is not allowed; give {allowed}"
        raise ConfigError(message)
