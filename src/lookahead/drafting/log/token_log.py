"""TokenLog: a draft store that holds the text itself and finds earlier occurrences of the last tokens in it.

The text is a ring of tokens with hash chains (`ring`). The continuations of its matches are the trie
(`matches`), built best first and only as far as it is needed (`growth`). The model's own most probable next
tokens are stored with it (`successors`). See docs/design/token-log.md.
"""

import threading
from collections.abc import Sequence
from copy import copy
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lookahead.config import DEFAULT_MEMORY_BYTES, DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.growth.modes import as_draft_tree
from lookahead.drafting.log.calibration import initial_weights
from lookahead.drafting.log.entry_points import append_tokens, compile_log_kernels, grow_draft
from lookahead.drafting.log.matches import NO_OWNER, VOCABULARY, initial_hit_rates
from lookahead.drafting.log.requests import LiveRequest, Namespaces
from lookahead.drafting.log.ring import GAP, ORDERS, SMALLEST_RING, RingBuffer, ring_bytes
from lookahead.drafting.log.sizing import affordable_tokens, divided
from lookahead.drafting.log.successors import (
    EMPTY,
    new_table,
    table_bytes,
    with_room,
    without_owner,
    write_all,
)
from lookahead.drafting.log.workspace import WorkspaceBuffers
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
from lookahead.jit import log_if_slow

_FIRST_RING = 4096
_FIRST_TABLE = 4096


class TokenLog:
    """A draft memory of bounded size, safe under threads; nothing crosses from one namespace to another.

    A request's tokens are in its own log while it lives. When it ends, its whole answer goes into the shared
    log, under its namespace, and overwrites the oldest tokens there.

    A copy, shallow, deep or pickled, is a log of its own with the same content and without live requests.

    Args:
        max_bytes: Hard cap in bytes: half of it for the shared log, a quarter for those of live requests,
            a quarter for the model's successors, each rounded down to a power of two of entries.
        remember_prompts: Remember prompts as well as answers when a request ends.

    Raises:
        ConfigError: The cap leaves no room.

    Attributes:
        max_bytes: The cap.
    """

    recycles = True

    def __init__(self, *, max_bytes: int = DEFAULT_MEMORY_BYTES, remember_prompts: bool = False) -> None:
        self._hit_rates, self._weights = initial_hit_rates(), initial_weights()
        parts = divided(max_bytes, learned_bytes=self._hit_rates.nbytes + self._weights.nbytes)
        self._own_budget, self._max_shared, self._max_buckets = parts
        self.max_bytes = max_bytes
        self._remember_prompts = remember_prompts
        self._lock = threading.Lock()
        self._namespaces = Namespaces()
        self._requests: dict[RequestId, LiveRequest] = {}
        with log_if_slow():
            compile_log_kernels()
        self._shared = RingBuffer(min(_FIRST_RING, self._max_shared))
        self._table = new_table(min(_FIRST_TABLE, self._max_buckets))
        self._no_room = RingBuffer(SMALLEST_RING)
        self._no_draft = WorkspaceBuffers(1)

    def open(
        self, request: RequestId, *, namespace: str = DEFAULT_NAMESPACE, reads: Sequence[str] = ()
    ) -> None:
        """Do as `DraftStore.open` says."""
        check_namespaces(namespace, reads)
        with self._lock:
            self._opened(request, namespace, reads)

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Do as `DraftStore.insert` says."""
        tokens = checked_tokens(token_ids)
        if len(tokens) == 0:
            return
        is_output = Origin(origin) is Origin.OUTPUT
        with self._lock:
            live = self._requests.get(request)
            if live is None:
                live = self._opened(request, DEFAULT_NAMESPACE, ())
            if live.own is self._no_room or live.own.written + len(tokens) > live.own.capacity:
                self._give_room(live, len(tokens))
            live.recycled_tokens += append_tokens(
                live.own.cells,
                live.own.heads,
                live.own.end,
                live.own is not self._no_room,
                live.tail,
                tokens,
                np.empty(len(tokens) + ORDERS[0] - 1, np.int32),
                self._hit_rates,
                self._weights,
                live.draft.integers,
                live.draft.floats,
                live.draft.max_nodes,
                is_output,
            )
            live.length += len(tokens)
            if is_output or self._remember_prompts:
                live.answer.append(tokens)

    def propose(
        self, request: RequestId, *, decoding_length: int, branch_length: int, mode: DraftMode
    ) -> DraftTree:
        """Do as `DraftStore.propose` says."""
        check_decoding_length(decoding_length)
        with self._lock:
            live = self._requests[request]
            if live.length == 0:
                raise KeyError(request)
            if live.draft.max_nodes < decoding_length:
                live.draft = WorkspaceBuffers(decoding_length)
            size = grow_draft(
                live.own.cells,
                live.own.heads,
                live.own.end,
                self._shared.cells,
                self._shared.heads,
                self._shared.end,
                self._table.keys,
                self._table.successors,
                live.readable,
                live.tail,
                self._hit_rates,
                self._weights,
                live.draft.integers,
                live.draft.floats,
                live.draft.max_nodes,
                decoding_length,
                branch_length,
                mode is DraftMode.SINGLE,
            )
            tree = live.draft.first_nodes(size)
        return as_draft_tree(tree, decoding_length, mode)

    def recycle(self, request: RequestId, token_ids: TokenIds, successors: Int32Array) -> None:
        """Do as `DraftStore.recycle` says."""
        tokens = checked_tokens(token_ids)
        if len(tokens) == 0:
            return
        rows = np.asarray(successors)
        if rows.ndim != 2 or len(rows) != len(tokens):
            message = f"successors must be one row for each of {len(tokens)} tokens, not {rows.shape}"
            raise ValueError(message)
        rows = checked_tokens(rows.ravel()).reshape(rows.shape)
        with self._lock:
            self._write_successors(self._requests[request].owner, tokens, rows)

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Do as `DraftStore.learn_vocabulary` says."""
        if len(successors) == 0:
            return
        rows = checked_tokens(np.ravel(successors)).reshape(len(successors), -1)
        with self._lock:
            self._write_successors(VOCABULARY, np.arange(len(rows), dtype=np.int32), rows)

    def recycled_tokens(self, request: RequestId) -> int:
        """Do as `DraftStore.recycled_tokens` says."""
        return self._requests[request].recycled_tokens

    def forget(self, request: RequestId) -> None:
        """Close a request: free its own log and append its answer to the shared log."""
        with self._lock:
            live = self._requests.pop(request, None)
            if live is not None and live.answer:
                self._remember(np.concatenate(live.answer), live.owner)

    def remember(self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Do as `DraftStore.remember` says."""
        check_namespaces(namespace)
        tokens = checked_tokens(token_ids)
        if len(tokens):
            with self._lock:
                self._remember(tokens, self._namespaces.owner(namespace))

    def forget_namespace(self, namespace: str) -> None:
        """Forget all that a namespace holds; its live requests go on. Do nothing if it is unknown."""
        with self._lock:
            owner = self._namespaces.owners.get(namespace)
            if owner is not None:
                forgotten = self._shared.owners == owner
                self._shared.tokens[forgotten], self._shared.owners[forgotten] = GAP, NO_OWNER
                self._table = without_owner(self._table, owner)
                if all(live.owner != owner for live in self._requests.values()):
                    del self._namespaces.owners[namespace]  # its name is forgotten, too

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Do as `DraftStore.snapshot` says."""
        with self._lock:
            tokens, owners = self._shared.newest(self._shared.capacity)
            used = np.flatnonzero(self._table.keys != EMPTY)
            used = used[np.argsort(self._table.stamps[used], kind="stable")]
            return {
                "names": np.array(list(self._namespaces.owners), np.str_),
                "owners_named": np.array(list(self._namespaces.owners.values()), np.int32),
                "tokens": tokens,
                "owners": owners,
                "keys": self._table.keys[used],
                "successors": self._table.successors[used],
                "hit_rates": self._hit_rates.copy(),
                "weights": self._weights.copy(),
            }

    def absorb(self, snapshot: dict[str, npt.NDArray[np.generic]], *, calibration: bool) -> None:
        """Add another log's snapshot, namespace by namespace, as newer than what is here.

        Args:
            snapshot: Of a log with the same vocabulary.
            calibration: Also take over its calibration state.
        """
        with self._lock:
            numbers = np.zeros(1 + max(snapshot["owners_named"], default=0), np.int32)
            for name, owner in zip(snapshot["names"], snapshot["owners_named"], strict=True):
                numbers[owner] = self._namespaces.owner(str(name))
            tokens = snapshot["tokens"].astype(np.int32)
            if len(tokens):
                self._shared = self._shared.with_room(len(tokens), self._max_shared)
                self._shared.append_owned(tokens, numbers[snapshot["owners"]])
            keys, successors = snapshot["keys"].astype(np.int64), snapshot["successors"].astype(np.int32)
            borders = [0, *(np.flatnonzero(np.diff(keys >> 31)) + 1), len(keys)]
            for begin, end in pairwise(borders if len(keys) else ()):
                owner = int(numbers[keys[begin] >> 31])
                token_ids = (keys[begin:end] & (2**31 - 1)).astype(np.int32)
                self._write_successors(owner, token_ids, successors[begin:end])
            if calibration:
                self._hit_rates[:], self._weights[:] = snapshot["hit_rates"], snapshot["weights"]

    def tokens_by_namespace(self) -> dict[str, int]:
        """Return how many tokens of each namespace the shared log holds, in the order of their first use."""
        with self._lock:
            owners, counts = np.unique(self._shared.owners[self._shared.tokens != GAP], return_counts=True)
            held = dict(zip(owners.tolist(), counts.tolist(), strict=True))
            named = self._namespaces.without_vocabulary()
            return {name: held.get(owner, 0) for name, owner in named.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the logs, the successors and the calibration state, unused room included."""
        with self._lock:
            rings = {self._shared, self._no_room, *(live.own for live in self._requests.values())}
            fixed = self._hit_rates.nbytes + self._weights.nbytes
            return sum(ring.nbytes for ring in rings) + table_bytes(len(self._table.keys)) + fixed

    def __getstate__(self) -> dict[str, Any]:
        settings = {"max_bytes": self.max_bytes, "remember_prompts": self._remember_prompts}
        return {"settings": settings, "snapshot": self.snapshot()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        TokenLog.__init__(self, **state["settings"])
        self.absorb(state["snapshot"], calibration=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy(self)

    def _opened(self, request: RequestId, namespace: str, reads: Sequence[str]) -> LiveRequest:
        readable = self._namespaces.readable(namespace, reads)
        live = LiveRequest(int(readable[0]), readable, self._no_room, self._no_draft)
        self._requests[request] = live
        return live

    def _remember(self, tokens: Int32Array, owner: int) -> None:
        text = np.append(tokens, np.int32(GAP))
        self._shared = self._shared.with_room(len(text), self._max_shared)
        self._shared.append(text, owner)

    def _write_successors(self, owner: int, tokens: Int32Array, rows: Int32Array) -> None:
        done = write_all(self._table, owner, tokens, rows)
        while done < len(tokens):
            self._table = with_room(self._table, self._max_buckets)
            done += write_all(self._table, owner, tokens[done:], rows[done:])

    def _give_room(self, live: LiveRequest, count: int) -> None:
        """Let a request's own log grow for `count` more tokens, as far as the budget for all allows."""
        others = sum(
            other.own.nbytes
            for other in self._requests.values()
            if other is not live and other.own is not self._no_room
        )
        max_tokens = affordable_tokens(self._own_budget - others - ring_bytes(SMALLEST_RING))
        if live.own is self._no_room:
            if max_tokens < SMALLEST_RING:
                return
            live.own = RingBuffer(SMALLEST_RING)
        live.own = live.own.with_room(count, max_tokens)
