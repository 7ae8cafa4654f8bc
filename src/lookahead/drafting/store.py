"""What every draft store offers: the protocol between the decoding loop and the memory."""

from collections.abc import Hashable, Sequence
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree
from lookahead.errors import ConfigError
from lookahead.jit import kernel

RequestId = Hashable
TokenIds = Sequence[int] | Int32Array

DEFAULT_NAMESPACE = "default"
OF_THE_VOCABULARY = "\0vocabulary"
"""Where what belongs to no text stands in a snapshot; no namespace may be called so."""
_LARGEST_TOKEN = 2**31 - 1


class Origin(StrEnum):
    """Where tokens come from, which decides who may see them."""

    PROMPT = "prompt"
    """The user's: seen by this request alone and forgotten with it."""
    OUTPUT = "output"
    """The model's: seen by this request and, through the shared memory, by later ones."""


class DraftStore(Protocol):
    """A memory of token sequences that proposes drafts.

    A request is opened by `open`, or in the default namespace by its first `insert`, and closed by `forget`;
    its tokens are streamed in order, and drafts continue after the last one.

    Attributes:
        recycles: whether it drafts from recycled logits.
    """

    recycles: bool

    def open(
        self, request: RequestId, *, namespace: str = DEFAULT_NAMESPACE, reads: Sequence[str] = ()
    ) -> None:
        """Open a request in a namespace, from which it drafts and to which its answer will belong.

        Args:
            request: a new one.
            namespace: the one it belongs to.
            reads: further namespaces to draft from.

        Raises:
            UnsupportedMemoryError: the store has the default namespace only.
        """

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Append tokens to a request's sequence and remember them."""

    def propose(
        self, request: RequestId, *, decoding_length: int, branch_length: int, mode: DraftMode
    ) -> DraftTree:
        """Return a draft of at most `decoding_length` nodes, node 0 included, and `branch_length` levels."""

    def recycle(self, request: RequestId, token_ids: TokenIds, successors: Int32Array) -> None:
        """Remember what the model itself holds most likely after tokens, whether it went that way or not.

        Args:
            request: one that has inserted at least one token.
            token_ids: m tokens that the model has just read.
            successors: int32 [m, k], the likeliest next tokens after each, likeliest first.
        """

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Remember what the model holds most likely after each token of its vocabulary, int32 [V, k]."""

    def recycled_tokens(self, request: RequestId) -> int:
        """Return how many tokens of a request came as recycled logits had drafted them."""

    def forget(self, request: RequestId) -> None:
        """Close a request, ended or aborted: its prompt is gone. Forgetting an unknown one does nothing."""

    def remember(self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Remember a text as if it had been an answer in a namespace.

        Raises:
            UnsupportedMemoryError: the store has the default namespace only.
        """

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return copies of what outlives requests, by name."""

    @property
    def nbytes(self) -> int:
        """Bytes the memory takes."""


@kernel
def are_tokens(tokens: npt.NDArray[Any]) -> bool:
    """Return whether all are token ids."""
    for i in range(len(tokens)):  # noqa: SIM110  # compiled, a plain loop is what is fast
        if not 0 <= tokens[i] <= _LARGEST_TOKEN:
            return False
    return True


def check_decoding_length(decoding_length: int) -> None:
    """Refuse a draft without room for node 0.

    Raises:
        ValueError: `decoding_length` is less than 1.
    """
    if decoding_length < 1:
        message = f"decoding_length={decoding_length} leaves no room for node 0; give 1 or more"
        raise ValueError(message)


def check_namespaces(namespace: str, reads: Sequence[str] = ()) -> None:
    """Refuse what cannot name a namespace.

    Raises:
        ConfigError: a name is no string, or empty, or has NUL in it; or `reads` is one name, not several.
    """
    if isinstance(reads, str):
        message = f"reads={reads!r} is one name; give a sequence of names: ({reads!r},)"
        raise ConfigError(message)
    for name in (namespace, *reads):
        if not isinstance(name, str) or not name or "\0" in name:
            message = f"namespace {name!r} is not allowed; give a string that is not empty and has no NUL"
            raise ConfigError(message)


def checked_tokens(token_ids: TokenIds) -> Int32Array:
    """Return token ids as an int32 array of one dimension, a new one: callers may write to theirs.

    Raises:
        ValueError: one is negative, no integer, or does not fit 31 bits.
    """
    tokens = np.asarray(token_ids)
    if tokens.ndim != 1 or (len(tokens) and tokens.dtype.kind not in "iu"):
        message = f"token ids must be one sequence of integers, not {tokens.dtype} of shape {tokens.shape}"
        raise ValueError(message)
    if len(tokens) and not are_tokens(tokens):
        message = f"token ids must be from 0 to {_LARGEST_TOKEN}; got {tokens.min()} to {tokens.max()}"
        raise ValueError(message)
    return np.array(tokens, np.int32)  # kernels would be compiled anew for one with gaps, or read-only
