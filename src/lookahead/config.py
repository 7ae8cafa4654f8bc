"""Settings of a `Lookahead`: one frozen, validated object."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from lookahead.errors import ConfigError

MOST_NODES_OF_AUTO = 64
"""With `decoding_length="auto"`; beyond it drafts gain little, and hardly any device has them free."""


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
            `"auto"` chooses for each step as many as pay, from how long forwards take and how probable drafts
            are; it measures the former once for a model and keeps it on disk.
        branch_length: the deepest a draft may go, in tokens under the current one.
        prompt_logits: of so many of a prompt's last tokens the logits are recycled, too. More than 1 makes
            the prefill compute them, which pays where that is cheap: large models, long answers.
        mode: `"hierarchical"`, `"parallel"` or `"single"`.
        memory_nodes: hard cap on the draft memory, in trie nodes.
        memory_bytes: hard cap on the draft memory, in bytes; the smaller of the two caps holds.
        stop_words: token ids that alone say nothing about what follows, so that no draft starts from them.

    Raises:
        ConfigError: a value is out of range.
    """

    decoding_length: int | Literal["auto"] = "auto"
    branch_length: int = 64
    prompt_logits: int = 1
    mode: DraftMode = DraftMode.HIERARCHICAL
    memory_nodes: int = 4_000_000
    memory_bytes: int = 256 * 2**20
    stop_words: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.decoding_length != "auto":
            _check_integer("decoding_length", self.decoding_length, smallest=1, largest=4096, other='"auto"')
        _check_integer("branch_length", self.branch_length, smallest=1, largest=1024)
        _check_integer("prompt_logits", self.prompt_logits, smallest=1, largest=4096)
        _check_integer("memory_nodes", self.memory_nodes, smallest=64, largest=2**30)
        _check_integer("memory_bytes", self.memory_bytes, smallest=2**14, largest=2**44)
        object.__setattr__(self, "mode", _checked_mode(self.mode))
        object.__setattr__(self, "stop_words", _checked_stop_words(self.stop_words))

    @property
    def most_nodes(self) -> int:
        """Tokens that one forward verifies at most."""
        return MOST_NODES_OF_AUTO if self.decoding_length == "auto" else self.decoding_length


def _checked_mode(mode: str) -> DraftMode:
    try:
        return DraftMode(mode)
    except ValueError:
        allowed = ", ".join(repr(known.value) for known in DraftMode)
        message = f"mode={mode!r} is unknown; choose one of {allowed}"
        raise ConfigError(message) from None


def _checked_stop_words(stop_words: Iterable[int]) -> frozenset[int]:
    if not isinstance(stop_words, Iterable):
        message = f"stop_words={stop_words!r} is not allowed; give a set of token ids"
        raise ConfigError(message)
    words = frozenset(stop_words)
    for word in words:
        _check_integer("stop_words: each", word, smallest=0, largest=2**31 - 1)
    return words


def _check_integer(name: str, value: object, *, smallest: int, largest: int, other: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
        allowed = f"an integer from {smallest} to {largest}" + (f" or {other}" if other else "")
        message = f"{name}={value!r} is not allowed; give {allowed}"
        raise ConfigError(message)
