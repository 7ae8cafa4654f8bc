"""TokenLog: a draft store that holds the text itself and finds earlier occurrences of the last tokens in it.

The text is a ring of tokens with hash chains (`ring`). The continuations of its matches are the trie
(`matches`), built best first and only as far as it is needed (`growth`). The model's own most probable next
tokens are stored with it (`successors`). See docs/design/token-log.md.
"""

import threading
from collections.abc import Callable, Sequence
from copy import copy
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lookahead.config import DEFAULT_MEMORY_BYTES, DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.growth.candidates import NOT_DRAFTED
from lookahead.drafting.growth.frequent import UNKNOWN
from lookahead.drafting.growth.modes import as_draft_tree
from lookahead.drafting.growth.runner_ups import note_rows
from lookahead.drafting.log.calibration import Calibrations
from lookahead.drafting.log.entry_points import append_tokens, compile_log_kernels, grow_draft
from lookahead.drafting.log.matches import NO_OWNER, VOCABULARY
from lookahead.drafting.log.requests import LiveRequest, Namespace, Namespaces
from lookahead.drafting.log.ring import GAP, ORDERS, SMALLEST_RING, RingBuffer, ring_bytes
from lookahead.drafting.log.sizing import affordable_tokens, divided
from lookahead.drafting.log.successors import (
    EMPTY,
    new_table,
    owners_in,
    table_bytes,
    with_room,
    within_vocabulary,
    without_owners,
    write_all,
)
from lookahead.drafting.log.workspace import WorkspaceBuffers
from lookahead.drafting.noise import NO_NOISE, Noise
from lookahead.drafting.store import (
    DEFAULT_NAMESPACE,
    VOCABULARY_NAMESPACE,
    Origin,
    RequestId,
    TokenIds,
    check_decoding_length,
    check_namespaces,
    checked_rows,
    checked_successors,
    checked_tokens,
)
from lookahead.drafting.tree import DraftTree
from lookahead.jit import log_if_slow

_FIRST_RING = _FIRST_TABLE = 4096


class TokenLog:
    """A draft memory of bounded size, safe under threads; nothing crosses from one namespace to another.

    A request's tokens are in its own log while it lives. When it ends, its whole answer goes into the shared
    log, under its namespace, and overwrites the oldest tokens there.

    A copy, shallow, deep or pickled, is a log of its own with the same content and without live requests.

    Args:
        max_bytes: Hard cap in bytes: half of it for the shared log, a sixteenth for the names of namespaces,
            the rest for the logs of live requests and the model's successors, each rounded down to a power
            of two of entries. When names fill their part, the least recently used namespaces are forgotten.
        remember_prompts: Remember prompts as well as answers when a request ends.

    Raises:
        ConfigError: The cap leaves no room.

    Attributes:
        max_bytes: The cap.
        on_learned: Called with the namespace and tokens of each text that was learned here.
    """

    recycles = True

    def __init__(self, *, max_bytes: int = DEFAULT_MEMORY_BYTES, remember_prompts: bool = False) -> None:
        self._calibrations = Calibrations(max_bytes)
        sizes = divided(max_bytes, learned_bytes=self._calibrations.max_bytes)
        names_bytes, self._own_budget, self._max_shared, self._max_buckets = sizes
        self.max_bytes, self._remember_prompts = max_bytes, remember_prompts
        self._vocabulary_size: int | None = None
        self.on_learned: Callable[[str, Int32Array], None] | None = None
        self._lock = threading.Lock()
        self._namespaces = Namespaces(names_bytes)
        self._requests: dict[RequestId, LiveRequest] = {}
        with log_if_slow():
            compile_log_kernels()
        self._shared = RingBuffer(min(_FIRST_RING, self._max_shared))
        self._table = new_table(min(_FIRST_TABLE, self._max_buckets))
        self._no_room, self._no_draft = RingBuffer(SMALLEST_RING), WorkspaceBuffers(1)

    @property
    def vocabulary_size(self) -> int | None:
        """Of the model, once it is known: what is beyond it is not remembered."""
        return self._vocabulary_size

    @vocabulary_size.setter
    def vocabulary_size(self, size: int | None) -> None:
        with self._lock:
            if size is not None and size != self._vocabulary_size:
                self._calibrations.keep_within(size)
            self._vocabulary_size = size

    def open(
        self,
        request: RequestId,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        reads: Sequence[str] = (),
        remember: bool = True,
    ) -> None:
        """Do as `DraftStore.open` says."""
        check_namespaces(namespace, reads)
        with self._lock:
            self._opened(request, namespace, reads).is_remembered = remember

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Do as `DraftStore.insert` says."""
        tokens = checked_tokens(token_ids)
        if len(tokens) == 0:
            return
        is_output = Origin(origin) is Origin.OUTPUT
        with self._lock:
            live = self._requests.get(request) or self._opened(request, DEFAULT_NAMESPACE, ())
            if live.own is self._no_room or live.own.written + len(tokens) > live.own.capacity:
                self._give_room(live, len(tokens))
            live.sources = np.full(len(tokens), NOT_DRAFTED, np.int32)
            append_tokens(
                *live.own.arrays,
                live.own is not self._no_room,
                live.tail,
                tokens,
                np.empty(len(tokens) + ORDERS[0] - 1, np.int32),
                *live.learned.calibration,
                live.draft.integers,
                live.draft.floats,
                live.draft.max_nodes,
                is_output,
                live.sources,
            )
            live.length += len(tokens)
            live.runner_ups.alternatives[:] = UNKNOWN  # until the newest token's row comes
            live.keep(tokens, is_output=is_output, keeps_prompts=self._remember_prompts)

    def propose(
        self,
        request: RequestId,
        *,
        decoding_length: int,
        branch_length: int,
        mode: DraftMode,
        noise: Noise = NO_NOISE,
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
                *live.own.arrays,
                *self._shared.arrays,
                self._table.keys,
                self._table.successors,
                live.readable,
                live.tail,
                *live.runner_ups,
                live.learned.frequent,
                noise.words,
                noise.lucky,
                noise.first,
                noise.known,
                *live.learned.calibration,
                live.draft.integers,
                live.draft.floats,
                live.draft.max_nodes,
                decoding_length,
                branch_length,
                mode is DraftMode.SINGLE,
            )
            tree = live.draft.first_nodes(size)
        return as_draft_tree(tree, decoding_length, mode)

    def recycle(
        self, request: RequestId, token_ids: TokenIds, successors: Int32Array, *, accepted: int = 0
    ) -> None:
        """Do as `DraftStore.recycle` says."""
        tokens = checked_tokens(token_ids)
        if len(tokens) == 0:
            return
        rows = checked_rows(successors, len(tokens))
        with self._lock:
            live = self._requests[request]
            if accepted and (self._vocabulary_size is None or rows.max() < self._vocabulary_size):
                came = np.append(tokens[len(tokens) - accepted + 1 :], live.tail[-1:])
                note_rows(live.runner_ups, rows[len(rows) - accepted :], came)
            if live.owner != NO_OWNER and live.is_remembered:
                self._write_successors(live.owner, *within_vocabulary(tokens, rows, self._vocabulary_size))

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Do as `DraftStore.learn_vocabulary` says."""
        rows = checked_successors(successors)
        with self._lock:
            self._write_successors(VOCABULARY, np.arange(len(rows), dtype=np.int32), rows)

    def sources(self, request: RequestId) -> Int32Array:
        """Do as `DraftStore.sources` says."""
        return self._requests[request].sources

    def forget(self, request: RequestId) -> None:
        """Close a request: free its own log and append its answer to the shared log."""
        with self._lock:
            if (live := self._requests.pop(request, None)) is None:
                return
            try:
                if live.answer:
                    self._remember(np.concatenate(live.answer), live.name)
            finally:
                self._namespaces.close(live.readable.tolist())

    def remember(
        self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE, *, is_own: bool = True
    ) -> None:
        """Do as `DraftStore.remember` says; `on_learned` is not told of texts that others have learned."""
        check_namespaces(namespace)
        if len(tokens := checked_tokens(token_ids)):
            with self._lock:
                self._remember(tokens, namespace, is_own=is_own)
                known = self._namespaces.owner_of(namespace)
                self._calibrations.count_text(known, tokens, self._vocabulary_size)

    def forget_namespace(self, namespace: str) -> None:
        """Forget all that a namespace holds; its live requests go on. Do nothing if it is unknown.

        Raises:
            ConfigError: No namespace can have the name.
        """
        check_namespaces(namespace)
        with self._lock:
            self._forget([known] if (known := self._namespaces.named(namespace)) else [])

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Do as `DraftStore.snapshot` says."""
        with self._lock:
            tokens, owners = self._shared.newest(self._shared.capacity)
            used = np.flatnonzero(self._table.keys != EMPTY)
            used = used[np.argsort(self._table.stamps[used], kind="stable")]
            # That of other namespaces and token weights are not saved: they are traces of texts.
            calibration = self._calibrations.known(self._namespaces.owner_of(DEFAULT_NAMESPACE))
            named = {VOCABULARY: VOCABULARY_NAMESPACE, **{one.owner: one.name for one in self._namespaces}}
            return {
                "names": np.array(list(named.values()), np.object_),
                "owners_named": np.array(list(named), np.int32),
                "tokens": tokens,
                "owners": owners,
                "keys": self._table.keys[used],
                "successors": self._table.successors[used],
                "hit_rates": calibration.hit_rates,
                "weights": calibration.weights,
            }

    def absorb(self, snapshot: dict[str, npt.NDArray[np.generic]], *, calibration: bool) -> None:
        """Add another log's snapshot, namespace by namespace, as newer than what is here.

        Args:
            snapshot: Of a log with the same vocabulary.
            calibration: Also take over its calibration state.
        """
        tokens = snapshot["tokens"].astype(np.int32)
        keys, successors = snapshot["keys"].astype(np.int64), snapshot["successors"].astype(np.int32)
        with self._lock:
            numbers = self._namespaces.numbers_for(snapshot, self._namespace)
            if len(tokens):
                owners = numbers[snapshot["owners"]]
                is_kept = owners != NO_OWNER
                self._shared = self._shared.with_room(int(is_kept.sum()), self._max_shared)
                self._shared.append_owned(tokens[is_kept], owners[is_kept])
                self._calibrations.count(tokens[is_kept], owners[is_kept])
            borders = [0, *(np.flatnonzero(np.diff(keys >> 31)) + 1), len(keys)]
            for begin, end in pairwise(borders if len(keys) else ()):
                owner = int(numbers[keys[begin] >> 31])
                token_ids = (keys[begin:end] & (2**31 - 1)).astype(np.int32)
                if owner != NO_OWNER:
                    self._write_successors(owner, token_ids, successors[begin:end])
            self._recount()
            self._namespaces.close(numbers.tolist())
            if calibration:
                self._calibrations.take(self._namespaces.owner_of(DEFAULT_NAMESPACE), snapshot)

    def tokens_by_namespace(self) -> dict[str, int]:
        """Return how many tokens of each namespace the shared log holds, in the order of their first use."""
        with self._lock:
            return {known.name: known.tokens for known in self._namespaces}

    @property
    def nbytes(self) -> int:
        """Bytes of the logs, the successors, the names and the calibration state, unused room included."""
        with self._lock:
            rings = {self._shared, self._no_room, *(live.own for live in self._requests.values())}
            fixed = self._calibrations.nbytes + self._namespaces.nbytes
            return fixed + table_bytes(len(self._table.keys)) + sum(ring.nbytes for ring in rings)

    def __getstate__(self) -> dict[str, Any]:
        settings = {"max_bytes": self.max_bytes, "remember_prompts": self._remember_prompts}
        return {"settings": settings, "snapshot": self.snapshot()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        TokenLog.__init__(self, **state["settings"])
        self.absorb(state["snapshot"], calibration=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy(self)

    def _opened(self, request: RequestId, namespace: str, reads: Sequence[str]) -> LiveRequest:
        if (before := self._requests.pop(request, None)) is not None:
            self._namespaces.close(before.readable.tolist())
        others = (self._namespaces.named(other) for other in dict.fromkeys(reads) if other != namespace)
        read = [other.owner for other in others if other is not None]  # unknown names are ignored
        self._namespaces.open(read)
        self._namespace(namespace)
        owner = self._namespaces.owner_of(namespace)
        self._namespaces.open([owner])
        readable, learned = np.array([owner, *read], np.int32), self._calibrations.of(owner)
        room = (self._no_room, self._no_draft)
        live = self._requests[request] = LiveRequest(namespace, owner, readable, *room, learned)
        return live

    def _namespace(self, name: str) -> Namespace | None:
        """Return a namespace, new at its first use; None if live requests leave it no room."""
        known = self._namespaces.use(name)
        if known is None:
            self._recount()  # after a Ctrl-C, too much may have been counted
            self._forget(self._namespaces.surplus(name))
            known = self._namespaces.use(name)
        return known

    def _forget(self, forgotten: list[Namespace]) -> None:
        if not forgotten:
            return
        owners = np.array([known.owner for known in forgotten], np.int32)
        self._calibrations.forget(owners.tolist())
        is_forgotten = np.isin(self._shared.owners, owners)
        self._shared.tokens[is_forgotten], self._shared.owners[is_forgotten] = GAP, NO_OWNER
        if any(known.has_successors for known in forgotten):
            self._table = without_owners(self._table, owners)
        for known in forgotten:
            known.tokens, known.has_successors = 0, False
            self._namespaces.leave(known)

    def _remember(self, tokens: Int32Array, name: str, *, is_own: bool = True) -> None:
        known = self._namespace(name)
        if known is None:
            return
        text = np.append(tokens, np.int32(GAP))
        if self._vocabulary_size is not None:
            text[text >= self._vocabulary_size] = GAP
        if self.on_learned is not None and is_own:
            self.on_learned(name, text[text != GAP])
        self._shared = self._shared.with_room(len(text), self._max_shared)
        overwritten = self._shared.overwritten_by(len(text))
        known.tokens += int(np.count_nonzero(text[-self._shared.capacity :] != GAP))
        self._shared.append(text, known.owner)
        self._namespaces.count_overwritten(overwritten)  # after a Ctrl-C in between, names stay too long
        self._namespaces.leave(known)

    def _write_successors(self, owner: int, tokens: Int32Array, rows: Int32Array) -> None:
        done = write_all(self._table, owner, tokens, rows)
        has_forgotten = False
        while done < len(tokens):
            buckets = len(self._table.keys)
            self._table = with_room(self._table, self._max_buckets)
            has_forgotten |= len(self._table.keys) == buckets
            done += write_all(self._table, owner, tokens[done:], rows[done:])
        if len(tokens) and (known := self._namespaces.numbered(owner)) is not None:
            known.has_successors = True
        if has_forgotten:
            self._namespaces.recount_successors(owners_in(self._table))

    def _recount(self) -> None:
        self._namespaces.recount(self._shared.owners[self._shared.tokens != GAP], owners_in(self._table))

    def _give_room(self, live: LiveRequest, count: int) -> None:
        """Let a request's own log grow for `count` more tokens, as far as the budget for all allows."""
        all_others = (other.own for other in self._requests.values() if other is not live)
        others = sum(own.nbytes for own in all_others if own is not self._no_room)
        max_tokens = affordable_tokens(self._own_budget - others - ring_bytes(SMALLEST_RING))
        if live.own is self._no_room:
            if max_tokens < SMALLEST_RING:
                return
            live.own = RingBuffer(SMALLEST_RING)
        live.own = live.own.with_room(count, max_tokens)
