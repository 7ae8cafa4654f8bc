"""DraftMemory: what outlives a request. A draft store, what it may be used with, its file."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Self

from lookahead.config import DEFAULT_MEMORY_BYTES, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.memory.file_format import SavedMemory, read_memory, write_memory
from lookahead.drafting.memory.snapshots import compacted, has_our_beliefs, largest_token
from lookahead.drafting.memory.tokenizing import Tokenizer, fingerprint, tokenized
from lookahead.drafting.store import DEFAULT_NAMESPACE, DraftStore, TokenIds, check_namespaces, checked_tokens
from lookahead.errors import (
    ConfigError,
    MemoryFileError,
    UnsupportedMemoryError,
    VocabularyMismatchError,
)

_BATCH = 256


class DraftMemory:
    """What outlives a request: earlier answers, of bounded size, by namespace; safe under threads.

    >>> memory = DraftMemory()
    >>> memory.warm([[5, 6, 7]], namespace="public")
    3
    >>> memory.namespaces
    {'public': 3}

    It serves one vocabulary: the size is bound when a model first uses it, the tokenizer when one is first
    given to `bind`, `warm`, `save` or `load`; another one is refused from then on.

    Args:
        max_bytes: hard cap, 256 MiB unless told otherwise; beyond it the oldest tokens go.
        remember_prompts: keep prompts as well as answers. They may then be drafted for other
            requests of their namespace, and those that read it.
        store: the structure, instead of a `TokenLog` with the two settings above. With a `TokenTrie` there is
            one namespace and no file.

    Raises:
        ConfigError: a setting is out of range, or given beside a store, which has its own.

    Attributes:
        store: the structure.
    """

    def __init__(
        self, *, max_bytes: int | None = None, remember_prompts: bool = False, store: DraftStore | None = None
    ) -> None:
        if store is not None and (max_bytes is not None or remember_prompts):
            message = "max_bytes and remember_prompts are the store's own settings; give them to the store"
            raise ConfigError(message)
        if store is None:
            store = TokenLog(max_bytes=_checked_cap(max_bytes), remember_prompts=remember_prompts)
        self.store: DraftStore = store
        self._lock = threading.Lock()  # taken before the store's own
        self._vocabulary_size: int | None = None
        self._tokenizer: str | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        tokenizer: Tokenizer | None = None,
        vocabulary_size: int | None = None,
        max_bytes: int | None = None,
        remember_prompts: bool = False,
    ) -> Self:
        """Return the memory in a file, which stays as it is.

        Args:
            path: a file that `save` wrote.
            tokenizer: refuse the file of another one.
            vocabulary_size: refuse the file of another one.
            max_bytes: the cap, instead of the one it had; the newest tokens that it has room for are kept.
            remember_prompts: as for a new memory; what is in the file does not matter.

        Raises:
            ConfigError: the cap is out of range.
            MemoryFileError: there is no such file, or it is no memory file, damaged, too new, or of another
                tokenizer or vocabulary size; the message says which.
        """
        path = Path(path)
        saved = read_memory(path)
        cap = max(saved.max_bytes, MIN_MEMORY_BYTES) if max_bytes is None else max_bytes
        memory = cls(max_bytes=cap, remember_prompts=remember_prompts)
        memory._log().absorb(saved.snapshot, beliefs=has_our_beliefs(saved.snapshot))
        memory._vocabulary_size, memory._tokenizer = saved.vocabulary_size, saved.tokenizer
        try:
            memory.bind(vocabulary_size=vocabulary_size, tokenizer=tokenizer)
        except VocabularyMismatchError as error:
            message = f"the memory file {path} cannot be used here: {error}"
            raise MemoryFileError(message) from error
        return memory

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Remember what the model holds likely after each token of its vocabulary, for all namespaces.

        Args:
            successors: int32 [V, k], the likeliest next tokens after each, likeliest first.

        Raises:
            ValueError: a token id is negative, no integer, or does not fit 31 bits; nothing is remembered.
        """
        self.store.learn_vocabulary(successors)

    def save(self, path: str | Path, *, tokenizer: Tokenizer | None = None) -> None:
        """Write the memory to a file, whole or not at all; requests may go on meanwhile.

        What live requests have not finished is not in it.

        Args:
            path: the file; its folder exists.
            tokenizer: bound first, so that the file is refused for another one.

        Raises:
            UnsupportedMemoryError: the store is no `TokenLog`.
            VocabularyMismatchError: the memory is of another tokenizer.
            MemoryFileError: the file cannot be written.
        """
        self.bind(tokenizer=tokenizer)
        write_memory(Path(path), self.contents())

    def contents(self) -> SavedMemory:
        """Return a copy of all that `save` writes.

        Raises:
            UnsupportedMemoryError: the store is no `TokenLog`.
        """
        log = self._log()
        with self._lock:
            snapshot, vocabulary_size, tokenizer = log.snapshot(), self._vocabulary_size, self._tokenizer
        return SavedMemory(
            snapshot=compacted(snapshot),
            vocabulary_size=vocabulary_size,
            tokenizer=tokenizer,
            max_bytes=log.max_bytes,
        )

    def bind(self, *, vocabulary_size: int | None = None, tokenizer: Tokenizer | None = None) -> None:
        """Say which vocabulary the memory's tokens belong to; once said, it holds.

        Raises:
            VocabularyMismatchError: the memory is bound to another one, or holds tokens beyond it.
        """
        given = None if tokenizer is None else fingerprint(tokenizer)
        with self._lock:
            self._bind(vocabulary_size, given)

    def warm(
        self,
        texts_or_token_ids: Iterable[str | TokenIds],
        *,
        tokenizer: Tokenizer | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> int:
        """Remember texts as if they had been answers, the later ones as newer; return how many tokens.

        Args:
            texts_or_token_ids: texts, or lists of token ids; one of them at a time is read.
            tokenizer: of the model that the memory serves; texts need it. No special tokens are added.
            namespace: the one they belong to.

        Raises:
            ConfigError: a text without a tokenizer; or the namespace's name is not allowed.
            UnsupportedMemoryError: the store is a `TokenTrie`, the namespace not the default one.
            VocabularyMismatchError: the memory is of another tokenizer, or a token id beyond its vocabulary.
            ValueError: a token id is negative, no integer, or does not fit 31 bits; what came before it is
                kept.
        """
        check_namespaces(namespace)
        self.bind(tokenizer=tokenizer)
        given = [texts_or_token_ids] if isinstance(texts_or_token_ids, str) else texts_or_token_ids
        return sum(self._remember(token_ids, namespace) for token_ids in _as_token_ids(given, tokenizer))

    def merge(self, other: "DraftMemory") -> None:
        """Take in what another memory holds, namespace by namespace, as newer than what is here.

        The other one stays as it is. A memory merged with itself stays as it is, too.

        Raises:
            UnsupportedMemoryError: one of the stores is no `TokenLog`.
            VocabularyMismatchError: they are of different vocabularies or tokenizers.
        """
        log, held = self._log(), other.contents()
        if other.store is log:
            return
        with self._lock:
            self._bind(held.vocabulary_size, held.tokenizer)
            self._check_within(largest_token(held.snapshot))
            log.absorb(held.snapshot, beliefs=False)

    def forget_namespace(self, namespace: str) -> None:
        """Forget all that a namespace holds; an unknown one is nothing to forget.

        Its live requests go on, and what they answer is remembered as it ends.

        Raises:
            UnsupportedMemoryError: the store is no `TokenLog`.
        """
        self._log().forget_namespace(namespace)

    @property
    def namespaces(self) -> dict[str, int]:
        """How many tokens each namespace holds; those that hold none are left out.

        Raises:
            UnsupportedMemoryError: the store is no `TokenLog`.
        """
        held = self._log().tokens_by_namespace()
        return {name: count for name, count in held.items() if count}

    @property
    def nbytes(self) -> int:
        """Bytes the memory takes now, live requests included."""
        return self.store.nbytes

    @property
    def vocabulary_size(self) -> int | None:
        """The model's that it serves; None until one has used it."""
        return self._vocabulary_size

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """SHA-256 of its tokenizer's vocabulary; None until one is given."""
        return self._tokenizer

    def _log(self) -> TokenLog:
        if isinstance(self.store, TokenLog):
            return self.store
        message = (
            f"a memory whose store is a {type(self.store).__name__} has one namespace, no file and no "
            "merging; use one whose store is a TokenLog: DraftMemory()"
        )
        raise UnsupportedMemoryError(message)

    def _remember(self, token_ids: TokenIds, namespace: str) -> int:
        tokens = checked_tokens(token_ids)
        with self._lock:
            if self._vocabulary_size is not None:
                self._check_within(int(tokens.max(initial=-1)))
            self.store.remember(tokens, namespace)
        return len(tokens)

    def _bind(self, vocabulary_size: int | None, tokenizer: str | None) -> None:
        """Bind both or neither; the lock is held."""
        mine = self._tokenizer
        if tokenizer is not None and mine is not None and tokenizer != mine:
            message = (
                f"this draft memory holds tokens of the tokenizer {mine[:12]}, not of the one given "
                f"({tokenizer[:12]}); use a memory of its own for each tokenizer"
            )
            raise VocabularyMismatchError(message)
        if vocabulary_size is not None and self._vocabulary_size is None:
            self._check_within(largest_token(self.store.snapshot()), vocabulary_size)
        if vocabulary_size is not None and self._vocabulary_size not in (None, vocabulary_size):
            message = (
                f"this draft memory holds tokens of a vocabulary of {self._vocabulary_size}, not of "
                f"{vocabulary_size}; use a memory of its own for each vocabulary"
            )
            raise VocabularyMismatchError(message)
        self._tokenizer = mine or tokenizer
        self._vocabulary_size = self._vocabulary_size or vocabulary_size

    def _check_within(self, token: int, vocabulary_size: int | None = None) -> None:
        size = vocabulary_size or self._vocabulary_size
        if size is not None and token >= size:
            message = (
                f"token {token} is beyond a vocabulary of {size}; use a memory of its own for each vocabulary"
            )
            raise VocabularyMismatchError(message)


def _checked_cap(max_bytes: int | None) -> int:
    if max_bytes is None:
        return DEFAULT_MEMORY_BYTES
    is_integer = isinstance(max_bytes, int) and not isinstance(max_bytes, bool)
    if not is_integer or not MIN_MEMORY_BYTES <= max_bytes <= MAX_MEMORY_BYTES:
        message = (
            f"max_bytes={max_bytes!r} is not allowed; give an integer from {MIN_MEMORY_BYTES} to "
            f"{MAX_MEMORY_BYTES}"
        )
        raise ConfigError(message)
    return max_bytes


def _as_token_ids(
    given: Iterable[str | TokenIds], tokenizer: Tokenizer | None
) -> Iterator[Sequence[int] | TokenIds]:
    """Yield the token ids of each text or list of them, in order, tokenizing many texts at once."""
    left = iter(given)
    while batch := list(islice(left, _BATCH)):
        texts = [item for item in batch if isinstance(item, str)]
        if texts and tokenizer is None:
            message = "texts need the model's tokenizer: pass tokenizer=…, or give token ids"
            raise ConfigError(message)
        of_texts = iter(tokenized(texts, tokenizer) if tokenizer is not None and texts else ())
        for item in batch:
            yield next(of_texts) if isinstance(item, str) else item
