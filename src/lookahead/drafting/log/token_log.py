"""TokenLog: a draft memory that stores the text itself, and finds again where the last tokens stood.

A ring of tokens with hash chains (`log_ring`); its matches' continuations are the trie (`log_matches`), built
best first and only as far as it is needed (`log_growth`). What the model itself held likely is kept beside it
(`successors`). See docs/design/token-log.md.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lookahead.config import DEFAULT_MEMORY_BYTES, DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.growth.modes import as_draft_tree
from lookahead.drafting.log.calibration import initial_weights
from lookahead.drafting.log.entry_points import compile_log_kernels, draw, stream_in
from lookahead.drafting.log.matches import LONGEST_MATCH, NOBODY, VOCABULARY, initial_log_trust
from lookahead.drafting.log.ring import GAP, ORDERS, SMALLEST_RING, RingMemory, ring_bytes
from lookahead.drafting.log.sizing import affordable_tokens, divided
from lookahead.drafting.log.successors import (
    EMPTY,
    new_table,
    table_bytes,
    with_room,
    without_owner,
    write_all,
)
from lookahead.drafting.log.workspace import SketchMemory
from lookahead.drafting.store import (
    DEFAULT_NAMESPACE,
    OF_THE_VOCABULARY,
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


@dataclass(eq=False)
class _Request:
    """A live request.

    Attributes:
        owner: the number of its namespace.
        readable: int32, the namespaces that it reads, its own first.
        own: its own log.
        sketch: its last draft.
        tail: int32 [LONGEST_MATCH], its last tokens, at the end.
        length: tokens so far.
        recycled_tokens: those of them that recycled logits had drafted.
        kept: what the shared log gets at its end.
    """

    owner: int
    readable: Int32Array
    own: RingMemory
    memory: SketchMemory
    tail: Int32Array = field(default_factory=lambda: np.full(LONGEST_MATCH, GAP, np.int32))
    length: int = 0
    recycled_tokens: int = 0
    kept: list[Int32Array] = field(default_factory=list)


class TokenLog:
    """A draft memory of bounded size, safe under threads; nothing crosses from one namespace to another.

    A request's tokens are in its own log while it lives; at its end its answer goes into the log that all
    share, whole, under its namespace, where the oldest tokens make room for it.

    Args:
        max_bytes: hard cap in bytes: half of it for the shared log, a quarter for those of live requests,
            a quarter for the model's recycled logits, each rounded down to a power of two of entries.
        remember_prompts: keep prompts as well as answers when a request ends.

    Raises:
        ConfigError: the cap leaves no room.

    Attributes:
        max_bytes: the cap.
    """

    recycles = True

    def __init__(self, *, max_bytes: int = DEFAULT_MEMORY_BYTES, remember_prompts: bool = False) -> None:
        self._trust, self._weights = initial_log_trust(), initial_weights()
        parts = divided(max_bytes, learned_bytes=self._trust.nbytes + self._weights.nbytes)
        self._own_budget, self._max_shared, self._max_places = parts
        self.max_bytes = max_bytes
        self._remember_prompts = remember_prompts
        self._lock = threading.Lock()
        self._owners: dict[str, int] = {OF_THE_VOCABULARY: VOCABULARY}
        self._next_owner = VOCABULARY + 1
        self._requests: dict[RequestId, _Request] = {}
        with log_if_slow():
            compile_log_kernels()
        self._shared = RingMemory(min(_FIRST_RING, self._max_shared))
        self._table = new_table(min(_FIRST_TABLE, self._max_places))
        self._no_room = RingMemory(SMALLEST_RING)
        self._no_draft = SketchMemory(1)

    def open(
        self, request: RequestId, *, namespace: str = DEFAULT_NAMESPACE, reads: Sequence[str] = ()
    ) -> None:
        """Open a request in a namespace, from which it drafts and to which its answer will belong.

        Args:
            request: a new one.
            namespace: the one it belongs to.
            reads: further namespaces to draft from.

        Raises:
            ConfigError: a name is no string, or empty; or `reads` is one name, not several.
        """
        check_namespaces(namespace, reads)
        with self._lock:
            self._opened(request, namespace, reads)

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Append tokens to a request's sequence; one not opened before is opened in the default namespace.

        Raises:
            ValueError: a token id is negative, no integer, or does not fit 31 bits; nothing is inserted.
        """
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
            live.recycled_tokens += stream_in(
                live.own.cells,
                live.own.heads,
                live.own.end,
                live.own is not self._no_room,
                live.tail,
                tokens,
                np.empty(len(tokens) + ORDERS[0] - 1, np.int32),
                self._trust,
                self._weights,
                live.memory.integers,
                live.memory.floats,
                live.memory.max_nodes,
                is_output,
            )
            live.length += len(tokens)
            if is_output or self._remember_prompts:
                live.kept.append(tokens)

    def propose(
        self, request: RequestId, *, decoding_length: int, branch_length: int, mode: DraftMode
    ) -> DraftTree:
        """Return the most probable draft after a request's last token.

        Args:
            request: one that has inserted at least one token.
            decoding_length: the most nodes, node 0 (the last token) included; 1 or more.
            branch_length: the most levels below node 0.
            mode: how the draft is laid out.

        Raises:
            KeyError: the request is unknown, has been forgotten, or has inserted nothing.
            ValueError: `decoding_length` is less than 1.
        """
        check_decoding_length(decoding_length)
        widest = 1 if mode is DraftMode.SINGLE else 0
        with self._lock:
            live = self._requests[request]
            if live.length == 0:
                raise KeyError(request)
            if live.memory.max_nodes < decoding_length:
                live.memory = SketchMemory(decoding_length)
            size = draw(
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
                self._trust,
                self._weights,
                live.memory.integers,
                live.memory.floats,
                live.memory.max_nodes,
                decoding_length,
                branch_length,
                widest,
            )
            tree = live.memory.first_nodes(size)
        return as_draft_tree(tree, decoding_length, mode)

    def recycle(self, request: RequestId, token_ids: TokenIds, successors: Int32Array) -> None:
        """Remember what the model itself holds most likely after tokens, in the request's namespace.

        Args:
            request: one that has inserted at least one token.
            token_ids: m tokens that the model has just read.
            successors: int32 [m, k], the likeliest next tokens after each, likeliest first; 8 are kept.

        Raises:
            KeyError: the request is unknown, or has been forgotten.
            ValueError: a token id is negative, no integer, or does not fit 31 bits, or there is not one row
                for each token; nothing is remembered.
        """
        tokens = checked_tokens(token_ids)
        if len(tokens) == 0:
            return
        likeliest = np.asarray(successors)
        if likeliest.ndim != 2 or len(likeliest) != len(tokens):
            message = f"successors must be one row for each of {len(tokens)} tokens, not {likeliest.shape}"
            raise ValueError(message)
        likeliest = checked_tokens(likeliest.ravel()).reshape(likeliest.shape)
        with self._lock:
            self._write(self._requests[request].owner, tokens, likeliest)

    def learn_vocabulary(self, successors: Int32Array) -> None:
        """Remember what the model holds most likely after each token of its vocabulary alone.

        Every request of every namespace may draft from it: it is no text's, but the model's.

        Args:
            successors: int32 [V, k], the likeliest next tokens after each, likeliest first; 8 are kept.

        Raises:
            ValueError: a token id is negative, no integer, or does not fit 31 bits; nothing is remembered.
        """
        if len(successors) == 0:
            return
        likeliest = checked_tokens(np.ravel(successors)).reshape(len(successors), -1)
        with self._lock:
            self._write(VOCABULARY, np.arange(len(likeliest), dtype=np.int32), likeliest)

    def recycled_tokens(self, request: RequestId) -> int:
        """Return how many tokens of a request came as recycled logits had drafted them.

        Raises:
            KeyError: the request is unknown, or has been forgotten.
        """
        return self._requests[request].recycled_tokens

    def forget(self, request: RequestId) -> None:
        """Close a request: its own log is gone, its answer goes into the shared log."""
        with self._lock:
            live = self._requests.pop(request, None)
            if live is not None and live.kept:
                self._remember(np.concatenate(live.kept), live.owner)

    def remember(self, token_ids: TokenIds, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Remember a text as if it had been an answer in a namespace.

        Raises:
            ConfigError: the namespace's name is no string, or empty.
            ValueError: a token id is negative, no integer, or does not fit 31 bits; nothing is remembered.
        """
        check_namespaces(namespace)
        tokens = checked_tokens(token_ids)
        if len(tokens):
            with self._lock:
                self._remember(tokens, self._owner(namespace))

    def forget_namespace(self, namespace: str) -> None:
        """Forget all that a namespace holds; its live requests go on. An unknown one is nothing to forget."""
        with self._lock:
            owner = self._owners.get(namespace)
            if owner is not None:
                forgotten = self._shared.owners == owner
                self._shared.tokens[forgotten], self._shared.owners[forgotten] = GAP, NOBODY
                self._table = without_owner(self._table, owner)
                if all(live.owner != owner for live in self._requests.values()):
                    del self._owners[namespace]  # nothing is left of its name, either

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what outlives requests, as copies.

        Returns:
            `names`, the namespaces, and `owners_named`, their numbers; `tokens`, oldest first, a gap (-1)
            after each answer, and `owners`, whose they are; `keys`, `successors`, the model's recycled
            logits, oldest first; `trust` and `weights`, what was learned of the sources.
        """
        with self._lock:
            tokens, owners = self._shared.newest(self._shared.capacity)
            used = np.flatnonzero(self._table.keys != EMPTY)
            used = used[np.argsort(self._table.stamps[used], kind="stable")]
            return {
                "names": np.array(list(self._owners), np.str_),
                "owners_named": np.array(list(self._owners.values()), np.int32),
                "tokens": tokens,
                "owners": owners,
                "keys": self._table.keys[used],
                "successors": self._table.successors[used],
                "trust": self._trust.copy(),
                "weights": self._weights.copy(),
            }

    def absorb(self, snapshot: dict[str, npt.NDArray[np.generic]], *, beliefs: bool) -> None:
        """Take in another log's snapshot, namespace by namespace, as newer than what is here.

        Args:
            snapshot: of a log with the same vocabulary.
            beliefs: take over what it learned of its sources, too.
        """
        with self._lock:
            numbers = np.zeros(1 + max(snapshot["owners_named"], default=0), np.int32)
            for name, owner in zip(snapshot["names"], snapshot["owners_named"], strict=True):
                numbers[owner] = self._owner(str(name))
            tokens = snapshot["tokens"].astype(np.int32)
            if len(tokens):
                self._shared = self._shared.with_room(len(tokens), self._max_shared)
                self._shared.append_owned(tokens, numbers[snapshot["owners"]])
            keys, successors = snapshot["keys"].astype(np.int64), snapshot["successors"].astype(np.int32)
            borders = [0, *(np.flatnonzero(np.diff(keys >> 31)) + 1), len(keys)]
            for begin, end in pairwise(borders if len(keys) else ()):
                owner = int(numbers[keys[begin] >> 31])
                self._write(owner, (keys[begin:end] & (2**31 - 1)).astype(np.int32), successors[begin:end])
            if beliefs:
                self._trust[:], self._weights[:] = snapshot["trust"], snapshot["weights"]

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Names of all namespaces that were opened, in the order of their first use."""
        with self._lock:
            return tuple(name for name in self._owners if name != OF_THE_VOCABULARY)

    def tokens_in(self, namespace: str) -> int:
        """Return how many tokens of a namespace the shared log holds."""
        return self.tokens_by_namespace().get(namespace, 0)

    def tokens_by_namespace(self) -> dict[str, int]:
        """Return how many tokens of each namespace the shared log holds, in the order of their first use."""
        with self._lock:
            owners, counts = np.unique(self._shared.owners[self._shared.tokens != GAP], return_counts=True)
            held = dict(zip(owners.tolist(), counts.tolist(), strict=True))
            named = {name: owner for name, owner in self._owners.items() if name != OF_THE_VOCABULARY}
            return {name: held.get(owner, 0) for name, owner in named.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the logs, the recycled logits and what was learned, the unused part included."""
        with self._lock:
            rings = {self._shared, self._no_room, *(live.own for live in self._requests.values())}
            fixed = self._trust.nbytes + self._weights.nbytes
            return sum(ring.nbytes for ring in rings) + table_bytes(len(self._table.keys)) + fixed

    def _opened(self, request: RequestId, namespace: str, reads: Sequence[str]) -> _Request:
        owner = self._owner(namespace)
        others = (self._owners.get(name) for name in dict.fromkeys(reads) if name != namespace)
        readable = np.array([owner, *(number for number in others if number is not None)], np.int32)
        live = _Request(owner, readable, self._no_room, self._no_draft)
        self._requests[request] = live
        return live

    def _owner(self, namespace: str) -> int:
        if namespace not in self._owners:
            self._owners[namespace] = self._next_owner
            self._next_owner += 1
        return self._owners[namespace]

    def _remember(self, tokens: Int32Array, owner: int) -> None:
        text = np.append(tokens, np.int32(GAP))
        self._shared = self._shared.with_room(len(text), self._max_shared)
        self._shared.append(text, owner)

    def _write(self, owner: int, tokens: Int32Array, likeliest: Int32Array) -> None:
        done = write_all(self._table, owner, tokens, likeliest)
        while done < len(tokens):
            self._table = with_room(self._table, self._max_places)
            done += write_all(self._table, owner, tokens[done:], likeliest[done:])

    def _give_room(self, live: _Request, count: int) -> None:
        """Let a request's own log grow for `count` more tokens, as far as the budget for all allows."""
        others = sum(
            other.own.nbytes
            for other in self._requests.values()
            if other is not live and other.own is not self._no_room
        )
        most = affordable_tokens(self._own_budget - others - ring_bytes(SMALLEST_RING))
        if live.own is self._no_room:
            if most < SMALLEST_RING:
                return
            live.own = RingMemory(SMALLEST_RING)
        live.own = live.own.with_room(count, most)
