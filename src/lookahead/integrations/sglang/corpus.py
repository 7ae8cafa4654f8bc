"""`LookaheadCorpus`: a draft memory behind the interface of SGLang's `NgramCorpus`."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Int64Array
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.store import DEFAULT_NAMESPACE, Origin, TokenIds
from lookahead.drafting.tree import DraftTree
from lookahead.errors import ConfigError, TokenIdError
from lookahead.integrations.sglang.namespaces import CORPUS_PREFIX, corpus_namespace
from lookahead.integrations.sglang.trees import laid_out, masks

SEPARATOR = -(2**31)
"""SGLang's token between two documents of an external corpus."""
_log = logging.getLogger("lookahead.sglang")


@dataclass
class _Live:
    """A request that is being decoded.

    Attributes:
        namespace: What it belongs to.
        final_answer: Returns its answer when it is over; None if only `seen` is known.
        length: Tokens so far, its prompt included.
        tail: Its last tokens, as they were handed over.
        seen: Its answer's tokens, as far as they were handed over; some may lie behind the answer's end.
        reads: Further namespaces to draft from.
        is_remembered: Whether its answer is remembered.
        is_drafted: Whether the memory takes its tokens.
        key: Its name in the draft store.
    """

    namespace: str
    final_answer: Callable[[], TokenIds | None] | None
    length: int
    tail: list[int]
    seen: list[int] = field(default_factory=list)
    reads: tuple[str, ...] = ()
    is_remembered: bool = True
    is_drafted: bool = True
    key: object = field(default_factory=object)


class LookaheadCorpus:
    """Drafts for the rows of SGLang's NGRAM worker from a draft memory.

    The worker names each row's request, so rows may move, and requests with equal prompts stay apart. A
    request begins with `open`, or with the first `batch_get` that names it: then what is handed over counts
    as its prompt. It ends with `erase_match_state`; only then is its answer remembered, once and whole. One
    that comes back after a preemption begins anew.

    Args:
        memory: The draft memory.
        draft_token_num: Nodes that the worker verifies for each row, the current token included.
        is_chain: Draft one branch only, for attention backends that verify no trees.
        default_namespace: The namespace of requests that are opened without one.
        remember: Whether answers are remembered.
        share: Is called with all drafts, int64 [2, rows, n], before they are returned, to hand them to other
            ranks.

    Raises:
        ConfigError: There is no room for node 0.
    """

    def __init__(
        self,
        memory: DraftMemory,
        draft_token_num: int,
        *,
        is_chain: bool = False,
        default_namespace: str = DEFAULT_NAMESPACE,
        remember: bool = True,
        share: Callable[[Int64Array], None] | None = None,
    ) -> None:
        if draft_token_num < 1:
            message = f"draft_token_num={draft_token_num} has no room for the current token; give 1 or more"
            raise ConfigError(message)
        self.memory, self.draft_token_num = memory, draft_token_num
        self._is_chain, self._default_namespace = is_chain, default_namespace
        self._is_remembering, self._share = remember, share
        self._live: dict[str, _Live] = {}
        self._corpora: tuple[str, ...] = ()
        self.list_external_corpora()

    def __contains__(self, rid: str) -> bool:
        return rid in self._live

    def open(
        self,
        rid: str,
        prompt: Sequence[int],
        *,
        answered: Sequence[int] = (),
        namespace: str | None = None,
        reads: Sequence[str] = (),
        remember: bool = True,
        final_answer: Callable[[], TokenIds | None] | None = None,
    ) -> None:
        """Open a request with its whole prompt; the worker alone would hand over the end of it.

        Args:
            rid: The request's name. If one of this name is open, it ends.
            prompt: All of it.
            answered: What of the answer is there already. It is drafted from and not remembered for itself.
            namespace: The namespace it belongs to; None for the default one.
            reads: Further namespaces to draft from, besides those of external corpora.
            remember: Whether its answer is remembered.
            final_answer: Is called when the request has left the batch, and returns what is remembered of
                it: the answer up to its end, or None if it is not over. Without it, all that was handed over
                is remembered, also what may lie behind the end.

        Raises:
            ConfigError: No namespace can have the name.
        """
        self.erase_match_state([rid])
        text = [*prompt, *answered]
        live = _Live(
            namespace or self._default_namespace,
            final_answer,
            len(text),
            text,
            reads=tuple(reads),
            is_remembered=remember and self._is_remembering,
        )
        self._begin(rid, live)

    def batch_get(
        self, req_ids: Sequence[str], batch_tokens: Sequence[Sequence[int]], total_lens: Sequence[int]
    ) -> tuple[Int64Array, Int64Array]:
        """Return a draft for each row: tokens, int64 [rows · n], and masks, int64 [rows · n · n].

        A tree's nodes are breadth first. Node 0 is the last token of the row's text.

        Args:
            req_ids: Each row's request.
            batch_tokens: The last tokens of each row's text, at least those that are new since the call
                before; else, or if they contradict what was handed over, the request begins anew with them.
            total_lens: The length of each row's whole text.
        """
        drafts = np.empty((2, len(req_ids), self.draft_token_num), np.int64)
        for row, (rid, tail, total) in enumerate(zip(req_ids, batch_tokens, total_lens, strict=True)):
            live = self._follow(rid, list(tail), total)
            drafts[:, row] = laid_out(self._draft(live), self.draft_token_num, is_chain=self._is_chain)
        if self._share is not None:
            self._share(drafts)
        tokens, parents = drafts
        return tokens.reshape(-1), masks(parents).reshape(-1)

    def batch_put(self, batch_tokens: Sequence[Sequence[int]]) -> None:
        """Do nothing: `batch_get` has the same tokens, and knows whose they are."""

    def synchronize(self) -> None:
        """Do nothing: what was learned is there at once."""

    def reset(self) -> None:
        """End all requests. What is remembered stays: it outlives the KV cache and the model's weights."""
        self.erase_match_state(list(self._live))

    def erase_match_state(self, req_ids: Iterable[str]) -> None:
        """End requests that left the batch, and remember their answers. Do nothing about unknown ones."""
        for rid in req_ids:
            live = self._live.pop(rid, None)
            if live is None:
                continue
            self.memory.store.forget(live.key)
            self._remember(live, live.seen if live.final_answer is None else live.final_answer())

    def load_external_corpus_named(self, corpus_id: str, chunks: Iterable[Sequence[int]]) -> int:
        """Remember a corpus that all requests may draft from, instead of one of this name; return its length.

        It is in the namespace "corpus:" and the name, and so in the memory's file, too.

        Raises:
            ConfigError: The corpus is empty.
            TokenIdError: A token id is not one.
            VocabularyMismatchError: A token id is beyond the memory's vocabulary.
        """
        texts = list(documents(chunks))
        if not texts:
            message = f"the external corpus {corpus_id!r:.80} has no tokens; give documents with text in them"
            raise ConfigError(message)
        namespace = corpus_namespace(corpus_id)
        self.memory.forget_namespace(namespace)
        count = self.memory.warm(texts, namespace=namespace)
        self.list_external_corpora()
        return count

    def commit_external_corpus_load(self, corpus_id: str, loaded_token_count: int) -> None:
        """Do nothing: a corpus is there as soon as it is loaded."""

    def remove_external_corpus(self, corpus_id: str) -> None:
        """Forget a corpus. Do nothing if it is unknown."""
        self.memory.forget_namespace(corpus_namespace(corpus_id))
        self.list_external_corpora()

    def list_external_corpora(self) -> dict[str, int]:
        """Return how many tokens of each corpus the memory holds; from now on requests read these."""
        held = {name: n for name, n in self.memory.namespaces.items() if name.startswith(CORPUS_PREFIX)}
        self._corpora = tuple(held)  # at once: a corpus is loaded in another thread
        return {name.removeprefix(CORPUS_PREFIX): count for name, count in held.items()}

    def _begin(self, rid: str, live: _Live) -> None:
        # The store is not told to remember: it would remember what lies behind the answer's end.
        reads = (*live.reads, *self._corpora)
        self.memory.store.open(live.key, namespace=live.namespace, reads=reads, remember=False)
        self._live[rid] = live
        self._insert(rid, live, live.tail, Origin.PROMPT)

    def _follow(self, rid: str, tail: list[int], total: int) -> _Live:
        """Return a row's request after it has taken what is new."""
        live = self._live.get(rid)
        if live is None:
            live = _Live(self._default_namespace, None, total, tail, is_remembered=self._is_remembering)
            self._begin(rid, live)
            return live
        new = total - live.length
        known = len(tail) - new
        shared = min(known, len(live.tail))
        if new < 0 or known < 0 or tail[known - shared : known] != live.tail[len(live.tail) - shared :]:
            self.memory.store.forget(live.key)
            if live.final_answer is None:
                self._remember(live, live.seen)
            live = replace(live, length=total, tail=tail, seen=[], is_drafted=True, key=object())
            self._begin(rid, live)
            return live
        live.length, live.tail = total, tail
        if live.final_answer is None:
            live.seen += tail[known:]
        self._insert(rid, live, tail[known:], Origin.OUTPUT)
        return live

    def _insert(self, rid: str, live: _Live, tokens: list[int], origin: Origin) -> None:
        """Give the store tokens; a text that it cannot take must not end the server."""
        if not live.is_drafted:
            return
        size = self.memory.vocabulary_size
        try:
            self.memory.store.insert(live.key, tokens, origin)
            live.is_drafted = size is None or max(tokens, default=0) < size
        except TokenIdError:
            live.is_drafted = False
        if not live.is_drafted:
            _log.warning("request %s is not drafted: it has tokens beyond the vocabulary", rid)

    def _draft(self, live: _Live) -> DraftTree:
        if not live.is_drafted:
            return DraftTree.root_only(max(0, live.tail[-1]))
        return self.memory.store.propose(
            live.key,
            decoding_length=self.draft_token_num,
            branch_length=self.draft_token_num - 1,
            mode=DraftMode.SINGLE if self._is_chain else DraftMode.HIERARCHICAL,
        )

    def _remember(self, live: _Live, answer: TokenIds | None) -> None:
        if live.is_remembered and live.is_drafted and answer is not None and len(answer) > 0:
            self.memory.store.remember(answer, live.namespace)


def documents(chunks: Iterable[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the documents of an external corpus: its chunks joined, then split at separators."""
    document: list[int] = []
    for chunk in chunks:
        for token in chunk:
            if token != SEPARATOR:
                document.append(token)
            elif document:
                yield document
                document = []
    if document:
        yield document
