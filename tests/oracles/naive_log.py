"""TokenLog as one would write it on paper: lists and slices, nothing hashed, no chains, no places reused.

A log is a list, cut at its old end to what the ring would hold. Matches are found by looking at every place,
newest first. What bounds the search is modelled (matches kept of each source, places walked in a chain, fresh
looks, room in the lists), but for one thing: places that share a hash slot by chance are walked here for
nothing and only cost the kernels some of their walk, so tests keep chains shorter than MOST_WALKED or free of
such places. Arithmetic is done in the kernels' order, so that draft trees are equal to the last bit.
"""

from dataclasses import dataclass, field
from itertools import groupby

from lookahead.config import DraftMode
from lookahead.drafting import token_log
from lookahead.drafting.best_first import LEAST_CHANCE
from lookahead.drafting.candidates import LEAST_SHARE
from lookahead.drafting.log_growth import FEW_MATCHES, MOST_LOOKS, WORTH_A_LOOK
from lookahead.drafting.log_matches import (
    LONGEST_MATCH,
    MOST_OWN,
    MOST_SHARED,
    MOST_WALKED,
    initial_log_trust,
)
from lookahead.drafting.log_ring import GAP, ORDERS, SMALLEST_RING, ring_bytes
from lookahead.drafting.store import Origin
from oracles.naive_trie import as_draft_tree, side_by_side

OWN, SHARED = 0, 1
MOST_AT_ONCE = MOST_OWN + MOST_SHARED


class Log:
    """The newest tokens of a sequence, at most `capacity`."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.tokens = []
        self.written = 0  # ever, or since the places were counted anew

    def make_room(self, count, most):
        before = self.capacity
        while self.capacity < self.written + count and 2 * self.capacity <= most:
            self.capacity *= 2
        if self.capacity > before or self.written + count > token_log._LATEST_PLACE:
            self.written = len(self.tokens)

    def append(self, tokens):
        self.written += len(tokens)
        self.tokens = [*self.tokens, *tokens][-self.capacity :]

    def agreement(self, last, run):
        """How many tokens up to and at the place `last` agree with the end of `run`."""
        length = 0
        while length < min(len(run), last + 1) and self.tokens[last - length] == run[-1 - length]:
            length += 1
        return length

    def find(self, run, most):
        """[(place of the token that followed, length of the match)], longest orders and newest first."""
        lengths = [(place, self.agreement(place, run)) for place in reversed(range(len(self.tokens)))]
        found = []
        for order, longer in zip(ORDERS, (LONGEST_MATCH + 1, *ORDERS), strict=False):
            chain = [(place, length) for place, length in lengths if length >= order]
            for place, length in chain[:MOST_WALKED]:
                goes_on = place + 1 < len(self.tokens) and self.tokens[place + 1] != GAP
                if goes_on and length < longer and len(found) < most:
                    found.append((place + 1, length))
        return found


@dataclass
class Match:
    """A place in a log, as seen from node 0: at a node of depth d add d to place and length."""

    source: int
    log: Log
    place: int
    length: int

    @property
    def rank(self):
        return (-self.length, self.source)

    def next_token(self, depth):
        place = self.place + depth
        return self.log.tokens[place] if place < len(self.log.tokens) else GAP


@dataclass
class Request:
    own: Log | None = None  # None where the live requests left no room for it
    sequence: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)


class NaiveLog:
    def __init__(self, *, memory_bytes, first_ring):
        self.budget = (memory_bytes - initial_log_trust().nbytes) // 2
        self.shared = Log(min(first_ring, affordable_tokens(self.budget)))
        self.requests: dict[object, Request] = {}
        self.trust: dict[tuple[int, int, int, int], list[float]] = {}

    # what it remembers

    def insert(self, name, tokens, origin):
        if not tokens:
            return
        request = self.requests.setdefault(name, Request())
        self.give_room(request, len(tokens))
        for token in tokens:
            if request.own:
                if origin is Origin.OUTPUT:
                    self.learn_trust(request, token)
                request.own.append([token])
            request.sequence.append(token)
        if origin is Origin.OUTPUT:
            request.answer += tokens

    def give_room(self, request, count):
        logs = [other.own for other in self.requests.values() if other is not request and other.own]
        taken = sum(ring_bytes(log.capacity) for log in logs) + ring_bytes(SMALLEST_RING)
        most = affordable_tokens(self.budget - taken)
        if request.own is None and most > 0:
            request.own = Log(SMALLEST_RING)
        if request.own:
            request.own.make_room(count, most)

    def forget(self, name):
        request = self.requests.pop(name, None)
        if request and request.answer:
            answer = [*request.answer, GAP]
            self.shared.make_room(len(answer), affordable_tokens(self.budget))
            self.shared.append(answer)

    # what it predicts

    def find(self, request, run, depth):
        """The matches of `run`, which ends at a node of this depth, highest rank first."""
        logs = [(OWN, request.own, MOST_OWN), (SHARED, self.shared, MOST_SHARED)]
        matches = [
            Match(source, log, place - depth, length - depth)
            for source, log, most in logs
            if log
            for place, length in log.find(run[-LONGEST_MATCH:], most)
        ]
        return sorted(matches, key=lambda match: match.rank)

    def predict(self, matches, depth):
        """[(trust bucket, {token: chance})] for every rank of matches that adds a token."""
        left = 1.0
        known: set[int] = set()
        stages = []
        for (length, source), ranked in groupby(matches, key=lambda match: match.rank):
            if left <= LEAST_SHARE:
                break
            votes: dict[int, float] = {}
            for token in [match.next_token(depth) for match in ranked]:
                if token not in known:
                    votes[token] = votes.get(token, 0.0) + 1.0
            if not votes:
                continue
            count = sum(votes.values())
            bucket = self.bucket(source, min(depth - length, LONGEST_MATCH), len(votes), count)
            share = left * (bucket[1] / bucket[0])
            left -= share
            known.update(votes)
            stages.append((bucket, {token: vote * (share / count) for token, vote in votes.items()}))
        return stages

    def bucket(self, source, length, offered, votes):
        variety = 0 if offered == 1 else 1 if offered == 2 else 2 if offered <= 5 else 3
        crowd = 0 if votes == 1 else 1 if votes <= 3 else 2 if votes <= 9 else 3
        return self.trust.setdefault(
            (source, length, variety, crowd), [3.0, 3.0 * min(0.95, 0.25 + 0.1 * length)]
        )

    def learn_trust(self, request, token):
        for bucket, chances in self.predict(self.find(request, request.sequence, 0), 0):
            bucket[0] += 1.0
            if token in chances:
                bucket[1] += 1.0
                break

    # what it drafts

    def propose(self, name, *, decoding_length, branch_length, mode):
        request = self.requests[name]
        nodes = [(request.sequence[-1], -1, 0, 1.0)]
        lists = [self.find(request, request.sequence, 0)]
        found = len(lists[0])
        most_found = MOST_AT_ONCE * (1 + min(decoding_length, MOST_LOOKS))
        waiting = []  # (minus its chance, arrival, parent, token)
        arrivals = 0
        while True:
            node = len(nodes) - 1
            if nodes[node][2] < branch_length:
                stages = self.predict(lists[node], nodes[node][2])
                chances = [pair for _, stage in stages for pair in stage.items()]
                if mode is DraftMode.SINGLE and chances:
                    chances = [max(chances, key=lambda pair: pair[1])]
                for token, chance in chances:
                    if nodes[node][3] * chance >= LEAST_CHANCE:
                        waiting.append((-(nodes[node][3] * chance), arrivals, node, token))
                        arrivals += 1
            if len(nodes) == decoding_length or not waiting:
                break
            best = min(waiting)
            waiting.remove(best)
            chance, _, parent, token = best
            depth = nodes[parent][2] + 1
            nodes.append((token, parent, depth, -chance))
            room = 4 * most_found - sum(map(len, lists))
            matches = [
                match
                for match in lists[parent]
                if match.next_token(depth - 1) == token and match.next_token(depth) != GAP
            ][:room]
            if (
                len(matches) < FEW_MATCHES
                and -chance > WORTH_A_LOOK
                and min(most_found - found, room) >= MOST_AT_ONCE
            ):
                matches = self.find(request, [*request.sequence, *path_to(nodes, len(nodes) - 1)], depth)
                found += len(matches)
            lists.append(matches)
        return as_draft_tree(side_by_side(nodes, decoding_length) if mode is DraftMode.PARALLEL else nodes)


def path_to(nodes, node):
    path = []
    while node > 0:
        path.insert(0, nodes[node][0])
        node = nodes[node][1]
    return path


def affordable_tokens(budget):
    """The largest power of two of tokens, SMALLEST_RING at least, whose ring fits the budget, or 0."""
    fitting = [SMALLEST_RING << i for i in range(40) if ring_bytes(SMALLEST_RING << i) <= budget]
    return max(fitting, default=0)
