"""TokenLog: a draft memory that is nothing but a log of tokens and hash chains through it.

It answers the paper's open question whether anything is more efficient than a trie: 28 bytes a token, an
insertion of a few links, and the trie of continuations is built at each proposal, only as far as the draft
needs it.
"""

import threading
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

from lookahead.config import DraftMode
from lookahead.drafting.best_first import as_draft_tree, side_by_side
from lookahead.drafting.candidates import Float64Array, credit, new_candidates
from lookahead.drafting.compilation import kernel, telling_the_user
from lookahead.drafting.log_growth import grow_from_log
from lookahead.drafting.log_matches import (
    LONGEST_MATCH,
    MOST_OWN,
    MOST_SHARED,
    find_all,
    initial_log_trust,
    list_by_rank,
    new_matches,
    predict_next,
)
from lookahead.drafting.log_ring import (
    GAP,
    SMALLEST_RING,
    TokenRing,
    append_all,
    new_ring,
    newest_tokens,
    rewritten,
    ring_bytes,
)
from lookahead.drafting.store import Origin, RequestId, TokenIds, check_decoding_length, checked_tokens
from lookahead.drafting.tree import DraftTree, Int32Array
from lookahead.errors import ConfigError

_FIRST_RING = 4096
_LATEST_PLACE = 2**30
"""Where a ring's places are counted anew; they are int32."""


@kernel
def learn_outputs(
    own: TokenRing, shared: TokenRing, tail: Int32Array, tokens: Int32Array, trust: Float64Array
) -> None:
    """Append an answer's tokens to the request's own log, comparing each with what would be predicted."""
    run = np.concatenate((tail, tokens))
    matches = new_matches(MOST_OWN + MOST_SHARED)
    listed = np.empty(MOST_OWN + MOST_SHARED, np.int32)
    candidates = new_candidates()
    for i in range(len(tokens)):
        before = run[max(0, len(tail) + i - LONGEST_MATCH) : len(tail) + i]
        found = find_all(own, shared, before, 0, matches, 0)
        list_by_rank(matches, 0, found, listed)
        _, asked = predict_next(own, shared, matches, listed[:found], 0, trust, candidates)
        credit(candidates, asked, trust, tokens[i])
        append_all(own, tokens[i : i + 1])


@dataclass(eq=False)
class _Request:
    """A live request: its own log, its last tokens, and its answer, which the shared log gets at its end."""

    own: TokenRing
    tail: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    answer: list[Int32Array] = field(default_factory=list)


class TokenLog:
    """A draft memory of bounded size, safe under threads; the requests' prompts stay their own.

    A request's tokens are in its own log while it lives; at its end its answer goes into the shared log,
    whole, where the oldest tokens make room for it.

    Args:
        memory_bytes: hard cap in bytes: half of it for the shared log, half for those of live requests,
            each rounded down to a power of two of tokens.

    Raises:
        ConfigError: the cap leaves no room.
    """

    def __init__(self, *, memory_bytes: int = 256 * 2**20) -> None:
        self._trust = initial_log_trust()
        budget = (memory_bytes - self._trust.nbytes) // 2
        least_half = 2 * ring_bytes(SMALLEST_RING)  # one live request's, and the one that has no room
        if budget < least_half:
            least = 2 * least_half + self._trust.nbytes
            message = f"memory_bytes={memory_bytes} leaves no room for a log; give at least {least}"
            raise ConfigError(message)
        self._most_shared = _affordable_tokens(budget)
        self._own_budget = budget
        self._lock = threading.Lock()
        self.vocabulary_size: int | None = None
        self._requests: dict[RequestId, _Request] = {}
        with telling_the_user():
            compile_log_kernels()
        self._shared = new_ring(min(_FIRST_RING, self._most_shared))
        self._no_room = new_ring(SMALLEST_RING)

    def insert(self, request: RequestId, token_ids: TokenIds, origin: Origin) -> None:
        """Append tokens to a request's sequence; the first ones open the request.

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
                live = self._requests[request] = _Request(self._no_room)
            self._give_room(live, len(tokens))
            if live.own is self._no_room:
                pass  # live requests fill their half of the memory: this one drafts from the shared log
            elif is_output:
                learn_outputs(live.own, self._shared, live.tail, tokens, self._trust)
            else:
                append_all(live.own, tokens)
            if is_output:
                live.answer.append(tokens)
            live.tail = np.concatenate([live.tail, tokens])[-LONGEST_MATCH:]

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
            KeyError: the request is unknown, or has been forgotten.
            ValueError: `decoding_length` is less than 1.
        """
        check_decoding_length(decoding_length)
        widest = 1 if mode is DraftMode.SINGLE else 0
        with self._lock:
            live = self._requests[request]
            tree = grow_from_log(
                live.own, self._shared, live.tail, self._trust, decoding_length, branch_length, widest
            )
        return as_draft_tree(tree, decoding_length, mode)

    def recycle(self, request: RequestId, token_ids: TokenIds, successors: Int32Array) -> None:
        """Remember nothing: this store drafts from tokens that came."""

    def forget(self, request: RequestId) -> None:
        """Close a request: its own log is gone, its answer goes into the shared log."""
        with self._lock:
            live = self._requests.pop(request, None)
            if live is not None and live.answer:
                answer = np.concatenate([*live.answer, np.array([GAP], np.int32)])
                self._shared = _with_room(self._shared, len(answer), self._most_shared)
                append_all(self._shared, answer)

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what outlives requests: the answers, a gap (-1) after each, and the learned trust."""
        with self._lock:
            tokens = newest_tokens(self._shared, len(self._shared.tokens))
            return {"tokens": tokens, "trust": self._trust.copy()}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, the unused part included."""
        rings = [self._shared, self._no_room, *(live.own for live in self._requests.values())]
        own = {id(ring): ring for ring in rings}
        return sum(array.nbytes for ring in own.values() for array in ring) + self._trust.nbytes

    def _give_room(self, live: _Request, count: int) -> None:
        """Let a request's own log grow for `count` more tokens, as far as its half of the memory allows."""
        others = sum(
            ring_bytes(len(other.own.tokens))
            for other in self._requests.values()
            if other is not live and other.own is not self._no_room
        )
        most = _affordable_tokens(self._own_budget - others - ring_bytes(SMALLEST_RING))
        if live.own is self._no_room:
            if most < SMALLEST_RING:
                return
            live.own = new_ring(SMALLEST_RING)
        live.own = _with_room(live.own, count, most)


def _with_room(ring: TokenRing, count: int, most: int) -> TokenRing:
    """Return the ring, or a larger one of at most `most` tokens, with room for `count` more tokens."""
    end, capacity = int(ring.end[0]), len(ring.tokens)
    wanted = capacity
    while wanted < end + count and 2 * wanted <= most:
        wanted *= 2
    return rewritten(ring, wanted) if wanted > capacity or end + count > _LATEST_PLACE else ring


def _affordable_tokens(budget: int) -> int:
    """Return the largest power of two of tokens whose ring fits `budget` bytes; 0 where none does."""
    tokens = SMALLEST_RING
    if ring_bytes(tokens) > budget:
        return 0
    while ring_bytes(2 * tokens) <= budget:
        tokens *= 2
    return tokens


@cache
def compile_log_kernels() -> None:
    """Run every kernel once, so that no request waits for the compiler."""
    own, shared, trust = new_ring(SMALLEST_RING), new_ring(SMALLEST_RING), initial_log_trust()
    tokens = np.array([1, 2, 1, 2, 1], np.int32)
    append_all(shared, tokens)
    learn_outputs(own, shared, tokens[:1], tokens, trust)
    side_by_side(grow_from_log(own, shared, tokens, trust, 4, 2, 0), 4)
    DraftTree.root_only(0).ancestors()
