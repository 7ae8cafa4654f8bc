"""TokenTrie as one would write it on paper: dicts and slices, nothing hashed by hand, no suffix links.

A run of tokens is a tuple; a trie is the dict of the runs it knows. What follows a context is looked up by
slicing. Arithmetic is done in the kernels' order, so that draft trees are equal to the last bit.
"""

from dataclasses import dataclass, field
from math import ceil

import numpy as np

from lookahead.config import DraftMode
from lookahead.drafting.growth.best_first import MIN_PROBABILITY
from lookahead.drafting.growth.candidates import MAX_CANDIDATES, MIN_SHARE
from lookahead.drafting.store import Origin
from lookahead.drafting.tree import DraftTree
from lookahead.drafting.trie.pruning import LATEST_CLOCK
from lookahead.drafting.trie.retrieval import MAX_CHILDREN

Run = tuple[int, ...]
OWN, SHARED = 0, 1


@dataclass
class Node:
    seen: int = 0
    stamp: int = 0
    children: list[int] = field(default_factory=list)  # most recently seen first


class Runs(dict):
    """The runs of one trie; the empty run is its root, and always there."""

    def __init__(self):
        super().__init__({(): Node()})

    def suffixes(self, run: Run) -> list[Run]:
        """The known suffixes of a run, longest first, the root last."""
        return [run[i:] for i in range(len(run) + 1) if run[i:] in self]

    def visit(self, context: Run, token: int, stamp: int) -> None:
        node = self.setdefault((*context, token), Node())
        node.seen += 1
        node.stamp = stamp
        siblings = self[context].children
        if token in siblings:
            siblings.remove(token)
        siblings.insert(0, token)


@dataclass
class Request:
    own: Runs | None = None  # None where no node was left for its root
    own_context: Run = ()
    shared_context: Run = ()
    last_token: int = -1


class NaiveTrie:
    def __init__(self, *, context_length, max_nodes, stop_words=frozenset()):
        self.deepest = context_length + 1
        self.max_nodes = max_nodes
        self.stop_words = stop_words
        self.shared = Runs()
        self.requests: dict[object, Request] = {}
        self.hit_rates: dict[tuple[int, int, int], list[float]] = {}
        self.clock = 0
        self.disturbed = False
        """Whether counts stopped telling how often a parent was seen: pruned, full, or the clock set back."""

    # what it remembers

    @property
    def node_count(self):
        tries = [self.shared, *(request.own for request in self.requests.values() if request.own)]
        return 1 + sum(len(trie) for trie in tries)  # and the root of those that found no room

    def insert(self, name, tokens, origin):
        if not tokens:
            return
        if self.clock >= LATEST_CLOCK:
            self.set_clock_back(LATEST_CLOCK // 2)
        request = self.requests.setdefault(name, Request())
        if request.own is None and self.make_room():
            request.own, request.own_context = Runs(), ()
        for token in tokens:
            if self.make_room():
                self.insert_token(request, token, is_output=origin is Origin.OUTPUT)
            else:
                self.disturbed = True
                self.follow_token(request, token, is_output=origin is Origin.OUTPUT)
            request.last_token = token

    def insert_token(self, request, token, *, is_output):
        if is_output:
            self.learn_hit_rates(request, token)
            request.shared_context = self.extend(self.shared, request.shared_context, token)
        else:
            request.shared_context = ()
        request.own_context = self.extend(request.own, request.own_context, token)

    def follow_token(self, request, token, *, is_output):
        request.own_context = self.advance(request.own, request.own_context, token)
        request.shared_context = self.advance(self.shared, request.shared_context, token) if is_output else ()

    def is_context(self, run):
        return len(run) < self.deepest and not (len(run) == 1 and run[0] in self.stop_words)

    def extend(self, trie, context, token):
        self.clock += 1
        contexts = [run for run in trie.suffixes(context) if self.is_context(run)]
        for run in contexts:
            trie.visit(run, token, self.clock)
        return (*contexts[0], token)

    def advance(self, trie, context, token):
        if trie is None:
            return ()
        for run in trie.suffixes(context):
            if self.is_context(run) and (*run, token) in trie:
                return (*run, token)
        return ()

    def forget(self, name):
        self.requests.pop(name, None)

    # what it forgets

    def make_room(self):
        while self.max_nodes - self.node_count < 2 * self.deepest:
            if len(self.shared) == 1:
                return False
            self.prune(share=0.25)
        return True

    def prune(self, share):
        self.disturbed = True
        strengths = {run: (node.seen, node.stamp) for run, node in self.shared.items() if run}
        drop = max(1, ceil(len(strengths) * share))
        threshold = sorted(strengths.values())[drop - 1]
        for run in sorted(strengths, key=len):
            if strengths[run] <= threshold or run[:-1] not in self.shared:
                del self.shared[run]
                if run[:-1] in self.shared:
                    self.shared[run[:-1]].children.remove(run[-1])
            else:
                self.shared[run].seen = max(1, self.shared[run].seen // 2)
        for request in self.requests.values():
            request.shared_context = self.shared.suffixes(request.shared_context)[0]

    def set_clock_back(self, elapsed):
        self.disturbed = True
        self.clock -= elapsed
        for trie in [self.shared, *(request.own for request in self.requests.values() if request.own)]:
            for node in trie.values():
                node.stamp = max(0, node.stamp - elapsed)
                node.seen = (node.seen + 1) // 2

    # what it predicts

    def asked_contexts(self, own, own_context, shared_context):
        """(source, trie, run) of every context that is asked, longest first, the request's own first."""
        contexts = [
            (source, trie, run)
            for source, trie, context in ((OWN, own, own_context), (SHARED, self.shared, shared_context))
            if trie is not None
            for run in trie.suffixes(context)
            if run and self.is_context(run)
        ]
        return sorted(contexts, key=lambda asked: (-len(asked[2]), asked[0]))

    def predict(self, own, own_context, shared_context):
        """[(hit rate's counts, {token: probability})] for every context that adds a token."""
        left = 1.0
        known: set[int] = set()
        stages = []
        for source, trie, run in self.asked_contexts(own, own_context, shared_context):
            if left <= MIN_SHARE or len(known) >= MAX_CANDIDATES:
                break
            new = [token for token in trie[run].children[:MAX_CHILDREN] if token not in known]
            new = new[: MAX_CANDIDATES - len(known)]
            if not new:
                continue
            weights = [float(trie[(*run, token)].seen) for token in new]
            variety = 0 if len(new) == 1 else 1 if len(new) == 2 else 2 if len(new) <= 5 else 3
            bucket = self.hit_rates.setdefault(
                (source, len(run), variety), [10.0, 10.0 * min(0.95, 0.25 + 0.1 * len(run))]
            )
            share = left * (bucket[1] / bucket[0])
            scale = share / sum(weights)
            left -= share
            known.update(new)
            stages.append((bucket, dict(zip(new, [weight * scale for weight in weights], strict=True))))
        return stages

    def learn_hit_rates(self, request, token):
        for bucket, probabilities in self.predict(request.own, request.own_context, request.shared_context):
            bucket[0] += 1.0
            if token in probabilities:
                bucket[1] += 1.0
                break

    # what it drafts

    def propose(self, name, *, decoding_length, branch_length, mode):
        request = self.requests[name]
        nodes = [(request.last_token, -1, 0, 1.0)]
        contexts = [(request.own_context, request.shared_context)]
        waiting = []  # (minus its probability, arrival, parent, token)
        arrivals = 0
        while True:
            node = len(nodes) - 1
            if nodes[node][2] < branch_length:
                stages = self.predict(request.own, *contexts[node])
                probabilities = [pair for _, stage in stages for pair in stage.items()]
                if mode is DraftMode.SINGLE and probabilities:
                    probabilities = [max(probabilities, key=lambda pair: pair[1])]
                for token, probability in probabilities:
                    if nodes[node][3] * probability >= MIN_PROBABILITY:
                        waiting.append((-(nodes[node][3] * probability), arrivals, node, token))
                        arrivals += 1
            if len(nodes) == decoding_length or not waiting:
                break
            best = min(waiting)
            waiting.remove(best)
            _, _, parent, token = best
            nodes.append((token, parent, nodes[parent][2] + 1, -best[0]))
            own_context, shared_context = contexts[parent]
            contexts.append(
                (
                    self.advance(request.own, own_context, token),
                    self.advance(self.shared, shared_context, token),
                )
            )
        return as_draft_tree(side_by_side(nodes, decoding_length) if mode is DraftMode.PARALLEL else nodes)


def side_by_side(nodes, max_nodes):
    parents = {parent for _, parent, _, _ in nodes}
    laid = nodes[:1]
    for leaf in range(1, len(nodes)):
        if leaf in parents:
            continue
        path, node = [], leaf
        while node > 0:
            path.insert(0, node)
            node = nodes[node][1]
        for depth, node in enumerate(path, start=1):
            if len(laid) < max_nodes:
                laid.append((nodes[node][0], len(laid) - 1 if depth > 1 else 0, depth, nodes[node][3]))
    return laid


def as_draft_tree(nodes):
    tokens, parents, depths, probabilities = zip(*nodes, strict=True)
    return DraftTree(
        np.array(tokens, np.int32),
        np.array(parents, np.int32),
        np.array(depths, np.int32),
        np.array(probabilities, np.float64),
    )
