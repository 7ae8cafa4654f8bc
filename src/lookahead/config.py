"""Settings of a `Lookahead`: one frozen, validated object."""

from dataclasses import dataclass
from enum import StrEnum

from lookahead.errors import ConfigError

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
        branch_length: the deepest a draft may go, in tokens under the current one.
        mode: `"hierarchical"`, `"parallel"` or `"single"`.
        memory_bytes: hard cap on the draft memory that is made where none is given, in bytes.

    Raises:
        ConfigError: a value is out of range.
    """

    decoding_length: int = 16
    branch_length: int = 12
    mode: DraftMode = DraftMode.HIERARCHICAL
    memory_bytes: int = DEFAULT_MEMORY_BYTES

    def __post_init__(self) -> None:
        _check_integer("decoding_length", self.decoding_length, smallest=1, largest=4096)
        _check_integer("branch_length", self.branch_length, smallest=1, largest=64)
        _check_integer(
            "memory_bytes", self.memory_bytes, smallest=LEAST_MEMORY_BYTES, largest=MOST_MEMORY_BYTES
        )
        object.__setattr__(self, "mode", _checked_mode(self.mode))


def _checked_mode(mode: str) -> DraftMode:
    try:
        return DraftMode(mode)
    except ValueError:
        allowed = ", ".join(repr(known.value) for known in DraftMode)
        message = f"mode={mode!r} is unknown; choose one of {allowed}"
        raise ConfigError(message) from None


def _check_integer(name: str, value: object, *, smallest: int, largest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
        message = f"{name}={value!r} is not allowed; give an integer from {smallest} to {largest}"
        raise ConfigError(message)
