"""Where the last tokens stood before, and what that says about the next one.

The matches' continuations *are* the trie: a draft node holds those matches that agree with its path, and
its children are the tokens they go on with. Longer matches are asked first, a request's own before the
shared ones at equal length; each length spends a share of the probability that is left on the tokens that
no longer match has named, and how large a share is learned while running (see `candidates.credit`).
"""

from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import MAX_CANDIDATES, OWN, SHARED
from lookahead.drafting.log.ring import GAP, NOWHERE, ORDERS, TokenRing, oldest_place, slots_of_run
from lookahead.jit import lean_kernel

LONGEST_MATCH = 16
"""Tokens that a match is verified backwards at most."""
MAX_OWN, MAX_SHARED = 16, 16
"""Matches kept from a request's own log and from the shared one, longest orders and newest first."""
ORDERS_OF_A_LOOK = 3
MAX_WALKED_IN_A_LOOK = 12
MAX_AT_ONCE = MAX_OWN + MAX_SHARED
MAX_WALKED = 24
"""Places looked at in one chain."""

AHEAD = 24
"""Tokens copied from behind a match; a draft that goes deeper looks afresh."""
NOBODY, VOCABULARY = 0, 1
"""The owner of all tokens in a request's own log, and that of successors which are no text's."""

LENGTHS = LONGEST_MATCH + 1
VARIETIES = 4
CROWDS = 4
BUCKETS_A_SOURCE = LENGTHS * VARIETIES * CROWDS
TRIALS_AT_FIRST = 10.0
"""What trust begins with counts as much as so many trials."""


class Matches(NamedTuple):
    """Matches found so far, as seen from node 0: at a node of depth d add d to lengths.

    What followed each is copied out of the log, so that growing a draft touches the log no more.

    Attributes:
        following: int32 [most, AHEAD], the tokens that followed; after a GAP there is nothing.
        ranks: int32 [most], see `rank_of`: how many tokens before them agree, and whose they are.
        origins: int32 [most], the depth of the node that each was found for.
    """

    following: Int32Array
    ranks: Int32Array
    origins: Int32Array


@lean_kernel
def rank_of(source: Integer, length: Integer) -> Integer:
    """Return one number for a match's source and length: higher for longer ones, and for own ones."""
    return 2 * length - source


@lean_kernel
def source_of_rank(rank: Integer) -> Integer:
    """Return the source of matches of this rank, OWN or SHARED."""
    return rank & 1


@lean_kernel
def length_of_rank(rank: Integer) -> Integer:
    """Return the length of matches of this rank, as seen from node 0."""
    return (rank + 1) >> 1


@lean_kernel
def following_at(matches: Matches, match: Integer, depth: Integer) -> int:
    """Return the token that a match goes on with at a node of this depth; GAP where it ends."""
    ahead = depth - matches.origins[match]
    return int(matches.following[match, ahead]) if ahead < AHEAD else GAP


def initial_log_trust() -> Float64Array:
    """Return Beta counts (trials, hits) [buckets, 2] worth ten trials.

    What recorded answers taught, rounded (research/fit_beliefs.py): the odds of a group are 0.6 times its
    length, or 0.12 times if it is shared; twice that a crowd more, and 0.6 times a variety more.
    """
    source, length, variety, crowd = np.indices((2, LENGTHS, VARIETIES, CROWDS)).reshape(4, -1)
    odds = np.where(source == OWN, 0.6, 0.12) * np.maximum(length, 1) * 2.0**crowd * 0.6**variety
    return TRIALS_AT_FIRST * np.stack([np.ones(len(odds)), odds / (1 + odds)], axis=1)


@lean_kernel
def match_bucket(source: Integer, length: Integer, offered: int, votes: float) -> int:
    """Return the trust bucket of matches: their source, length, how many new tokens they offer, how many."""
    variety = offered - 1 if offered <= 2 else 2 if offered <= 5 else 3
    crowd = 0 if votes < 2 else 1 if votes < 4 else 2 if votes < 10 else 3
    return int(((source * LENGTHS + min(length, LONGEST_MATCH)) * VARIETIES + variety) * CROWDS + crowd)


@lean_kernel
def agreement(tokens: Int32Array, last: Integer, oldest: Integer, run: Int32Array, most: int) -> int:
    """Return how many of a ring's tokens before and at the place `last`, `most` at most, end `run` too."""
    mask = len(tokens) - 1
    most = min(len(run), most, int(last - oldest + 1))
    length = 0
    while length < most:
        token = tokens[(last - length) & mask]
        if token == GAP or token != run[len(run) - 1 - length]:
            break
        length += 1
    return length


# In the loops below arrays are taken out of their tuples first: compiled, each access through a tuple would
# count references, which costs several times what the loop does.


@lean_kernel
def copy_ahead(tokens: Int32Array, place: Integer, end: Integer, ahead: Int32Array) -> None:
    """Copy the tokens from a place on, a GAP where the ring ends; what stands behind a GAP means nothing."""
    mask = len(tokens) - 1
    at, most = np.int64(place & mask), np.int64(min(AHEAD, end - place))
    if at + AHEAD <= len(tokens):  # as nearly always: a loop of fixed length takes a few instructions
        for i in range(AHEAD):
            ahead[i] = tokens[at + i]
    else:
        for i in range(most):
            ahead[i] = tokens[(at + i) & mask]
    if most < AHEAD:
        ahead[most] = GAP


@lean_kernel
def find_matches(
    ring: TokenRing,
    owner: Integer,
    run: Int32Array,
    source: int,
    depth: int,
    most: int,
    matches: Matches,
    size: int,
) -> int:
    """Add places of `ring` that follow the end of an owner's `run`, `most` at most; return their number.

    Each place is found in the chain of the longest order that it matches, and passed over in the others.
    """
    tokens, owners, previous, heads, ends = ring
    following, ranks, origins = matches
    mask, end, oldest = len(tokens) - 1, ends[0], oldest_place(ring)
    enough = min(size + most, len(ranks))
    slots = slots_of_run(run, owner, len(tokens) // 2)
    for i in range(len(ORDERS) if depth == 0 else ORDERS_OF_A_LOOK):
        place = np.int64(heads[slots[i]] if slots[i] != NOWHERE else NOWHERE)
        # what agrees further was found in the chain before
        longest = LONGEST_MATCH if i == 0 else ORDERS[i - 1]
        for _ in range(MAX_WALKED if depth == 0 else MAX_WALKED_IN_A_LOOK):
            if place < oldest or size >= enough:  # NOWHERE is older than all
                break
            at = place & mask
            older = np.int64(previous[i, at])  # first of all: the walk waits for nothing but it
            length = agreement(tokens, place, oldest, run, longest)
            is_new = length >= ORDERS[i] and (i == 0 or length < longest)
            goes_on = place + 1 < end and tokens[(place + 1) & mask] != GAP
            if is_new and goes_on and owners[at] == owner:
                copy_ahead(tokens, place + 1, end, following[size])
                ranks[size], origins[size] = rank_of(source, length - depth), depth
                size += 1
            place = older
    return size


@lean_kernel
def find_all(
    own: TokenRing,
    shared: TokenRing,
    readable: Int32Array,
    run: Int32Array,
    depth: int,
    matches: Matches,
    size: int,
) -> int:
    """Add the matches of `run` in the request's own log, and in the shared one those of `readable` owners.

    Returns how many matches there are.
    """
    size = find_matches(own, NOBODY, run, OWN, depth, MAX_OWN, matches, size)
    most = size + MAX_SHARED
    for i in range(len(readable)):
        size = find_matches(shared, np.int64(readable[i]), run, SHARED, depth, most - size, matches, size)
    return size


@lean_kernel
def list_by_rank(matches: Matches, begin: int, end: int, listed: Int32Array) -> None:
    """Write the matches from `begin` to `end` to `listed`: longest first, and own before shared ones."""
    ranks = matches.ranks
    for i in range(begin, end):
        place, rank = i - begin, ranks[i]
        while place > 0 and ranks[listed[place - 1]] < rank:
            listed[place] = listed[place - 1]
            place -= 1
        listed[place] = i


@lean_kernel
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
        if candidate < before or candidate == MAX_CANDIDATES:
            continue
        if candidate == size:
            tokens[size], chances[size] = token, 0.0
            size += 1
        chances[candidate] += 1.0
        votes += 1.0
    return size, votes
