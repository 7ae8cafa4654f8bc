"""What may come next at a draft node: the logs' matches and the model's recycled logits, weighed together.

Matches of one length and source vote. Longer ones are asked first, a request's own before the shared ones at
equal length; each such group spends a share of the probability that is left on the tokens that no better
group has named, and how large a share is learned while running (`candidates.credit`). Then the model's own
successors of the token are added; what is left is the evidence of each. The evidence is weighed with what
else is known of each candidate (`weighing`).

Everything said is kept until the next draft: what came is compared with it, so that learning costs no search.
"""

import math
from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Int64Array, Integer
from lookahead.drafting.growth.candidates import (
    MAX_ASKED,
    MAX_CANDIDATES,
    MIN_SHARE,
    RECYCLED,
    Candidates,
    credit,
    holds,
    spend,
)
from lookahead.drafting.log.calibration import (
    MIN_EVIDENCE,
    NO_SUCCESSORS,
    UNRANKED,
    feature_of,
    learn_weights,
    weigh,
)
from lookahead.drafting.log.matches import (
    BUCKETS_A_SOURCE,
    NOBODY,
    VOCABULARY,
    Matches,
    count_votes,
    length_of_rank,
    match_bucket,
    source_of_rank,
)
from lookahead.drafting.log.ring import NOWHERE, TokenRing, newest_of_token
from lookahead.drafting.log.successors import NO_TOKEN, SUCCESSORS, key_of, place_of
from lookahead.jit import lean_kernel

ROOM_A_NODE = MAX_CANDIDATES + SUCCESSORS

CANDIDATES_BEGIN, CANDIDATES_END, GROUPS_BEGIN, GROUPS_END = 0, 1, 2, 3


class Beliefs(NamedTuple):
    """What a namespace has learned of its sources.

    Attributes:
        trust: float64 [buckets, 2], Beta counts (trials, hits): how often a group had the token that came.
        weights: float64, see `weighing.initial_weights`.
    """

    trust: Float64Array
    weights: Float64Array


class Predictions(NamedTuple):
    """What was said at each node of a draft.

    Attributes:
        tokens: int32 [room], candidates, node after node.
        features: int32 [room], what is known of each, see `weighing`.
        evidence: float64 [room], the logarithm of its share.
        chances: float64 [room], its probability.
        buckets: int32 [room], the trust bucket of each group that was asked, node after node.
        ends: int32 [room], where the group's candidates end, counted from the node's first.
        nodes: int32 [nodes, 4], where each node's candidates begin and end, and its groups; empty where
            nothing was said.
        rests: float64 [nodes], the logarithm of the share that was left.
    """

    tokens: Int32Array
    features: Int32Array
    evidence: Float64Array
    chances: Float64Array
    buckets: Int32Array
    ends: Int32Array
    nodes: Int32Array
    rests: Float64Array


@lean_kernel
def at_node(said: Predictions, node: Integer) -> Candidates:
    """Return a view of the candidates and groups of a node."""
    these = slice(said.nodes[node, CANDIDATES_BEGIN], said.nodes[node, CANDIDATES_END])
    groups = slice(said.nodes[node, GROUPS_BEGIN], said.nodes[node, GROUPS_END])
    return Candidates(said.tokens[these], said.evidence[these], said.buckets[groups], said.ends[groups])


@lean_kernel
def ask_matches(
    matches: Matches,
    listed: Int32Array,
    depth: Integer,
    following: Int32Array,
    trust: Float64Array,
    candidates: Candidates,
) -> tuple[int, int, float]:
    """Ask the matches `listed` by rank, which go on with `following`.

    Returns how many candidates and groups there are, and what probability is left.
    """
    ranks = matches.ranks
    tokens, chances = candidates.tokens, candidates.chances
    left, size, asked, end = 1.0, 0, 0, 0
    while end < len(listed) and left > MIN_SHARE and asked < MAX_ASKED:
        before, begin, rank = size, end, ranks[listed[end]]
        while end < len(listed) and ranks[listed[end]] == rank:
            end += 1
        size, votes = count_votes(following, begin, end, tokens, chances, size)
        if size > before:
            length = length_of_rank(rank) + depth
            bucket = match_bucket(source_of_rank(rank), length, size - before, votes)
            left = spend(candidates, before, size, votes, bucket, trust, left, asked)
            asked += 1
    return size, asked, left


@lean_kernel
def add_successors(successors: Int32Array, tokens: Int32Array, size: int) -> int:
    """Add the model's successors that no match has named as candidates; return how many candidates there are.

    What each rank is worth is in the weights, so that it spends nothing of what is left.
    """
    for rank in range(len(successors)):
        token = successors[rank]
        if token == NO_TOKEN:
            break
        if not holds(tokens, 0, size, token):
            tokens[size] = token
            size += 1
    return size


@lean_kernel
def rank_among(successors: Int32Array, token: Integer) -> int:
    """Return a token's rank among the model's successors, where there are any."""
    if successors[0] == NO_TOKEN:
        return NO_SUCCESSORS
    for rank in range(len(successors)):
        if successors[rank] == token:
            return rank
    return UNRANKED


@lean_kernel
def age_of(own: TokenRing, token: Integer) -> int:
    """Return how long ago the request saw a token: 0 never, as far as is known, else 1 (long ago) to 4."""
    place = newest_of_token(own, NOBODY, token)
    if place == NOWHERE:
        return 0
    age = own.end[0] - place
    return 1 + int(age <= 16) + int(age <= 64) + int(age <= 256)


@lean_kernel
def successors_of(
    keys: Int64Array, successors: Int32Array, readable: Int32Array, token: Integer, found: Int32Array
) -> None:
    """Write the successors of a token that the first of the `readable` owners to know any holds.

    Where none knows any, what the model holds likely after the token alone is written, if that is known.
    """
    found[0] = NO_TOKEN
    for i in range(len(readable) + 1):
        owner = readable[i] if i < len(readable) else VOCABULARY
        place = place_of(keys, key_of(owner, token))
        for rank in range(SUCCESSORS):
            found[rank] = successors[place, rank]  # NO_TOKEN in an empty place
        if found[0] != NO_TOKEN:
            return


@lean_kernel
def said_nothing(said: Predictions, node: Integer) -> None:
    """Note that a node was not asked; nodes are asked in order."""
    candidates = said.nodes[node - 1, CANDIDATES_END] if node else np.int32(0)
    groups = said.nodes[node - 1, GROUPS_END] if node else np.int32(0)
    said.nodes[node, CANDIDATES_BEGIN] = said.nodes[node, CANDIDATES_END] = candidates
    said.nodes[node, GROUPS_BEGIN] = said.nodes[node, GROUPS_END] = groups


@lean_kernel
def predict_at(
    said: Predictions,
    node: Integer,
    own: TokenRing,
    matches: Matches,
    listed: Int32Array,
    following: Int32Array,
    successors: Int32Array,
    depth: Integer,
    beliefs: Beliefs,
) -> None:
    """Estimate what follows a node from the matches `listed` there and the model's successors of its token.

    Nodes are asked in order; where no room is left nothing is said.
    """
    said_nothing(said, node)
    begin, groups_begin = said.nodes[node, CANDIDATES_BEGIN], said.nodes[node, GROUPS_BEGIN]
    if begin + ROOM_A_NODE > len(said.tokens) or groups_begin + MAX_ASKED > len(said.ends):
        return
    candidates = Candidates(
        said.tokens[begin : begin + ROOM_A_NODE],
        said.evidence[begin : begin + ROOM_A_NODE],
        said.buckets[groups_begin:],
        said.ends[groups_begin:],
    )
    size, asked, left = ask_matches(matches, listed, depth, following, beliefs.trust, candidates)
    matched = size
    if left > MIN_SHARE:
        size = add_successors(successors, candidates.tokens, size)
    said.nodes[node, CANDIDATES_END], said.nodes[node, GROUPS_END] = begin + size, groups_begin + asked
    said.rests[node] = math.log(max(left, MIN_EVIDENCE))
    describe(said, node, own, successors)
    describe_successors(said, node, begin + matched, own, successors)
    these = slice(begin, begin + size)
    weigh(said.features[these], said.evidence[these], said.rests[node], beliefs.weights, said.chances[these])


@lean_kernel
def describe(said: Predictions, node: Integer, own: TokenRing, successors: Int32Array) -> None:
    """Write the features of the candidates that matches named, and turn their shares into evidence."""
    begin = candidate = said.nodes[node, CANDIDATES_BEGIN]
    tokens, features, evidence = said.tokens, said.features, said.evidence
    for i in range(said.nodes[node, GROUPS_BEGIN], said.nodes[node, GROUPS_END]):
        source = said.buckets[i] // BUCKETS_A_SOURCE
        while candidate < begin + said.ends[i]:
            token = tokens[candidate]
            rank, age = rank_among(successors, token), age_of(own, token)
            features[candidate] = feature_of(source, rank, age)
            evidence[candidate] = math.log(max(evidence[candidate], MIN_EVIDENCE))
            candidate += 1


@lean_kernel
def describe_successors(
    said: Predictions, node: Integer, begin: Integer, own: TokenRing, successors: Int32Array
) -> None:
    """Write the features of the candidates that only the model named; their evidence is what is left."""
    tokens, features, evidence = said.tokens, said.features, said.evidence
    rank = 0
    for candidate in range(begin, said.nodes[node, CANDIDATES_END]):
        while successors[rank] != tokens[candidate]:
            rank += 1
        features[candidate] = feature_of(RECYCLED, rank, age_of(own, tokens[candidate]))
        evidence[candidate] = said.rests[node]


@lean_kernel
def learn_at(said: Predictions, node: Integer, token: Integer, beliefs: Beliefs) -> None:
    """Compare what was said at a node, if anything was, with the `token` that came."""
    begin, end = said.nodes[node, CANDIDATES_BEGIN], said.nodes[node, CANDIDATES_END]
    if begin == end:
        return
    candidates = at_node(said, node)
    learn_weights(
        candidates.tokens,
        said.features[begin:end],
        candidates.chances,
        said.rests[node],
        said.chances[begin:end],
        beliefs.weights,
        token,
    )
    credit(candidates, len(candidates.buckets), beliefs.trust, token)
