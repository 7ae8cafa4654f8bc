"""DraftMemory: the memory that outlives requests: a draft store, the vocabulary it belongs to, its file."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, Literal, Self

from lookahead.config import MIN_MEMORY_BYTES
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.memory.file_format import SavedMemory, read_memory, write_memory
from lookahead.drafting.memory.journal import Journal, MemoryUpdate, take_texts
from lookahead.drafting.memory.snapshots import MAX_VOCABULARY, compacted, has_our_calibration, largest_token
from lookahead.drafting.memory.stores import made_store
from lookahead.drafting.memory.tokenizing import Tokenizer, fingerprint, size_of, token_id_batches
from lookahead.drafting.store import (
    DEFAULT_NAMESPACE,
    DraftStore,
    TokenIds,
    check_namespaces,
    checked_successors,
    checked_tokens,
)
from lookahead.errors import (
    ConfigError,
    MemoryFileError,
    TokenIdError,
    UnsupportedMemoryError,
    VocabularyMismatchError,
)


class DraftMemory:
    """Earlier answers, of bounded size, by namespace; safe under threads.

    >>> memory = DraftMemory()
    >>> memory.warm([[5, 6, 7]], namespace="public")
    3
    >>> memory.namespaces
    {'public': 3}

    A memory belongs to one vocabulary. The first model that uses it sets the size; the first tokenizer given
    to `bind`, `warm`, `save` or `load` sets the tokenizer. Others are refused from then on.

    A copy, shallow, deep or pickled, is a memory of its own with the same content and without live requests.
    It may be made while other threads use the memory.

    Args:
        max_bytes: Hard cap, 256 MiB by default; beyond it the oldest tokens are forgotten.
        remember_prompts: Remember prompts as well as answers. They may then be drafted for other requests of
            their namespace, and of those that read it. "log" only.
        store: "log" for a `TokenLog`; "trie" for the paper's `TokenTrie`, which has one namespace and no
            file; or a store of your own, with its own settings.

    Raises:
        ConfigError: A setting is out of range, or the store does not have it.

    Attributes:
        store: The draft store.
    """

    def __init__(
        self,
        *,
        max_bytes: int | None = None,
        remember_prompts: bool = False,
        store: DraftStore | Literal["log", "trie"] = "log",
    ) -> None:
        self.store: DraftStore = made_store(store, max_bytes, remember_prompts=remember_prompts)
        self._lock = threading.Lock()  # taken before the store's own
        self._journal: Journal | None = None
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
            path: A file that `save` wrote.
            tokenizer: Refuse a file of another tokenizer.
            vocabulary_size: Refuse a file of another vocabulary size.
            max_bytes: A new cap instead of the file's; the newest tokens that fit are loaded.
            remember_prompts: As for a new memory, whatever is in the file.

        Raises:
            ConfigError: The cap is out of range.
            MemoryFileError: The file is missing, not a memory file, damaged, too new, or of another tokenizer
                or vocabulary size; the message says which.
        """
        path = Path(path)
        saved = read_memory(path)
        cap = max(saved.max_bytes, MIN_MEMORY_BYTES) if max_bytes is None else max_bytes
        memory = cls(max_bytes=cap, remember_prompts=remember_prompts)
        memory._log().absorb(saved.snapshot, calibration=has_our_calibration(saved.snapshot))
        memory._vocabulary_size, memory._tokenizer = saved.vocabulary_size, saved.tokenizer
        if saved.taken:
            memory._keep_journal(saved.taken)
        try:
            memory.bind(vocabulary_size=vocabulary_size, tokenizer=tokenizer)
        except VocabularyMismatchError as error:
            message = f"the memory file {path} cannot be used here: {error}"
            raise MemoryFileError(message) from error
        return memory

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Remember the model's most probable next tokens after each token of its vocabulary.

        Requests of all namespaces draft from them.

        Args:
            successors: int32 [V, k], the most probable next tokens after each, best first.

        Raises:
            TokenIdError: A token id is negative, not an integer, or larger than any vocabulary's.
            VocabularyMismatchError: A token id is beyond the memory's vocabulary.
            ValueError: There is not one row for each token, or a row has a token twice.

        After an error the memory is as it was before.
        """
        rows = checked_successors(successors)
        with self._lock:
            self._check_within(max(len(rows) - 1, int(rows.max(initial=-1))))
            self.store.learn_vocabulary(rows)

    def save(self, path: str | Path, *, tokenizer: Tokenizer | None = None) -> None:
        """Write the memory to a file, whole or not at all; requests may go on meanwhile.

        Answers of live requests are not in it.

        Args:
            path: The file; its folder exists.
            tokenizer: Bound first, so that the file is refused for another one.

        Raises:
            UnsupportedMemoryError: The store is not a `TokenLog`.
            VocabularyMismatchError: The memory belongs to another tokenizer.
            MemoryFileError: The file cannot be written.
        """
        self._log()
        self.bind(tokenizer=tokenizer)
        write_memory(Path(path), self.contents())

    def contents(self) -> SavedMemory:
        """Return a copy of all that `save` writes.

        Raises:
            UnsupportedMemoryError: The store is not a `TokenLog`.
        """
        log = self._log()
        with self._lock:
            taken = (
                {} if self._journal is None else self._journal.known
            )  # first: better a text twice than none
            snapshot, vocabulary_size, tokenizer = log.snapshot(), self._vocabulary_size, self._tokenizer
        return SavedMemory(
            snapshot=compacted(snapshot),
            vocabulary_size=vocabulary_size,
            tokenizer=tokenizer,
            max_bytes=log.max_bytes,
            taken=taken,
        )

    def bind(self, *, vocabulary_size: int | None = None, tokenizer: Tokenizer | None = None) -> None:
        """Bind the memory to a vocabulary, once and for all.

        Raises:
            ConfigError: The vocabulary size is not an integer of at least 1.
            VocabularyMismatchError: The memory is bound to another one, or holds tokens beyond it.
        """
        given = None if tokenizer is None else fingerprint(tokenizer)
        if vocabulary_size is not None and (type(vocabulary_size) is not int or vocabulary_size < 1):
            message = f"vocabulary_size={vocabulary_size!r} is not allowed; give an integer of at least 1"
            raise ConfigError(message)
        with self._lock:
            self._bind(vocabulary_size, given)

    def warm(
        self,
        texts_or_token_ids: Iterable[str | TokenIds],
        *,
        tokenizer: Tokenizer | None = None,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> int:
        """Remember texts as if they had been answers, in order; return how many tokens.

        Args:
            texts_or_token_ids: Texts or lists of token ids. An iterator is read in batches: after an error,
                the batches before are remembered; of anything else, nothing is.
            tokenizer: The model's; texts need it. No special tokens are added.
            namespace: The namespace they belong to.

        Raises:
            ConfigError: A text without a tokenizer; or the namespace's name is not allowed.
            UnsupportedMemoryError: The store is a `TokenTrie` and the namespace not the default one.
            VocabularyMismatchError: The memory belongs to another tokenizer, or a token id is beyond its
                vocabulary, or beyond the tokenizer's where no model has used the memory yet.
            TokenIdError: A token id is negative, not an integer, or larger than any vocabulary's.
        """
        check_namespaces(namespace)
        given = [texts_or_token_ids] if isinstance(texts_or_token_ids, str) else texts_or_token_ids
        batches = token_id_batches(given, tokenizer)
        if not isinstance(given, Iterator):
            batches = iter([[tokens for batch in batches for tokens in batch]])
        mark, size = (None, None) if tokenizer is None else (fingerprint(tokenizer), size_of(tokenizer))
        return sum(self._remember(batch, namespace, mark, size) for batch in batches)

    def merge(self, other: "DraftMemory") -> None:
        """Add the content of another memory, namespace by namespace, as newer than what is here.

        The other one does not change. Merging a memory with itself does nothing.

        Raises:
            ConfigError: The other one is no `DraftMemory`.
            UnsupportedMemoryError: One of the stores is not a `TokenLog`.
            VocabularyMismatchError: They belong to different vocabularies or tokenizers, or a token id is
                beyond their vocabulary. Nothing has changed then.
        """
        if not isinstance(other, DraftMemory):
            message = f"other={other!r:.80} is no DraftMemory; give one, or DraftMemory.load(path)"
            raise ConfigError(message)
        log, held = self._log(), other.contents()
        if other.store is log:
            return
        with self._lock:
            self._bind(held.vocabulary_size, held.tokenizer, largest=largest_token(held.snapshot))
            log.absorb(held.snapshot, calibration=False)

    def updates(self, since: int | None = None) -> MemoryUpdate:
        """Return what was learned here, from requests and by `warm`, for the memories of other replicas.

        The first call begins to keep it, up to a million tokens. What was learned before, loaded or taken
        from others is not among it.

        Args:
            since: The `end` of the update before; None for all that is kept.

        Raises:
            UnsupportedMemoryError: The store is not a `TokenLog`.
        """
        journal = self._keep_journal()
        with self._lock:
            begin, texts = journal.since(since or 0)
            return MemoryUpdate(
                source=journal.source,
                begin=begin,
                texts=texts,
                vocabulary_size=self._vocabulary_size,
                tokenizer=self._tokenizer,
            )

    def apply(self, update: MemoryUpdate) -> int:
        """Remember what another memory learned, each text once; return how many tokens.

        What it has forgotten is forgotten here, too.

        Updates of one memory come in order; they may come again, and overlap.

        Raises:
            UnsupportedMemoryError: The store is not a `TokenLog`.
            VocabularyMismatchError: They belong to different vocabularies or tokenizers, or a token id is
                beyond their vocabulary. Nothing has changed then.
            ConfigError: A namespace's name is not allowed; nothing has changed then.
            TokenIdError: A token id is not one; nothing has changed then.
        """
        journal, log = self._keep_journal(), self._log()
        texts = [(text.namespace, checked_tokens(text.tokens)) for text in update.texts]
        for namespace, _ in texts:
            check_namespaces(namespace)
        largest = max((int(tokens.max(initial=-1)) for _, tokens in texts), default=-1)
        with self._lock:
            self._bind(update.vocabulary_size, update.tokenizer, largest=largest)
            new = journal.new_texts(update)
            take_texts(log, journal, new)
        return sum(len(text.tokens) for text in new)

    def forget_namespace(self, namespace: str) -> None:
        """Forget all that a namespace holds, here and in the memories that take this one's updates.

        Its live requests go on, and their answers are remembered when they end.

        Raises:
            ConfigError: No namespace can have the name.
            UnsupportedMemoryError: The store is not a `TokenLog`.
        """
        log = self._log()
        with self._lock:
            log.forget_namespace(namespace)
            if self._journal is not None:
                self._journal.forget(namespace, tells_others=True)

    @property
    def namespaces(self) -> dict[str, int]:
        """How many tokens each namespace holds, empty ones left out.

        Raises:
            UnsupportedMemoryError: The store is not a `TokenLog`.
        """
        held = self._log().tokens_by_namespace()
        return {name: count for name, count in held.items() if count}

    @property
    def nbytes(self) -> int:
        """Bytes of the memory now, live requests included."""
        return self.store.nbytes

    @property
    def vocabulary_size(self) -> int | None:
        """The vocabulary size of its model; None until a model has used it."""
        return self._vocabulary_size

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """SHA-256 of its tokenizer's vocabulary; None until a tokenizer is given."""
        return self._tokenizer

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:  # the vocabulary is that of the tokens
            state = {**vars(self), "store": deepcopy(self.store), "_journal": None}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy(self)

    def _log(self) -> TokenLog:
        if isinstance(self.store, TokenLog):
            return self.store
        message = (
            f"a DraftMemory with a {type(self.store).__name__} has one namespace, no file and no merging; "
            "use one with a TokenLog: DraftMemory()"
        )
        raise UnsupportedMemoryError(message)

    def _keep_journal(self, taken: Mapping[str, int] | None = None) -> Journal:
        log = self._log()
        with self._lock:
            if self._journal is None:
                self._journal = Journal(taken=dict(taken or {}))
                log.on_learned = self._journal.note
            return self._journal

    def _remember(self, texts: list[Int32Array], namespace: str, mark: str | None, size: int | None) -> int:
        """Remember all texts or, if one is refused, none; bind the tokenizer's mark, but not its size."""
        largest = max((int(tokens.max(initial=-1)) for tokens in texts), default=-1)
        with self._lock:
            self._check_within(largest, self._vocabulary_size or size)
            self._bind(None, mark)
            for tokens in texts:
                self.store.remember(tokens, namespace)
        return sum(map(len, texts))

    def _bind(self, vocabulary_size: int | None, tokenizer: str | None, *, largest: int = -1) -> None:
        """Bind both or neither, to hold tokens up to `largest`; the caller holds the lock."""
        bound = self._tokenizer
        if tokenizer is not None and bound is not None and tokenizer != bound:
            message = (
                f"this draft memory holds tokens of the tokenizer {bound[:12]}, not of the one given "
                f"({tokenizer[:12]}); use a separate memory for each tokenizer"
            )
            raise VocabularyMismatchError(message)
        if vocabulary_size is not None and self._vocabulary_size is None:
            self._check_within(largest_token(self.store.snapshot()), vocabulary_size)
        if vocabulary_size is not None and self._vocabulary_size not in (None, vocabulary_size):
            message = (
                f"this draft memory holds tokens of a vocabulary of {self._vocabulary_size}, not of "
                f"{vocabulary_size}; use a separate memory for each vocabulary"
            )
            raise VocabularyMismatchError(message)
        self._check_within(largest, self._vocabulary_size or vocabulary_size)
        self._tokenizer = bound or tokenizer
        self._vocabulary_size = self._vocabulary_size or vocabulary_size
        if isinstance(self.store, TokenLog):
            self.store.vocabulary_size = self._vocabulary_size

    def _check_within(self, token: int, vocabulary_size: int | None = None) -> None:
        size = vocabulary_size or self._vocabulary_size
        if size is not None and token >= size:
            message = (
                f"token {token} is beyond a vocabulary of {size}; use a separate memory for each vocabulary"
            )
            raise VocabularyMismatchError(message)
        if size is None and token >= MAX_VOCABULARY:
            message = f"token {token} is beyond any vocabulary; give token ids below {MAX_VOCABULARY}"
            raise TokenIdError(message)
