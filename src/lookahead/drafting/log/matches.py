"""Matches: earlier occurrences of the last tokens, and what followed them.

The matches' continuations *are* the trie: a draft node holds the matches that agree with its path, and its
children are their next tokens. Matches of one length and source form a group. Longer groups come first, the
request's own before the shared one at equal length. Each adds the tokens that no better group has named, and
takes a share of the remaining probability by its hit rate (see `candidates`).
"""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import MAX_CANDIDATES, OWN, SHARED
from lookahead.drafting.log.ring import GAP, NO_INDEX, ORDERS, TokenRing, heads_of_run, oldest_index
from lookahead.jit import lean_kernel

LONGEST_MATCH = 16
"""How many tokens backwards a match is verified."""
MAX_OWN, MAX_SHARED = 16, 16
"""Matches of one search in a request's own log and in the shared one, longest orders and newest first."""
MAX_MATCHES = MAX_OWN + MAX_SHARED
MAX_WALKED = 24
"""How far a chain is walked."""
REMATCH_ORDERS = 3
MAX_WALKED_IN_REMATCH = 12
"""Narrower bounds for the searches at drafted nodes: the three longest orders only, half as far."""

AHEAD = 24
"""Tokens copied from after a match; a draft that goes deeper needs a new search."""
NO_OWNER, VOCABULARY = 0, 1
"""The owner of all tokens in a request's own log, and the owner of the vocabulary's successors."""

LENGTHS = LONGEST_MATCH + 1
VARIETIES = 4
CROWDS = 4
"""Hit rates are counted by source, length, variety (how many new tokens are offered) and crowd (votes)."""
BUCKETS_PER_SOURCE = LENGTHS * VARIETIES * CROWDS
INITIAL_TRIALS = 10.0
"""How many trials the initial hit rates count as."""


class Matches(NamedTuple):
    """All matches found for a draft, seen from node 0: at a node of depth d their lengths are d more.

    What followed each is copied out of the log, so that growing a draft reads the log no more.

    Attributes:
        continuations: int32 [room, AHEAD], the tokens that followed; those after a GAP mean nothing.
        ranks: int32 [room], source and length in one number, see `rank_of`.
        origins: int32 [room], the depth of the node that each was found for.
    """

    continuations: Int32Array
    ranks: Int32Array
    origins: Int32Array


@lean_kernel
def rank_of(source: Integer, length: Integer) -> Integer:
    """Return one number for a match's source and length: higher for longer ones, then for own ones."""
    return 2 * length - source


@lean_kernel
def source_of_rank(rank: Integer) -> Integer:
    """Return the source of matches of this rank, OWN or SHARED."""
    return rank & 1


@lean_kernel
def length_of_rank(rank: Integer) -> Integer:
    """Return the length of matches of this rank, seen from node 0."""
    return (rank + 1) >> 1


@lean_kernel
def next_token(matches: Matches, match: Integer, depth: Integer) -> int:
    """Return the token that follows a match at a node of this depth; GAP where it ends."""
    ahead = depth - matches.origins[match]
    return int(matches.continuations[match, ahead]) if ahead < AHEAD else GAP


def initial_hit_rates() -> Float64Array:
    """Return Beta counts (trials, hits) [buckets, 2] worth ten trials.

    Fitted on recorded answers and rounded (research/fit_calibration.py): a group's odds are 0.6 times its
    length, or 0.12 times if it is shared; times 2 per level of crowd, times 0.6 per level of variety.
    """
    source, length, variety, crowd = np.indices((2, LENGTHS, VARIETIES, CROWDS)).reshape(4, -1)
    odds = np.where(source == OWN, 0.6, 0.12) * np.maximum(length, 1) * 2.0**crowd * 0.6**variety
    return INITIAL_TRIALS * np.stack([np.ones(len(odds)), odds / (1 + odds)], axis=1)


@lean_kernel
def group_bucket(source: Integer, length: Integer, offered: int, votes: float) -> int:
    """Return the bucket of a group's hit rate, from its length, how many new tokens it offers, its votes."""
    variety = offered - 1 if offered <= 2 else 2 if offered <= 5 else 3
    crowd = 0 if votes < 2 else 1 if votes < 4 else 2 if votes < 10 else 3
    return int(((source * LENGTHS + min(length, LONGEST_MATCH)) * VARIETIES + variety) * CROWDS + crowd)


@lean_kernel
def match_length(tokens: Int32Array, last: Integer, oldest: Integer, run: Int32Array, max_length: int) -> int:
    """Return how many tokens of a ring, backwards from the index `last`, equal those at the end of `run`."""
    mask = len(tokens) - 1
    max_length = min(len(run), max_length, int(last - oldest + 1))
    length = 0
    while length < max_length:
        token = tokens[(last - length) & mask]
        if token == GAP or token != run[len(run) - 1 - length]:
            break
        length += 1
    return length


# The loops below take arrays out of their tuples first: compiled, each access through a tuple would count
# references, which costs several times what the loop does.


@lean_kernel
def copy_continuation(tokens: Int32Array, index: Integer, end: Integer, continuation: Int32Array) -> None:
    """Copy the tokens from an index on, and a GAP where the ring ends; those after a GAP mean nothing."""
    mask = len(tokens) - 1
    cell, count = np.int64(index & mask), np.int64(min(AHEAD, end - index))
    if cell + AHEAD <= len(tokens):  # as nearly always: a loop of fixed length takes a few instructions
        for i in range(AHEAD):
            continuation[i] = tokens[cell + i]
    else:
        for i in range(count):
            continuation[i] = tokens[(cell + i) & mask]
    if count < AHEAD:
        continuation[count] = GAP


@lean_kernel
def find_matches(
    ring: TokenRing,
    owner: Integer,
    run: Int32Array,
    source: int,
    depth: int,
    max_matches: int,
    matches: Matches,
    size: int,
) -> int:
    """Add up to `max_matches` matches of an owner's `run` in a ring; return how many matches there are.

    Each match is found in the chain of the longest order that it reaches, and skipped in the other chains.
    For run = … d a b, where the chain of order 2 leads to 6 and 1:

        index   0    1    2    3    4    5    6    7
        token   a    b    c    GAP  d    a    b    e        index 6: d a b agree, length 3, goes on with e
                     └ 1                      └ 6           index 1:   a b agree, length 2, goes on with c

    Order 1 finds 6 and 1 again, but their length is at least 2: order 2 had them. A token whose hash falls on
    the same head is in the chain, too, but its length is below the order.
    """
    tokens, owners, previous, heads, ends = ring
    continuations, ranks, origins = matches
    mask, end, oldest = len(tokens) - 1, ends[0], oldest_index(ring)
    max_size = min(size + max_matches, len(ranks))
    run_heads = heads_of_run(run, owner, len(tokens) // 2)
    for i in range(len(ORDERS) if depth == 0 else REMATCH_ORDERS):
        index = np.int64(heads[run_heads[i]] if run_heads[i] != NO_INDEX else NO_INDEX)
        # a longer match was found in the chain before
        longest = LONGEST_MATCH if i == 0 else ORDERS[i - 1]
        for _ in range(MAX_WALKED if depth == 0 else MAX_WALKED_IN_REMATCH):
            if index < oldest or size >= max_size:  # NO_INDEX is older than all
                break
            cell = index & mask
            older = np.int64(previous[i, cell])  # read first: the walk waits for nothing else
            length = match_length(tokens, index, oldest, run, longest)
            is_new = length >= ORDERS[i] and (i == 0 or length < longest)
            goes_on = index + 1 < end and tokens[(index + 1) & mask] != GAP
            if is_new and goes_on and owners[cell] == owner:
                copy_continuation(tokens, index + 1, end, continuations[size])
                ranks[size], origins[size] = rank_of(source, length - depth), depth
                size += 1
            index = older
    return size


@lean_kernel
def find_all_matches(
    own: TokenRing,
    shared: TokenRing,
    readable: Int32Array,
    run: Int32Array,
    depth: int,
    matches: Matches,
    size: int,
) -> int:
    """Add the matches of `run` in the request's own log and, of the `readable` owners, in the shared one.

    Returns how many matches there are.
    """
    size = find_matches(own, NO_OWNER, run, OWN, depth, MAX_OWN, matches, size)
    max_size = size + MAX_SHARED
    for i in range(len(readable)):
        owner = np.int64(readable[i])
        size = find_matches(shared, owner, run, SHARED, depth, max_size - size, matches, size)
    return size


@lean_kernel
def sort_by_rank(matches: Matches, begin: int, end: int, listed: Int32Array) -> None:
    """Write the matches from `begin` to `end` to `listed`, highest rank first (a stable insertion sort)."""
    ranks = matches.ranks
    for i in range(begin, end):
        index, rank = i - begin, ranks[i]
        while index > 0 and ranks[listed[index - 1]] < rank:
            listed[index] = listed[index - 1]
            index -= 1
        listed[index] = i


@lean_kernel
def count_votes(
    votes: Int32Array, begin: int, end: int, tokens: Int32Array, counts: Float64Array, size: int
) -> tuple[int, float]:
    """Count the votes of a group: the next tokens `votes[begin:end]` of its matches.

    A vote for a candidate that a better group has named does not count. Others make or strengthen candidates
    after the first `size`. With "cat" named before, the votes dog cat dog cow:

        tokens  cat │ dog  cow
        counts      │ 2    1        returns 3 candidates, 3 votes

    Returns:
        The number of candidates, and of votes that counted.
    """
    before, counted = size, 0.0
    for i in range(begin, end):
        token, candidate = votes[i], 0
        while candidate < size and tokens[candidate] != token:
            candidate += 1
        if candidate < before or candidate == MAX_CANDIDATES:
            continue
        if candidate == size:
            tokens[size], counts[size] = token, 0.0
            size += 1
        counts[candidate] += 1.0
        counted += 1.0
    return size, counted
