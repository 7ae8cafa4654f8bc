"""Building a draft tree out of the log's matches, best first, and only as far as it is needed."""

import numpy as np

from lookahead.drafting.arrays import Int32Array, Int64Array, Integer
from lookahead.drafting.growth.best_first import (
    PAYLOAD_0,
    Frontier,
    GrowingTree,
    has_next,
    pop_best,
    push,
    reset_frontier,
    would_accept,
)
from lookahead.drafting.growth.guesses import Guesses
from lookahead.drafting.growth.ranks import fill_table
from lookahead.drafting.growth.runner_ups import ALTERNATIVES, RunnerUps
from lookahead.drafting.log.calibration import CalibrationState, source_of_feature
from lookahead.drafting.log.matches import MAX_MATCHES, Matches, find_all_matches, next_token, sort_by_rank
from lookahead.drafting.log.prediction import (
    CANDIDATES_BEGIN,
    CANDIDATES_END,
    learn_at_node,
    mark_unasked,
    predict_next,
)
from lookahead.drafting.log.ring import GAP, TokenRing
from lookahead.drafting.log.successors import NO_TOKEN, read_successors
from lookahead.drafting.log.workspace import DraftWorkspace
from lookahead.drafting.noise import Noise
from lookahead.jit import lean_kernel

FEW_MATCHES = 4
"""Search again, for matches of the drafted path, where fewer matches than this agree with it …"""
MIN_REMATCH_PROBABILITY = 0.3
"""… and the node is more probable than this: a search costs as much as drafting several nodes."""
MIN_CHILD_RATIO = 0.35
"""Predict what follows a node only if a token with this part of its probability would still be drafted."""
SOURCE = PAYLOAD_0
"""The frontier's column for where a node comes from: OWN, SHARED, RECYCLED, GUESSED or LUCKY."""


@lean_kernel
def select_agreeing(
    matches: Matches, above: Int32Array, token: Integer, depth: Integer, listed: Int32Array
) -> int:
    """Select a new node's matches among its parent's: those that go on with its token, and do not end there.

    Args:
        matches: All matches.
        above: int32, the parent's matches.
        token: The new node's.
        depth: The new node's.
        listed: int32, the selected ones are written here.

    Returns:
        How many there are.
    """
    size = 0
    for i in range(min(len(above), len(listed))):
        match = above[i]
        if next_token(matches, match, depth - 1) == token and next_token(matches, match, depth) != GAP:
            listed[size] = match
            size += 1
    return size


@lean_kernel
def write_path(tail: Int32Array, tree: GrowingTree, node: Integer, run: Int32Array) -> int:
    """Write the request's last tokens and the path to `node` to the end of `run`; return how many."""
    begin, above = len(run), np.int64(node)
    while above > 0 and begin > 0:
        begin -= 1
        run[begin] = tree.token_ids[above]
        above = np.int64(tree.parents[above])
    before = len(tail)
    while before > 0 and begin > 0:
        begin -= 1
        before -= 1
        run[begin] = tail[before]
    return len(run) - begin


@lean_kernel
def predict_node(
    workspace: DraftWorkspace, node: Integer, own: TokenRing, guesses: Guesses, state: CalibrationState
) -> None:
    """Predict what follows a node; its matches are listed and its successors have been read."""
    listed = workspace.listed[workspace.ranges[node, 0] : workspace.ranges[node, 1]]
    depth = workspace.tree.depths[node]
    for i in range(len(listed)):
        workspace.votes[i] = next_token(workspace.matches, listed[i], depth)
    predict_next(
        workspace.predictions,
        node,
        workspace.tree.token_ids[node],
        own,
        workspace.matches,
        listed,
        workspace.votes,
        workspace.successors,
        depth,
        workspace.tree.probabilities[node],
        guesses,
        state,
    )


@lean_kernel
def read_alternatives(
    workspace: DraftWorkspace, node: Integer, of_root: Int32Array, successors: Int32Array
) -> None:
    """Write the model's other choices where a node's token was chosen: the row of its parent's token."""
    bucket = workspace.rows[workspace.tree.parents[node]] if node > 0 else NO_TOKEN
    for rank in range(ALTERNATIVES):
        if node == 0:
            workspace.alternatives[rank] = of_root[rank]
        else:
            workspace.alternatives[rank] = successors[bucket, rank] if bucket != NO_TOKEN else NO_TOKEN


@lean_kernel
def push_predictions(frontier: Frontier, workspace: DraftWorkspace, node: Integer, is_single: bool) -> None:
    """Push the candidates that were predicted at a node; only the best if `is_single`."""
    predictions, probability = workspace.predictions, workspace.tree.probabilities[node]
    begin, end = predictions.nodes[node, CANDIDATES_BEGIN], predictions.nodes[node, CANDIDATES_END]
    tokens, features, probabilities = predictions.tokens, predictions.features, predictions.probabilities
    if is_single and end > begin:
        begin += np.argmax(probabilities[begin:end])
        end = begin + 1
    for i in range(begin, end):
        source = source_of_feature(features[i])
        push(frontier, probability * probabilities[i], node, tokens[i], source, 0)


@lean_kernel
def match_node(
    own: TokenRing,
    shared: TokenRing,
    readable: Int32Array,
    tail: Int32Array,
    workspace: DraftWorkspace,
    node: Integer,
    found: int,
) -> int:
    """List a new node's matches: its parent's that agree, or those of a new search where they are few.

    Returns how many matches there are in all.
    """
    tree, matches, lists = workspace.tree, workspace.matches, workspace.listed
    ranges, run = workspace.ranges, workspace.run
    parent, begin = tree.parents[node], ranges[node - 1, 1]
    above = lists[ranges[parent, 0] : ranges[parent, 1]]
    size = select_agreeing(matches, above, tree.token_ids[node], tree.depths[node], lists[begin:])
    room = min(len(matches.ranks) - found, len(lists) - begin)
    is_probable = tree.probabilities[node] > MIN_REMATCH_PROBABILITY
    if size < FEW_MATCHES and is_probable and room >= MAX_MATCHES:
        length = write_path(tail, tree, node, run)
        before, depth = found, int(tree.depths[node])
        found = find_all_matches(own, shared, readable, run[len(run) - length :], depth, matches, found)
        sort_by_rank(matches, before, found, lists[begin:])
        size = found - before
    ranges[node, 0], ranges[node, 1] = begin, begin + size
    return found


@lean_kernel
def build_draft_tree(
    own: TokenRing,
    shared: TokenRing,
    keys: Int64Array,
    successors: Int32Array,
    readable: Int32Array,
    tail: Int32Array,
    runner_ups: RunnerUps,
    frequent: Int32Array,
    noise: Noise,
    state: CalibrationState,
    workspace: DraftWorkspace,
    max_nodes: int,
    branch_length: int,
    is_single: bool,
) -> int:
    """Build the draft tree under the last of the tokens `tail`; return its size.

    Args:
        own: The request's own log.
        shared: The log of all owners.
        keys: int64 [buckets], the keys of the model's successors, see `SuccessorTable`.
        successors: int32 [buckets, SUCCESSORS].
        readable: int32 [m], the owners that the request may read, its own first.
        tail: int32 [LONGEST_MATCH], the request's last tokens; GAPs before them where it has fewer.
        runner_ups: What the model nearly chose in the request.
        frequent: int32 [2, COUNTED], the counts of the tokens of answers, see `growth.frequent`.
        noise: What is known of the noise of the coming draws.
        state: What was learned about the sources.
        workspace: Written; it has room for `max_nodes`.
        max_nodes: The maximum size, node 0 included.
        branch_length: The maximum number of levels below node 0.
        is_single: Whether to draft a single branch.
    """
    tree, frontier = workspace.tree, reset_frontier(workspace.frontier, max_nodes)
    fill_table(workspace.ranks, frequent, runner_ups.tokens)
    guesses = Guesses(workspace.alternatives, runner_ups.tokens, frequent, workspace.ranks, noise)
    tree.token_ids[0], tree.parents[0], tree.depths[0], tree.probabilities[0] = tail[-1], -1, 0, 1.0
    found = find_all_matches(own, shared, readable, tail, 0, workspace.matches, 0)
    sort_by_rank(workspace.matches, 0, found, workspace.listed)
    workspace.ranges[0, 0], workspace.ranges[0, 1] = 0, found
    node = 0
    while True:
        depth = tree.depths[node]
        if depth < branch_length and would_accept(frontier, tree.probabilities[node] * MIN_CHILD_RATIO):
            token = tree.token_ids[node]
            workspace.rows[node] = read_successors(keys, successors, readable, token, workspace.successors)
            read_alternatives(workspace, node, runner_ups.alternatives, successors)
            predict_node(workspace, node, own, guesses, state)
            push_predictions(frontier, workspace, node, is_single)
        else:
            mark_unasked(workspace.predictions, node)
        node += 1
        if node >= max_nodes or not has_next(frontier):
            break
        row = pop_best(frontier, tree, node)
        workspace.sources[node] = frontier.nodes[row, SOURCE]
        found = match_node(own, shared, readable, tail, workspace, node, found)
    workspace.size[0] = node
    return node


@lean_kernel
def learn_from_draft(
    workspace: DraftWorkspace, tokens: Int32Array, state: CalibrationState, sources: Int32Array
) -> None:
    """Compare the last draft with the tokens that came, as far as it agrees with them.

    Args:
        workspace: Holds the draft.
        tokens: int32 [n], the tokens that came.
        state: What is learned about the sources.
        sources: int32 [n], set where a token was drafted; the last one was chosen after all drafted ones.
    """
    tree = workspace.tree
    node = np.int64(0)
    for i in range(len(tokens)):
        if node >= workspace.size[0]:
            break
        learn_at_node(workspace.predictions, node, tree.token_ids[node], tokens[i], state)
        child = node + 1
        while child < workspace.size[0] and not (
            tree.parents[child] == node and tree.token_ids[child] == tokens[i]
        ):
            child += 1
        node = child
        is_bonus = i + 1 == len(tokens)
        if node < workspace.size[0] and not is_bonus:
            sources[i] = workspace.sources[node]
