"""The next token's candidates at a draft node, from the log's matches and the model's recycled logits.

1. Groups of matches share out the probability, the best group first (`predict_from_matches`).
2. The model's successors of the node's token join as candidates.
3. At likely nodes, guesses join: alternatives, runner-ups and frequent tokens (`add_guesses`), and where the
   noise of the coming draw is known, the tokens that it favours (`add_lucky`).
4. A softmax over what is known of each candidate gives its probability (`calibration`).

Predictions are stored until the tokens come that the draft was for, and are compared with them then, so that
learning needs no search.
"""

import math
from typing import NamedTuple

import numpy as np

from lookahead.drafting.arrays import Float64Array, Int32Array, Integer
from lookahead.drafting.growth.candidates import (
    GUESSED,
    LUCKY,
    MAX_CANDIDATES,
    MAX_GROUPS,
    MIN_SHARE,
    RECYCLED,
    Candidates,
    distribute_share,
    update_hit_rates,
)
from lookahead.drafting.growth.guesses import (
    MAX_GUESSES,
    Guesses,
    add_guesses,
    add_lucky,
    add_new,
    noise_slot,
    place_of_lucky,
)
from lookahead.drafting.growth.ranks import RANK_BUCKETS, UNRANKED_BUCKET, place_in_table, rank_bucket
from lookahead.drafting.growth.runner_ups import ALTERNATIVES
from lookahead.drafting.log.calibration import (
    ALTERNATIVE,
    FREQUENT_RANK,
    LUCKY_PLACE,
    MIN_EVIDENCE,
    NO_ALTERNATIVES,
    NO_HINT,
    NO_SUCCESSORS,
    NOT_ALTERNATIVE,
    RUNNER_UP,
    UNRANKED,
    CalibrationState,
    feature_index,
    hint_feature,
    softmax_with_none,
    source_of_feature,
    update_weights,
)
from lookahead.drafting.log.matches import (
    BUCKETS_PER_SOURCE,
    NO_OWNER,
    Matches,
    count_votes,
    group_bucket,
    length_of_rank,
    source_of_rank,
)
from lookahead.drafting.log.ring import NO_INDEX, TokenRing, newest_index
from lookahead.drafting.log.successors import NO_TOKEN, SUCCESSORS
from lookahead.drafting.noise import Noise, log_frequency, luck_of
from lookahead.jit import lean_kernel

MAX_NODE_CANDIDATES = MAX_CANDIDATES + SUCCESSORS + MAX_GUESSES

CANDIDATES_BEGIN, CANDIDATES_END, GROUPS_BEGIN, GROUPS_END = 0, 1, 2, 3
"""Columns of `Predictions.nodes`."""


class Predictions(NamedTuple):
    """The predictions at each node of a draft, node after node.

    Attributes:
        tokens: int32 [room], candidates.
        features: int32 [room], what is known of each, see `calibration`.
        hints: int32 [room, HINTS], the features of its hints.
        evidence: float64 [room], the logarithm of its share.
        luck: float64 [room], what the noise adds to the logarithm of its probability; 0 where it is unknown.
        probabilities: float64 [room].
        buckets: int32 [room], the hit rate's bucket of each group.
        ends: int32 [room], where the group's candidates end, counted from the node's first.
        nodes: int32 [nodes, 4], where each node's candidates begin and end, and its groups; empty where
            nothing was predicted.
        none_evidence: float64 [nodes], the logarithm of the share that remained.
    """

    tokens: Int32Array
    features: Int32Array
    hints: Int32Array
    evidence: Float64Array
    luck: Float64Array
    probabilities: Float64Array
    buckets: Int32Array
    ends: Int32Array
    nodes: Int32Array
    none_evidence: Float64Array


@lean_kernel
def candidates_at(predictions: Predictions, node: Integer) -> Candidates:
    """Return a view of a node's candidates, with their evidence in place of probabilities, and groups."""
    nodes = predictions.nodes
    these = slice(nodes[node, CANDIDATES_BEGIN], nodes[node, CANDIDATES_END])
    groups = slice(nodes[node, GROUPS_BEGIN], nodes[node, GROUPS_END])
    return Candidates(
        predictions.tokens[these],
        predictions.evidence[these],
        predictions.buckets[groups],
        predictions.ends[groups],
    )


@lean_kernel
def predict_from_matches(
    matches: Matches,
    listed: Int32Array,
    depth: Integer,
    votes: Int32Array,
    hit_rates: Float64Array,
    candidates: Candidates,
) -> tuple[int, int, float]:
    """Share out the probability among the groups of the matches `listed` by rank; `votes` are their tokens.

    Returns:
        How many candidates and groups there are, and the probability that remains.
    """
    ranks = matches.ranks
    tokens, shares = candidates.tokens, candidates.probabilities
    remaining, size, groups, end = 1.0, 0, 0, 0
    while end < len(listed) and remaining > MIN_SHARE and groups < MAX_GROUPS:
        before, begin, rank = size, end, ranks[listed[end]]
        while end < len(listed) and ranks[listed[end]] == rank:
            end += 1
        size, counted = count_votes(votes, begin, end, tokens, shares, size)
        if size > before:
            length = length_of_rank(rank) + depth
            bucket = group_bucket(source_of_rank(rank), length, size - before, counted)
            remaining = distribute_share(
                candidates, before, size, counted, bucket, hit_rates, remaining, groups
            )
            groups += 1
    return size, groups, remaining


@lean_kernel
def successor_rank(successors: Int32Array, token: Integer) -> int:
    """Return a token's rank among the model's successors, or UNRANKED, or NO_SUCCESSORS."""
    if successors[0] == NO_TOKEN:
        return NO_SUCCESSORS
    for rank in range(len(successors)):
        if successors[rank] == token:
            return rank
    return UNRANKED


@lean_kernel
def token_age(own: TokenRing, token: Integer) -> int:
    """Return how long ago the request saw a token: 0 never, as far as is known, else 1 (long ago) to 4."""
    index = newest_index(own, NO_OWNER, token)
    if index == NO_INDEX:
        return 0
    age = own.end[0] - index
    return 1 + int(age <= 16) + int(age <= 64) + int(age <= 256)


@lean_kernel
def mark_unasked(predictions: Predictions, node: Integer) -> None:
    """Note that nothing was predicted at a node; nodes come in order."""
    nodes = predictions.nodes
    candidates = nodes[node - 1, CANDIDATES_END] if node else np.int32(0)
    groups = nodes[node - 1, GROUPS_END] if node else np.int32(0)
    nodes[node, CANDIDATES_BEGIN] = nodes[node, CANDIDATES_END] = candidates
    nodes[node, GROUPS_BEGIN] = nodes[node, GROUPS_END] = groups


@lean_kernel
def predict_next(
    predictions: Predictions,
    node: Integer,
    after: Integer,
    own: TokenRing,
    matches: Matches,
    listed: Int32Array,
    votes: Int32Array,
    successors: Int32Array,
    depth: Integer,
    probability: float,
    guesses: Guesses,
    state: CalibrationState,
) -> None:
    """Predict what follows a node, from the matches `listed` there and the successors of its token `after`.

    Where they leave something, guesses join, by the node's `probability`. They take no share, as successors
    do not: the weights know what each is worth. Nodes come in order. Without room in `predictions` nothing is
    predicted.
    """
    mark_unasked(predictions, node)
    nodes, ends = predictions.nodes, predictions.ends
    begin, groups_begin = nodes[node, CANDIDATES_BEGIN], nodes[node, GROUPS_BEGIN]
    if begin + MAX_NODE_CANDIDATES > len(predictions.tokens) or groups_begin + MAX_GROUPS > len(ends):
        return
    candidates = Candidates(
        predictions.tokens[begin : begin + MAX_NODE_CANDIDATES],
        predictions.evidence[begin : begin + MAX_NODE_CANDIDATES],
        predictions.buckets[groups_begin:],
        ends[groups_begin:],
    )
    size, groups, remaining = predict_from_matches(matches, listed, depth, votes, state.hit_rates, candidates)
    matched = size
    if remaining > MIN_SHARE:
        size = add_new(successors, SUCCESSORS, candidates.tokens, size)
    recycled = guessed = size
    if remaining > MIN_SHARE:
        guessed = add_guesses(guesses, probability, candidates.tokens, size)
        size = add_lucky(guesses.noise, depth, probability, candidates.tokens, guessed)
    nodes[node, CANDIDATES_END], nodes[node, GROUPS_END] = begin + size, groups_begin + groups
    predictions.none_evidence[node] = math.log(max(remaining, MIN_EVIDENCE))
    describe_matched(predictions, node, own, successors)
    describe_recycled(predictions, node, begin + matched, begin + recycled, own, successors)
    describe_guessed(predictions, node, begin + recycled, begin + guessed, own, successors)
    describe_lucky(predictions, node, begin + guessed, own, successors, guesses.noise)
    write_hints(predictions, node, successors, guesses)
    write_luck(predictions, node, depth, successors, guesses.noise)
    these = slice(begin, begin + size)
    softmax_with_none(
        after,
        predictions.tokens[these],
        predictions.features[these],
        predictions.hints[these],
        predictions.evidence[these],
        predictions.luck[these],
        predictions.none_evidence[node],
        state.weights,
        predictions.probabilities[these],
    )


@lean_kernel
def describe_matched(predictions: Predictions, node: Integer, own: TokenRing, successors: Int32Array) -> None:
    """Write the features of the candidates that matches named, and turn their shares into evidence."""
    begin = candidate = predictions.nodes[node, CANDIDATES_BEGIN]
    tokens, features, evidence = predictions.tokens, predictions.features, predictions.evidence
    for i in range(predictions.nodes[node, GROUPS_BEGIN], predictions.nodes[node, GROUPS_END]):
        source = predictions.buckets[i] // BUCKETS_PER_SOURCE
        while candidate < begin + predictions.ends[i]:
            token = tokens[candidate]
            rank, age = successor_rank(successors, token), token_age(own, token)
            features[candidate] = feature_index(source, rank, age)
            evidence[candidate] = math.log(max(evidence[candidate], MIN_EVIDENCE))
            candidate += 1


@lean_kernel
def describe_recycled(
    predictions: Predictions,
    node: Integer,
    begin: Integer,
    end: Integer,
    own: TokenRing,
    successors: Int32Array,
) -> None:
    """Write the features of the candidates that only the model named; their evidence is what remained."""
    tokens, features, evidence = predictions.tokens, predictions.features, predictions.evidence
    rank = 0
    for candidate in range(begin, end):
        while successors[rank] != tokens[candidate]:
            rank += 1
        features[candidate] = feature_index(RECYCLED, rank, token_age(own, tokens[candidate]))
        evidence[candidate] = predictions.none_evidence[node]


@lean_kernel
def describe_guessed(
    predictions: Predictions,
    node: Integer,
    begin: Integer,
    end: Integer,
    own: TokenRing,
    successors: Int32Array,
) -> None:
    """Write the features of the candidates that are guesses; their evidence is what remained."""
    rank = NO_SUCCESSORS if successors[0] == NO_TOKEN else UNRANKED
    for candidate in range(begin, end):
        age = token_age(own, predictions.tokens[candidate])
        predictions.features[candidate] = feature_index(GUESSED, rank, age)
        predictions.evidence[candidate] = predictions.none_evidence[node]


@lean_kernel
def describe_lucky(
    predictions: Predictions,
    node: Integer,
    begin: Integer,
    own: TokenRing,
    successors: Int32Array,
    noise: Noise,
) -> None:
    """Write the features of the candidates that only the noise named.

    Their evidence is what remained, shared out as far as ids tell how frequent tokens are.
    """
    rank = NO_SUCCESSORS if successors[0] == NO_TOKEN else UNRANKED
    vocabulary_size = noise.words.shape[1] // 2
    for candidate in range(begin, predictions.nodes[node, CANDIDATES_END]):
        token = predictions.tokens[candidate]
        predictions.features[candidate] = feature_index(LUCKY, rank, token_age(own, token))
        share = predictions.none_evidence[node] + log_frequency(token, vocabulary_size)
        predictions.evidence[candidate] = share


@lean_kernel
def write_luck(
    predictions: Predictions, node: Integer, depth: Integer, successors: Int32Array, noise: Noise
) -> None:
    """Write the luck of all candidates, and the features of their places among what the noise favours."""
    slot = noise_slot(noise, depth)
    has_successors, is_root = int(successors[0] != NO_TOKEN), int(node == 0)
    for candidate in range(
        predictions.nodes[node, CANDIDATES_BEGIN], predictions.nodes[node, CANDIDATES_END]
    ):
        predictions.luck[candidate], predictions.hints[candidate, LUCKY_PLACE] = 0.0, NO_HINT
        token = np.int64(predictions.tokens[candidate])
        if slot >= 0 and 2 * token < noise.words.shape[1]:
            predictions.luck[candidate] = luck_of(noise.words[slot], token)
            bucket = rank_bucket(place_of_lucky(noise.lucky[slot], token))
            if source_of_feature(predictions.features[candidate]) == LUCKY:
                bucket += RANK_BUCKETS
            feature = hint_feature(LUCKY_PLACE, bucket, has_successors, is_root)
            predictions.hints[candidate, LUCKY_PLACE] = feature


@lean_kernel
def write_hints(predictions: Predictions, node: Integer, successors: Int32Array, guesses: Guesses) -> None:
    """Write the features of the hints of all candidates."""
    ranks, alternatives = guesses.ranks, guesses.alternatives
    has_successors, is_root = int(successors[0] != NO_TOKEN), int(node == 0)
    for candidate in range(
        predictions.nodes[node, CANDIDATES_BEGIN], predictions.nodes[node, CANDIDATES_END]
    ):
        token = predictions.tokens[candidate]
        alternative = NO_ALTERNATIVES if alternatives[0] == NO_TOKEN else NOT_ALTERNATIVE
        for rank in range(ALTERNATIVES - 1, -1, -1):
            if alternatives[rank] == token:
                alternative = rank
        place = place_in_table(ranks, token)
        is_ranked = ranks.tokens[place] == token
        frequent = np.int64(ranks.frequent[place]) if is_ranked else UNRANKED_BUCKET
        runner_up = np.int64(ranks.runner_ups[place]) if is_ranked else UNRANKED_BUCKET
        hints = predictions.hints[candidate]
        hints[ALTERNATIVE] = hint_feature(ALTERNATIVE, alternative, has_successors, is_root)
        hints[FREQUENT_RANK] = hint_feature(FREQUENT_RANK, frequent, has_successors, is_root)
        hints[RUNNER_UP] = hint_feature(RUNNER_UP, runner_up, has_successors, is_root)


@lean_kernel
def learn_at_node(
    predictions: Predictions, node: Integer, after: Integer, token: Integer, state: CalibrationState
) -> None:
    """Compare the predictions at a node with token `after`, if there are any, with the `token` that came."""
    begin, end = predictions.nodes[node, CANDIDATES_BEGIN], predictions.nodes[node, CANDIDATES_END]
    if begin == end:
        return
    candidates = candidates_at(predictions, node)
    update_weights(
        after,
        candidates.tokens,
        predictions.features[begin:end],
        predictions.hints[begin:end],
        candidates.probabilities,
        predictions.luck[begin:end],
        predictions.none_evidence[node],
        predictions.probabilities[begin:end],
        state.weights,
        token,
    )
    update_hit_rates(candidates, len(candidates.buckets), state.hit_rates, token)
