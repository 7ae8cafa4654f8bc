"""Where the last tokens stood before, and what that says about the next one.

The matches' continuations *are* the trie: a draft node holds those matches that agree with its path, and
its children are the tokens they go on with. Longer matches are asked first, a request's own before the
shared ones at equal length; each length spends a share of the probability that is left on the tokens that
no longer match has named, and how large a share is learned while running (see `candidates.credit`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookahead.drafting.candidates import (
    LEAST_SHARE,
    MOST_ASKED,
    MOST_CANDIDATES,
    OWN,
    SHARED,
    Candidates,
    Float64Array,
    spend,
)
from lookahead.drafting.compilation import kernel
from lookahead.drafting.log_ring import GAP, NOWHERE, ORDERS, TokenRing, oldest_place, slot_of_run
from lookahead.drafting.trie_nodes import Int32Array, Integer

LONGEST_MATCH = 16
"""Tokens that a match is verified backwards at most."""
MOST_OWN, MOST_SHARED = 24, 32
"""Matches kept from a request's own log and from the shared one, longest orders and newest first."""
MOST_WALKED = 64
"""Places looked at in one chain."""

LENGTHS = LONGEST_MATCH + 1
VARIETIES = 4
CROWDS = 4


class Matches(NamedTuple):
    """Matches found so far, as seen from node 0: at a node of depth d add d to places and lengths.

    Attributes:
        places: int32 [most], the place of the token that followed.
        lengths: int32 [most], how many tokens before it agree.
        sources: int8 [most], OWN or SHARED.
    """

    places: Int32Array
    lengths: Int32Array
    sources: npt.NDArray[np.int8]


@kernel
def new_matches(most: int) -> Matches:
    """Return room for `most` matches."""
    return Matches(np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int8))


def initial_log_trust() -> Float64Array:
    """Return Beta counts (trials, hits) [buckets, 2] worth three trials: longer matches are believed more."""
    lengths = np.repeat(np.tile(np.arange(LENGTHS), 2), VARIETIES * CROWDS)
    trials = 3.0
    return np.stack([np.full(len(lengths), trials), trials * np.minimum(0.95, 0.25 + 0.1 * lengths)], axis=1)


@kernel
def match_bucket(source: Integer, length: Integer, offered: int, votes: float) -> int:
    """Return the trust bucket of matches: their source, length, how many new tokens they offer, how many."""
    variety = offered - 1 if offered <= 2 else 2 if offered <= 5 else 3
    crowd = 0 if votes < 2 else 1 if votes < 4 else 2 if votes < 10 else 3
    return int(((source * LENGTHS + min(length, LONGEST_MATCH)) * VARIETIES + variety) * CROWDS + crowd)


@kernel
def agreement(tokens: Int32Array, last: Integer, oldest: Integer, run: Int32Array) -> int:
    """Return how many of a ring's tokens before and at the place `last` agree with the end of `run`."""
    mask = len(tokens) - 1
    most = min(len(run), LONGEST_MATCH, int(last - oldest + 1))
    length = 0
    while length < most:
        token = tokens[(last - length) & mask]
        if token == GAP or token != run[len(run) - 1 - length]:
            break
        length += 1
    return length


# In the loops below arrays are taken out of their tuples first: compiled, each access through a tuple would
# count references, which costs several times what the loop does.


@kernel
def find_matches(
    ring: TokenRing, run: Int32Array, source: int, depth: int, most: int, matches: Matches, size: int
) -> int:
    """Add places of `ring` that follow the end of `run`, at most `most`; return how many matches there are.

    Each place is found in the chain of the longest order that it matches, and passed over in the others.
    """
    tokens, previous = ring.tokens, ring.previous
    places, lengths, sources = matches.places, matches.lengths, matches.sources
    mask, end, oldest = len(tokens) - 1, ring.end[0], oldest_place(ring)
    enough = min(size + most, len(places))
    for i in range(len(ORDERS)):
        slot = slot_of_run(run, ORDERS[i], ring.heads.shape[1])
        if slot == NOWHERE:
            continue
        place = np.int64(ring.heads[i, slot])
        for _ in range(MOST_WALKED):
            if place < oldest or place == NOWHERE or size >= enough:
                break
            if place + 1 < end and tokens[(place + 1) & mask] != GAP:
                length = agreement(tokens, place, oldest, run)
                if length >= ORDERS[i] and (i == 0 or length < ORDERS[i - 1]):
                    places[size], lengths[size], sources[size] = place + 1 - depth, length - depth, source
                    size += 1
            place = np.int64(previous[i, place & mask])
    return size


@kernel
def ranks_of(matches: Matches, listed: Int32Array, ranks: Int32Array) -> None:
    """Write what matches are ordered by: twice their length, and one more for the request's own."""
    lengths, sources = matches.lengths, matches.sources
    for i in range(len(listed)):
        match = listed[i]
        ranks[i] = 2 * lengths[match] + (1 if sources[match] == OWN else 0)


@kernel
def list_by_rank(matches: Matches, begin: int, end: int, listed: Int32Array) -> None:
    """Write the matches from `begin` to `end` to `listed`, highest rank first, else in the order found."""
    size = end - begin
    ranks = np.empty(size, np.int32)
    ranks_of(matches, np.arange(begin, end).astype(np.int32), ranks)
    order = np.empty(size, np.int32)
    for i in range(size):
        place = i
        while place > 0 and ranks[order[place - 1]] < ranks[i]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = i
    for i in range(size):
        listed[i] = begin + order[i]


@kernel
def continuations(
    own: TokenRing,
    shared: TokenRing,
    matches: Matches,
    listed: Int32Array,
    depth: Integer,
    following: Int32Array,
) -> None:
    """Write the token that each match goes on with at a node of this depth; GAP where its sequence ends."""
    places, sources = matches.places, matches.sources
    own_tokens, own_end, own_mask = own.tokens, own.end[0], len(own.tokens) - 1
    shared_tokens, shared_end, shared_mask = shared.tokens, shared.end[0], len(shared.tokens) - 1
    for i in range(len(listed)):
        match = listed[i]
        place = places[match] + depth
        if sources[match] == OWN:
            following[i] = own_tokens[place & own_mask] if place < own_end else GAP
        else:
            following[i] = shared_tokens[place & shared_mask] if place < shared_end else GAP


@kernel
def count_votes(
    following: Int32Array, begin: int, end: int, tokens: Int32Array, chances: Float64Array, size: int
) -> tuple[int, float]:
    """Count the votes `following[begin:end]` of matches of one rank.

    A vote for a candidate that a higher rank has named counts for nothing; others make or strengthen
    candidates behind the first `size`. Returns the number of candidates and of votes that counted.
    """
    before, votes = size, 0.0
    for i in range(begin, end):
        token, candidate = following[i], 0
        while candidate < size and tokens[candidate] != token:
            candidate += 1
        if candidate < before or candidate == MOST_CANDIDATES:
            continue
        if candidate == size:
            tokens[size], chances[size] = token, 0.0
            size += 1
        chances[candidate] += 1.0
        votes += 1.0
    return size, votes


@kernel
def predict_next(
    own: TokenRing,
    shared: TokenRing,
    matches: Matches,
    listed: Int32Array,
    depth: Integer,
    trust: Float64Array,
    candidates: Candidates,
) -> tuple[int, int]:
    """Estimate the next token from matches `listed` by rank; return how many candidates and ranks asked."""
    following, ranks = np.empty(len(listed), np.int32), np.empty(len(listed), np.int32)
    continuations(own, shared, matches, listed, depth, following)
    ranks_of(matches, listed, ranks)
    tokens, chances = candidates.tokens, candidates.chances
    left, size, asked, end = 1.0, 0, 0, 0
    while end < len(listed) and left > LEAST_SHARE and asked < MOST_ASKED:
        before, begin = size, end
        while end < len(listed) and ranks[end] == ranks[begin]:
            end += 1
        size, votes = count_votes(following, begin, end, tokens, chances, size)
        if size == before:
            continue
        source = OWN if ranks[begin] % 2 == 1 else SHARED
        bucket = match_bucket(source, ranks[begin] // 2 + depth, size - before, votes)
        left = spend(candidates, before, size, votes, bucket, trust, left, asked)
        asked += 1
    return size, asked


@kernel
def find_all(
    own: TokenRing, shared: TokenRing, run: Int32Array, depth: int, matches: Matches, size: int
) -> int:
    """Add the matches of `run` in both logs; return how many matches there are."""
    size = find_matches(own, run, OWN, depth, MOST_OWN, matches, size)
    return find_matches(shared, run, SHARED, depth, MOST_SHARED, matches, size)
