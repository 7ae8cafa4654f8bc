"""The protocol of a draft store, and the checks that all stores share."""

from collections.abc import Hashable, Sequence
from enum import StrEnum
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.noise import NO_NOISE, Noise
from lookahead.drafting.tree import DraftTree
from lookahead.errors import ConfigError, TokenIdError
from lookahead.jit import kernel

RequestId = Hashable
TokenIds = Sequence[int] | Int32Array

DEFAULT_NAMESPACE = "default"
VOCABULARY_NAMESPACE = "\0vocabulary"
"""The name in snapshots of what belongs to the vocabulary and no text; no namespace may have this name."""
MAX_NAMESPACE_BYTES = 256
"""How long a namespace's name may be, in UTF-8."""
_LARGEST_TOKEN = 2**31 - 1


class Origin(StrEnum):
    """Where tokens come from. It decides which requests may draft them."""

    PROMPT = "prompt"
    """The user's: drafted only for this request and forgotten with it."""
    OUTPUT = "output"
    """The model's: drafted for this request and, through the shared memory, for later ones."""


@runtime_checkable
class DraftStore(Protocol):
    """A memory of token sequences that proposes drafts.

    `open` opens a request, or its first `insert` does in the default namespace; `forget` closes it. Its
    tokens are inserted in order, and drafts continue after the last one.

    Attributes:
        recycles: Whether it drafts from recycled logits.
    """

    recycles: bool

    def open(
        self,
        request: RequestId,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        remember: bool = True,
    ) -> None:
        """Open a request in a namespace. It drafts from there, and its answer will belong there.

        Args:
            request: A new one.
            namespace: The namespace it belongs to.
            reads: Further namespaces to draft from.
            remember: Whether it leaves anything to later requests.

        Raises:
            ConfigError: A name is not a string, empty or too long; or `reads` is one name, not several.
            UnsupportedMemoryError: The store has the default namespace only.
        """

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Append tokens to a request's sequence; open it in the default namespace if it is unknown.

        Raises:
            TokenIdError: A token id is negative, not an integer, or exceeds 31 bits; nothing is inserted.
        """

    def propose(
        self,
        request: RequestId,
        *,
        decoding_length: int,
        branch_length: int,
        mode: DraftMode,
        noise: Noise = NO_NOISE,
    ) -> DraftTree:
        """Return the most probable draft after a request's last token.

        Args:
            request: One that has inserted at least one token.
            decoding_length: The maximum number of nodes, node 0 (the last token) included; 1 or more.
            branch_length: The maximum number of levels below node 0.
            mode: The layout of the draft.
            noise: What is known of the noise of the request's next draws; a store need not use it.

        Raises:
            KeyError: The request is unknown, has been forgotten, or has inserted nothing.
            ValueError: `decoding_length` is less than 1.
        """

    def recycle(
        self, request: RequestId, token_ids: TokenIds, successors: Int32Array, *, accepted: int = 0
    ) -> None:
        """Remember the model's most probable next tokens after tokens, in the request's namespace.

        Args:
            request: One that has inserted at least one token.
            token_ids: m tokens that the model has just read.
            successors: int32 [m, k], the most probable next tokens after each, best first; 8 are kept.
            accepted: How many of the tokens, the last ones, are the text itself, in order; after them came
                the request's newest token. The others were drafted and rejected.

        Raises:
            KeyError: The request is unknown, or has been forgotten.
            TokenIdError: A token id is negative, not an integer, or exceeds 31 bits; nothing is remembered.
            ValueError: There is not one row for each token; nothing is remembered.
        """

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Remember the model's most probable next tokens after each single token of its vocabulary.

        They hold no text, so requests of all namespaces draft from them.

        Args:
            successors: int32 [V, k], the most probable next tokens after each, best first; 8 are kept.

        Raises:
            TokenIdError: A token id is negative, not an integer, or exceeds 31 bits; nothing is remembered.
        """

    def sources(self, request: RequestId) -> Int32Array:
        """Return the source of each token of a request that was inserted last, see `growth.candidates`.

        A store that does not know returns none.

        Raises:
            KeyError: The request is unknown, or has been forgotten.
        """

    def forget(self, request: RequestId) -> None:
        """Close a request, ended or aborted, and forget its prompt. Do nothing if it is unknown."""

    def remember(self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Remember a text as if it had been an answer in a namespace.

        Raises:
            ConfigError: The name is not allowed.
            TokenIdError: A token id is negative, not an integer, or exceeds 31 bits; nothing is remembered.
            UnsupportedMemoryError: The store has the default namespace only.
        """

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what outlives requests, as copies.

        Returns:
            `names`, the namespaces as Python strings, and `owners_named`, their numbers; `tokens`, oldest
            first, a gap (-1) after each answer, and `owners`, the number of each token's namespace; `keys`
            and `successors`, the model's recycled logits, oldest first; `hit_rates` and `weights`, the
            calibration state.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""


@kernel
def are_tokens(tokens: npt.NDArray[Any]) -> bool:
    """Return whether all numbers are token ids."""
    for i in range(len(tokens)):  # noqa: SIM110  # compiled, a plain loop is fastest
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
    """Refuse names that no namespace can have.

    Raises:
        ConfigError: A name is not a string, or empty, has NUL or a lone surrogate in it, or is longer than
            `MAX_NAMESPACE_BYTES`; or `reads` is one name, not several.
    """
    if isinstance(reads, str):
        message = f"reads={reads!r:.80} is one name; give a sequence of names: ({reads!r:.80},)"
        raise ConfigError(message)
    for name in (namespace, *reads):
        fault = fault_in_name(name)
        if fault is not None:
            message = f"namespace {name!r:.80} is not allowed: {fault}"
            raise ConfigError(message)


def fault_in_name(name: object) -> str | None:
    """Return why no namespace can have this name, and what to give; None if one can."""
    if not isinstance(name, str) or not name or "\0" in name:
        return "give a string that is not empty and has no NUL"
    if len(name) <= MAX_NAMESPACE_BYTES:  # so that no huge name is encoded
        try:
            if len(name.encode()) <= MAX_NAMESPACE_BYTES:
                return None
        except UnicodeEncodeError:
            return "it has a lone surrogate; give valid Unicode text"
    return (
        f"it has {len(name)} characters; give a name of at most {MAX_NAMESPACE_BYTES} bytes in UTF-8, "
        "such as the SHA-256 of this one"
    )


def checked_tokens(token_ids: TokenIds) -> Int32Array:
    """Return token ids as a new int32 array of one dimension; the caller may change its own.

    Raises:
        TokenIdError: A token id is negative, not an integer, or exceeds 31 bits.
    """
    try:
        tokens = np.asarray(token_ids)
    except (ValueError, OverflowError):  # rows of different lengths
        _refuse_tokens(token_ids)
    if tokens.ndim != 1:
        _refuse_tokens(token_ids)
    if len(tokens) and tokens.dtype.kind not in "iu":
        _refuse_tokens(next((token for token in token_ids if not _is_token(token)), token_ids))
    if len(tokens) and not are_tokens(tokens):
        message = f"token ids must be from 0 to {_LARGEST_TOKEN}; got {tokens.min()} to {tokens.max()}"
        raise TokenIdError(message)
    return np.array(
        tokens, np.int32
    )  # kernels would be compiled again for a read-only array, or one with gaps


def checked_rows(successors: Any, count: int) -> Int32Array:
    """Return the most probable next tokens after each of `count` tokens, as a new int32 array [count, k].

    Raises:
        TokenIdError: A token id is negative, not an integer, or exceeds 31 bits.
        ValueError: There is not one row for each token.
    """
    rows = np.asarray(successors)
    if rows.ndim != 2 or len(rows) != count:
        message = f"successors must be one row for each of {count} tokens, not {rows.shape}"
        raise ValueError(message)
    return checked_tokens(rows.ravel()).reshape(rows.shape)


def checked_successors(successors: Any) -> Int32Array:
    """Return the most probable next tokens after each token of a vocabulary, [V, k], as a new int32 array.

    Raises:
        TokenIdError: A token id is negative, not an integer, or exceeds 31 bits.
        ValueError: There is not one row for each token, or a row has a token twice.
    """
    if len(successors) == 0:
        return np.zeros((0, 1), np.int32)
    try:
        given = np.asarray(successors)
    except ValueError:  # rows of different lengths
        _refuse_tokens(successors)
    if given.ndim != 2:
        message = f"successors must be one row for each token of the vocabulary, not {given.shape}"
        raise ValueError(message)
    rows = checked_tokens(given.ravel()).reshape(given.shape)
    ordered = np.sort(rows, axis=1)
    twice = ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]]
    if len(twice):
        message = (
            f"a row of successors has the token {twice[0]} twice; give each once, the most probable first"
        )
        raise ValueError(message)
    return rows


def _is_token(token: Any) -> bool:
    is_integer = isinstance(token, int | np.integer) and not isinstance(token, bool)
    return bool(is_integer and 0 <= token <= _LARGEST_TOKEN)


def _refuse_tokens(given: object) -> NoReturn:
    message = f"token ids must be one sequence of integers from 0 to {_LARGEST_TOKEN}, not {given!r:.80}"
    raise TokenIdError(message)
