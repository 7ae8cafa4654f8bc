"""TokenTrie: the paper's draft store, a trie of token sequences (arXiv 2312.12728, section 4.2).

`insertion`, `pruning` and `retrieval` are the paper's operations; `draft_tree` builds drafts with them.

A node is a run of up to `context_length + 1` tokens, with how often it was seen and when last. Suffix links
join a run to the same run without its first token, so that inserting a token and matching a context need no
search, and a draft may be deeper than the trie. docs/design/token-trie.md says where this departs from the
paper, and what that gives.
"""

import threading
from collections.abc import Iterable, Sequence
from copy import copy, deepcopy
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lookahead.config import DEFAULT_MEMORY_BYTES, DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.growth.modes import as_draft_tree, side_by_side
from lookahead.drafting.noise import NO_NOISE, Noise
from lookahead.drafting.store import (
    DEFAULT_NAMESPACE,
    Origin,
    RequestId,
    TokenIds,
    check_decoding_length,
    check_namespaces,
    checked_tokens,
)
from lookahead.drafting.tree import DraftTree
from lookahead.drafting.trie.draft_tree import build_draft_tree
from lookahead.drafting.trie.insertion import follow_token, insert_tokens
from lookahead.drafting.trie.nodes import (
    CLOCK,
    FREE_COUNT,
    NONE,
    OWN_CONTEXT,
    OWN_ROOT,
    SHARED_CONTEXT,
    USED,
    available,
    grown_pool,
    new_pool,
    pool_bytes,
    release_trie,
    take_node,
)
from lookahead.drafting.trie.pruning import LATEST_CLOCK, collect_trie, prune, rebase_clock
from lookahead.drafting.trie.retrieval import MAX_TRIE_DEPTH, initial_hit_rates
from lookahead.errors import ConfigError, UnsupportedMemoryError
from lookahead.jit import log_if_slow

_SMALLEST_POOL = 4096
_PRUNED_SHARE = 0.25


class TokenTrie:
    """A draft store of bounded size, safe under threads; a prompt is drafted only for its own request.

    A copy, shallow, deep or pickled, is a trie of its own with the same content and without live requests.

    Args:
        context_length: The longest run of tokens matched, 1 to 15. Longer ones cost memory and gain little.
        max_nodes: Hard cap in nodes, if any, those of live requests included. If live requests alone fill it,
            their further tokens are matched but not remembered.
        max_bytes: Hard cap in bytes; the smaller of the two holds.
        stop_words: Token ids (from 0 to 2³¹ - 1) that are no context by themselves: nothing is drafted after
            them unless the tokens before them match as well.

    Raises:
        ConfigError: A value is out of range.
    """

    recycles = False

    def __init__(
        self,
        *,
        context_length: int = 7,
        max_nodes: int | None = None,
        max_bytes: int = DEFAULT_MEMORY_BYTES,
        stop_words: Iterable[int] = frozenset(),
    ) -> None:
        if not 1 <= context_length < MAX_TRIE_DEPTH:
            message = f"context_length={context_length!r} is not allowed; give 1 to {MAX_TRIE_DEPTH - 1}"
            raise ConfigError(message)
        self._max_depth = context_length + 1
        self._stop_words = _checked_stop_words(stop_words)
        self._hit_rates = initial_hit_rates()
        self._max_nodes = _affordable_nodes(
            max_bytes if max_nodes is None else max_nodes,  # a node takes more than a byte
            max_bytes,
            fixed_bytes=self._hit_rates.nbytes + self._stop_words.nbytes,
            min_nodes=4 * self._max_depth,
        )
        self._lock = threading.Lock()
        self._requests: dict[RequestId, Int32Array] = {}
        with log_if_slow():
            compile_trie_kernels()
        self._pool = new_pool(min(_SMALLEST_POOL, self._max_nodes))
        self._shared_root = take_node(self._pool)
        self._empty_root = take_node(self._pool)  # of requests for which no node was available

    def open(
        self,
        request: RequestId,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        remember: bool = True,
    ) -> None:
        """Do as `DraftStore.open` says; a trie remembers every answer."""
        del request
        _check_is_default(namespace, reads)
        if not remember:
            message = "a trie remembers every answer; use DraftMemory() for requests that leave nothing"
            raise UnsupportedMemoryError(message)

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Do as `DraftStore.insert` says."""
        tokens = checked_tokens(token_ids)
        if len(tokens) == 0:
            return
        is_output = Origin(origin) is Origin.OUTPUT
        with self._lock:
            if self._pool.meta[CLOCK] >= LATEST_CLOCK:
                rebase_clock(self._pool, LATEST_CLOCK // 2)
            row = self._opened(request)
            done = 0
            while done < len(tokens):
                done += insert_tokens(
                    self._pool,
                    row,
                    tokens[done:],
                    is_output,
                    self._max_depth,
                    self._stop_words,
                    self._hit_rates,
                )
                if done < len(tokens) and not self._make_room():
                    follow_token(self._pool, row, tokens[done], is_output, self._max_depth, self._stop_words)
                    done += 1

    def propose(
        self,
        request: RequestId,
        *,
        decoding_length: int,
        branch_length: int,
        mode: DraftMode,
        noise: Noise = NO_NOISE,
    ) -> DraftTree:
        """Do as `DraftStore.propose` says, but for the noise."""
        del noise
        check_decoding_length(decoding_length)
        with self._lock:
            tree = build_draft_tree(
                self._pool,
                self._requests[request],
                self._max_depth,
                self._stop_words,
                self._hit_rates,
                decoding_length,
                branch_length,
                mode is DraftMode.SINGLE,
            )
        return as_draft_tree(tree, decoding_length, mode)

    def recycle(
        self, request: RequestId, token_ids: TokenIds, successors: Int32Array, *, accepted: int = 0
    ) -> None:
        """Do nothing: this store drafts only from seen tokens."""

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Do nothing: this store drafts only from seen tokens."""

    def sources(self, request: RequestId) -> Int32Array:  # noqa: ARG002
        """Return nothing: a trie does not note where its drafts come from."""
        return np.zeros(0, np.int32)

    def remember(self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Do as `DraftStore.remember` says."""
        _check_is_default(namespace)
        request = object()
        try:
            self.insert(request, token_ids, Origin.OUTPUT)
        finally:
            self.forget(request)

    def forget(self, request: RequestId) -> None:
        """Close a request: free its own trie, prompt and answer; its answer stays in the shared trie."""
        with self._lock:
            row = self._requests.pop(request, None)
            if row is not None and row[OWN_ROOT] != self._empty_root:
                release_trie(self._pool, np.int64(row[OWN_ROOT]))

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Do as `DraftStore.snapshot` says."""
        with self._lock:
            pool = self._pool
            nodes = np.full(self.node_count, self._shared_root, np.int32)
            nodes = nodes[: 1 + collect_trie(pool, self._shared_root, nodes[1:])]
            numbers = np.full(len(pool.token), NONE, np.int32)
            numbers[nodes] = np.arange(len(nodes))
            parents = numbers[pool.parent[nodes]]
            parents[0] = NONE
            return {
                "token": pool.token[nodes],
                "parent": parents,
                "seen": pool.seen[nodes],
                "stamp": pool.stamp[nodes],
                "hit_rates": self._hit_rates.copy(),
            }

    @property
    def node_count(self) -> int:
        """Nodes in use, those of live requests included."""
        return int(self._pool.meta[USED] - self._pool.meta[FREE_COUNT])

    @property
    def max_nodes(self) -> int:
        """The cap in nodes that follows from both settings."""
        return self._max_nodes

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, unused room included."""
        return sum(array.nbytes for array in (*self._pool, self._hit_rates, self._stop_words))

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            pool = deepcopy(self._pool)
            own_roots = [
                row[OWN_ROOT] for row in self._requests.values() if row[OWN_ROOT] != self._empty_root
            ]
            hit_rates = self._hit_rates.copy()
        for root in own_roots:
            release_trie(pool, np.int64(root))
        return {**vars(self), "_pool": pool, "_hit_rates": hit_rates, "_requests": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
        # Kernels take arrays that can be written; those of a pickle may not be.
        self._pool = deepcopy(self._pool)
        self._hit_rates, self._stop_words = self._hit_rates.copy(), self._stop_words.copy()
        with log_if_slow():
            compile_trie_kernels()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy(self)

    def _opened(self, request: RequestId) -> Int32Array:
        row = self._requests.get(request)
        if row is None:
            empty, shared = self._empty_root, self._shared_root
            row = self._requests[request] = np.array([empty, empty, shared, shared, NONE], np.int32)
        if row[OWN_ROOT] == self._empty_root and self._make_room():
            row[OWN_ROOT] = row[OWN_CONTEXT] = take_node(self._pool)
        return row

    def _make_room(self) -> bool:
        """Grow the pool, or prune at the cap, until a token can be inserted; return whether it can."""
        while available(self._pool) < 2 * self._max_depth:
            capacity = len(self._pool.token)
            if capacity < self._max_nodes:
                self._pool = grown_pool(self._pool, min(2 * capacity, self._max_nodes))
            elif not self._pruned_nodes():
                return False
        return True

    def _pruned_nodes(self) -> int:
        """Prune the shared trie; return how many nodes that frees."""
        rows = list(self._requests.values())
        contexts = np.array([row[SHARED_CONTEXT] for row in rows], np.int32)
        for row in rows:  # if Ctrl-C comes before the end, no context may be a freed node
            row[SHARED_CONTEXT] = self._shared_root
        freed = prune(self._pool, self._shared_root, _PRUNED_SHARE, contexts)
        for row, context in zip(rows, contexts, strict=True):
            row[SHARED_CONTEXT] = context
        return freed


@cache
def compile_trie_kernels() -> None:
    """Run every kernel once on a small pool, so that no request waits for the compiler."""
    pool = new_pool(64)
    hit_rates, stop_words, no_words = initial_hit_rates(), np.array([3], np.int32), np.zeros(0, np.int32)
    shared_root, root = take_node(pool), take_node(pool)
    request = np.array([root, root, shared_root, shared_root, -1], np.int32)
    tokens = np.array([1, 2, 1, 2], np.int32)
    for words in (stop_words, no_words):
        insert_tokens(pool, request, tokens, True, 2, words, hit_rates)
        follow_token(pool, request, tokens[0], True, 2, words)
    side_by_side(build_draft_tree(pool, request, 2, no_words, hit_rates, 4, 2, False), 4)
    pool = grown_pool(pool, 128)
    collect_trie(pool, shared_root, np.empty(64, np.int32))
    prune(pool, shared_root, 0.5, np.array([request[SHARED_CONTEXT]], np.int32))
    rebase_clock(pool, 1)
    available(pool)
    release_trie(pool, np.int64(root))
    DraftTree.root_only(0).ancestors()


def _check_is_default(namespace: str, reads: Sequence[str] = ()) -> None:
    check_namespaces(namespace, reads)
    for name in (namespace, *reads):
        if name != DEFAULT_NAMESPACE:
            message = (
                f"a TokenTrie has the namespace {DEFAULT_NAMESPACE!r} only, not {name!r}; "
                "use a DraftMemory with a TokenLog: DraftMemory()"
            )
            raise UnsupportedMemoryError(message)


def _checked_stop_words(stop_words: Iterable[int]) -> Int32Array:
    if not isinstance(stop_words, Iterable):
        message = f"stop_words={stop_words!r} is not allowed; give a set of token ids"
        raise ConfigError(message)
    words = list(stop_words)
    for word in words:
        if not isinstance(word, int) or isinstance(word, bool) or not 0 <= word < 2**31:
            message = f"stop_words: each={word!r} is not allowed; give an integer from 0 to {2**31 - 1}"
            raise ConfigError(message)
    return np.array(sorted(set(words)), np.int32)


def _affordable_nodes(max_nodes: int, max_bytes: int, *, fixed_bytes: int, min_nodes: int) -> int:
    """Return the largest capacity up to `max_nodes` that fits `max_bytes` besides `fixed_bytes`."""
    low, high = 0, max_nodes
    while low < high:
        middle = (low + high + 1) // 2
        if pool_bytes(middle) + fixed_bytes <= max_bytes:
            low = middle
        else:
            high = middle - 1
    if low < min_nodes:
        message = (
            f"max_nodes={max_nodes} and max_bytes={max_bytes} leave room for {low} nodes; "
            f"at least {min_nodes} are needed"
        )
        raise ConfigError(message)
    return low
