"""TokenLog as one would write it on paper: lists, slices and dicts, no chains of links, no cells reused.

A log is a list, cut at its old end to what the ring would hold. A search for matches goes over every cell,
newest first. All bounds of the search are modelled: matches per source, searches per draft, room in lists,
and the cells walked in a chain. The only thing hashed here is which cells are in one chain: each cell stores
the heads of the runs that end there (`heads_of`), because a token with the same head by accident lengthens a
walk, and hides how long ago the other one was seen. Arithmetic is done in the kernels' order.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from math import exp, log, sqrt

from lookahead.config import DraftMode
from lookahead.drafting.growth.best_first import MIN_PROBABILITY
from lookahead.drafting.growth.candidates import GUESSED, LUCKY, MIN_SHARE, OWN, RECYCLED, SHARED
from lookahead.drafting.growth.frequent import COUNTED, FREQUENT, new_counts
from lookahead.drafting.growth.ranks import RANK_BUCKETS, UNRANKED_BUCKET
from lookahead.drafting.growth.runner_ups import ALTERNATIVES, DECAY, KEPT, RUNNER_UPS
from lookahead.drafting.log import ring as log_ring
from lookahead.drafting.log import token_log
from lookahead.drafting.log.calibration import (
    AGES,
    BIASES,
    HINT_BIASES,
    INITIAL_SQUARES,
    LEARNING_RATE,
    LUCK_SLOPES,
    LUCKY_PLACE,
    MIN_EVIDENCE,
    NO_ALTERNATIVES,
    NO_SUCCESSORS,
    NONE_BIAS,
    NONE_SLOPE,
    NOT_ALTERNATIVE,
    PAIR_WEIGHTS,
    RANKS,
    SLOPES,
    SOURCES,
    TOKEN_WEIGHTS,
    UNRANKED,
    initial_weights,
    pair_column,
    token_column,
)
from lookahead.drafting.log.draft_tree import FEW_MATCHES, MIN_CHILD_RATIO, MIN_REMATCH_PROBABILITY
from lookahead.drafting.log.matches import (
    AHEAD,
    CROWDS,
    LENGTHS,
    LONGEST_MATCH,
    MAX_MATCHES,
    MAX_OWN,
    MAX_SHARED,
    MAX_WALKED,
    MAX_WALKED_IN_REMATCH,
    NO_OWNER,
    REMATCH_ORDERS,
    VARIETIES,
    VOCABULARY,
    initial_hit_rates,
)
from lookahead.drafting.log.prediction import MAX_NODE_CANDIDATES
from lookahead.drafting.log.ring import GAP, ORDERS, SMALLEST_RING, ring_bytes
from lookahead.drafting.log.sizing import affordable_tokens, divided
from lookahead.drafting.log.successors import SUCCESSORS
from lookahead.drafting.log.workspace import candidates_for, matches_for
from lookahead.drafting.noise import LUCKY_TOKENS, MEAN_LUCK
from lookahead.drafting.store import DEFAULT_NAMESPACE, VOCABULARY_NAMESPACE, Origin
from oracles.naive_trie import as_draft_tree, side_by_side


def heads_of(run, owner, per_order):
    """The heads of an owner's last 6, 4, 2 and 1 tokens of a run; None where it is shorter, or has a gap."""
    keys = [owner * 0xD1B54A32D192ED03 % 2**64]
    for token in reversed(run[-ORDERS[0] :]):
        if token == GAP:
            break
        mixed = (keys[-1] ^ (token + 1)) * 0x9E3779B97F4A7C15 % 2**64
        keys.append(mixed ^ (mixed >> 29))
    counts = [per_order, per_order, per_order, min(per_order, log_ring.MAX_SINGLE_HEADS)]
    return [keys[n] % count if n < len(keys) else None for n, count in zip(ORDERS, counts, strict=True)]


@dataclass
class Cell:
    token: int
    owner: int
    heads: list


class Log:
    """The newest tokens of a sequence, at most `capacity`."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.cells: list[Cell] = []
        self.written = 0  # ever, or since the indices were counted anew

    def make_room(self, count, max_tokens):
        before = self.capacity
        while self.capacity < self.written + count and 2 * self.capacity <= max_tokens:
            self.capacity *= 2
        if self.capacity > before or self.written + count > log_ring.MAX_INDEX:
            held, self.cells, self.written = self.cells, [], 0
            for cell in held:
                self.append([cell.token], cell.owner)

    def append(self, tokens, owner):
        for token in tokens:
            run = [*(cell.token for cell in self.cells[1 - ORDERS[0] :]), token]
            self.cells.append(Cell(token, owner, heads_of(run, owner, self.capacity // 2)))
            self.cells = self.cells[-self.capacity :]
            self.written += 1

    def chain(self, order, head):
        """Indices of the cells with this head for this order, newest first."""
        return [i for i in reversed(range(len(self.cells))) if self.cells[i].heads[order] == head]

    def match_length(self, last, run):
        """How many tokens, backwards from the index `last`, equal those at the end of `run`."""
        length = 0
        while length < min(len(run), last + 1) and self.cells[last - length].token == run[-1 - length]:
            length += 1
        return length

    def find(self, owner, run, max_matches, *, orders, max_walked):
        """[(the tokens that followed, length of the match)], longest orders and newest first."""
        found = []
        heads = heads_of(run, owner, self.capacity // 2)
        for i in range(orders):
            for last in self.chain(i, heads[i])[:max_walked] if heads[i] is not None else []:
                length = self.match_length(last, run)
                is_new = length >= ORDERS[i] and (i == 0 or length < ORDERS[i - 1])
                followed = self.continuation(last)
                if followed and self.cells[last].owner == owner and is_new and len(found) < max_matches:
                    found.append((followed, length))
        return found

    def continuation(self, last):
        tokens = [cell.token for cell in self.cells[last + 1 : last + 1 + AHEAD]]
        return tokens[: tokens.index(GAP)] if GAP in tokens else tokens

    def age(self, token):
        """How long ago a token was seen: 0 never, as far as is known, else 1 (long ago) to 4."""
        chain = self.chain(len(ORDERS) - 1, heads_of([token], NO_OWNER, self.capacity // 2)[-1])
        if not chain or self.cells[chain[0]].token != token:
            return 0
        ago = len(self.cells) - chain[0]
        return 4 if ago <= 16 else 3 if ago <= 64 else 2 if ago <= 256 else 1


class Successors:
    """The model's successors by (owner, token)."""

    def __init__(self, buckets, max_buckets):
        self.buckets = buckets
        self.max_buckets = max_buckets
        self.entries: dict[tuple[int, int], list[int]] = {}  # oldest first

    def write(self, owner, token, successors):
        if 2 * (len(self.entries) + 1) > self.buckets:
            if 2 * self.buckets <= self.max_buckets:
                self.buckets *= 2
            else:  # the older half is forgotten
                for key in list(self.entries)[: len(self.entries) // 2]:
                    del self.entries[key]
        self.entries.pop((owner, token), None)
        self.entries[owner, token] = list(successors)[:SUCCESSORS]

    def read(self, readable, token):
        owners = (*readable, VOCABULARY)
        return next((self.entries[o, token] for o in owners if self.entries.get((o, token))), [])


@dataclass
class Match:
    """An earlier occurrence in a log, seen from node 0: at a node of depth d add d to its length."""

    source: int
    followed: list[int]
    length: int
    origin: int

    @property
    def rank(self):
        return (-self.length, self.source)

    def next_token(self, depth):
        ahead = depth - self.origin
        return self.followed[ahead] if ahead < len(self.followed) else GAP


@dataclass
class Candidate:
    token: int
    feature: tuple[int, int, int]  # source, rank among the model's successors, age
    evidence: float
    hints: tuple[tuple[int, int, int, int], ...] = ()  # which, bucket, are successors known, is it node 0
    luck: float | None = None  # None where nothing is known of the noise
    probability: float = 0.0


@dataclass
class Prediction:
    """Node's token, candidates, groups as (counts of the hit rate, tokens), and the evidence of none."""

    after: int = -1
    candidates: list[Candidate] = field(default_factory=list)
    groups: list[tuple[list[float], list[int]]] = field(default_factory=list)
    rest: float = 0.0


class CalibrationState:
    """Hit rates as counts, weights as pairs of a value and the sum of its squared gradients, token counts."""

    def __init__(self, has_token_weights=False):
        self.hit_rates = initial_hit_rates().reshape(2, LENGTHS, VARIETIES, CROWDS, 2).tolist()
        pairs = initial_weights().T
        self.none_bias, self.none_slope = pairs[NONE_BIAS].tolist(), pairs[NONE_SLOPE].tolist()
        self.slopes = pairs[SLOPES:BIASES].tolist()
        self.biases = pairs[BIASES:HINT_BIASES].reshape(SOURCES, RANKS, AGES, 2).tolist()
        hints = pairs[HINT_BIASES:LUCK_SLOPES].reshape(-1, 2, 2, 2).tolist()
        places = ALTERNATIVES + 2
        self.hint_biases = (
            hints[:places],
            hints[places : places + RANK_BUCKETS],
            hints[places + RANK_BUCKETS : places + 2 * RANK_BUCKETS],
            hints[places + 2 * RANK_BUCKETS :],
        )
        self.luck_slopes = pairs[LUCK_SLOPES:].tolist()
        self.token_weights: dict[int, list[float]] | None = {} if has_token_weights else None  # by column
        self.counts: list[list[int]] = []  # [token, count], the highest count first

    def bias(self, feature):
        source, rank, age = feature
        return self.biases[source][rank][age]

    def hint_bias(self, hint):
        which, bucket, is_known, is_root = hint
        return self.hint_biases[which][bucket][is_known][is_root]

    def token_biases(self, after, token):
        """Of the token by itself and behind `after`."""
        if self.token_weights is None:
            return []
        columns = int(token_column(token)), int(pair_column(after, token))
        return [self.token_weights.setdefault(column, [0.0, INITIAL_SQUARES]) for column in columns]

    def count(self, token):
        place = next((i for i, (counted, _) in enumerate(self.counts) if counted == token), None)
        if place is None and len(self.counts) < COUNTED:
            self.counts.append([token, 0])
        place = len(self.counts) - 1 if place is None else place
        entry = self.counts.pop(place)
        entry[0], entry[1] = token, entry[1] + 1
        while place > 0 and self.counts[place - 1][1] < entry[1]:
            place -= 1
        self.counts.insert(place, entry)

    def frequent(self):
        return [token for token, _ in self.counts[:FREQUENT]]

    def bucket(self, source, length, offered, votes):
        variety = 0 if offered == 1 else 1 if offered == 2 else 2 if offered <= 5 else 3
        crowd = 0 if votes == 1 else 1 if votes <= 3 else 2 if votes <= 9 else 3
        return self.hit_rates[source][min(length, LONGEST_MATCH)][variety][crowd]

    def softmax(self, prediction):
        none = self.none_bias[0] + self.none_slope[0] * prediction.rest
        scores = [
            sum(
                (self.hint_bias(hint)[0] for hint in candidate.hints),
                self.slopes[candidate.feature[0]][0] * candidate.evidence + self.bias(candidate.feature)[0],
            )
            + self.luck_slopes[candidate.feature[0]][0] * (candidate.luck or 0.0)
            + sum(value for value, _ in self.token_biases(prediction.after, candidate.token))
            for candidate in prediction.candidates
        ]
        highest = max([none, *scores])
        total = exp(none - highest)
        for score in scores:
            total += exp(score - highest)
        for candidate, score in zip(prediction.candidates, scores, strict=True):
            candidate.probability = exp(score - highest) / total

    def learn(self, prediction, token):
        rest, missed = 1.0, 1.0
        for candidate in prediction.candidates:
            came = 1.0 if candidate.token == token else 0.0
            rest, missed = rest - candidate.probability, missed - came
            error = came - candidate.probability
            move(self.slopes[candidate.feature[0]], error * candidate.evidence)
            move(self.bias(candidate.feature), error)
            for hint in candidate.hints:
                move(self.hint_bias(hint), error)
            if candidate.luck is not None:
                move(self.luck_slopes[candidate.feature[0]], error * candidate.luck)
            for weight in self.token_biases(prediction.after, candidate.token):
                move(weight, error)
        if prediction.candidates:
            move(self.none_slope, (missed - rest) * prediction.rest)
            move(self.none_bias, missed - rest)
        for bucket, tokens in prediction.groups:
            bucket[0] += 1.0
            if token in tokens:
                bucket[1] += 1.0
                break


def move(weight, gradient):
    weight[1] += gradient * gradient
    weight[0] += LEARNING_RATE * gradient / sqrt(weight[1])


@dataclass
class Request:
    owner: int
    readable: list[int]
    calibration: CalibrationState
    alternatives: list[int] = field(default_factory=list)  # of the newest token
    runner_ups: list[list] = field(default_factory=list)  # [token, score], the highest score first
    own: Log | None = None  # None where the live requests left no room for it
    sequence: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    max_nodes: int = 1  # of all its drafts so far: there is room for as many
    draft: list[tuple[int, int, float, Prediction]] = field(default_factory=list)

    def note(self, rows, came):
        """Note the model's choices along the text, and what came instead."""
        for row, token in zip(rows, came, strict=True):
            kept = [[other, score * DECAY] for other, score in self.runner_ups]
            self.runner_ups = [entry for entry in kept if entry[1] >= 0.01]
            for rank, choice in enumerate(row[:ALTERNATIVES]):
                self.raise_score(choice, 1.0 / (1 + rank))
            self.runner_ups = [entry for entry in self.runner_ups if entry[0] != token]
        self.alternatives = list(rows[-1][:ALTERNATIVES]) if rows else self.alternatives

    def raise_score(self, token, score):
        ups = self.runner_ups
        place = next((i for i, (other, _) in enumerate(ups) if other == token), len(ups))
        if place < len(ups):
            score += ups.pop(place)[1]
        elif len(ups) == KEPT:
            if ups[-1][1] >= score:
                return
            ups.pop()
            place -= 1
        while place > 0 and ups[place - 1][1] < score:
            place -= 1
        ups.insert(place, [token, score])


class NaiveLog:
    def __init__(self, *, max_bytes, remember_prompts=False):
        self.max_counts = max(1, min(1024, max_bytes // 2**20))
        self.has_token_weights = max_bytes >= 2**26
        self.max_calibrations = min(1024, max_bytes // 2**22) if self.has_token_weights else self.max_counts
        self.calibrations: dict[int, CalibrationState] = {}  # the last one used is the last one
        self.counts: dict[int, list[list[int]]] = {}  # in the same order
        weights = initial_weights().nbytes + self.has_token_weights * 16 * (TOKEN_WEIGHTS + PAIR_WEIGHTS)
        learned = self.max_calibrations * (initial_hit_rates().nbytes + weights)
        learned += self.max_counts * new_counts().nbytes
        _, self.own_budget, self.max_shared, max_buckets = divided(max_bytes, learned_bytes=learned)
        self.shared = Log(min(token_log._FIRST_RING, self.max_shared))
        self.successors = Successors(min(token_log._FIRST_TABLE, max_buckets), max_buckets)
        self.remember_prompts = remember_prompts
        self.owners: dict[str, int] = {VOCABULARY_NAMESPACE: VOCABULARY}
        self.last_owner = VOCABULARY
        self.requests: dict[object, Request] = {}

    # what it remembers

    def owner(self, namespace):
        if namespace not in self.owners:
            self.last_owner += 1
            self.owners[namespace] = self.last_owner
        return self.owners[namespace]

    def open(self, name, *, namespace=DEFAULT_NAMESPACE, reads=()):
        owner = self.owner(namespace)
        others = [self.owners[read] for read in reads if read in self.owners and read != namespace]
        readable = list(dict.fromkeys([owner, *others]))
        self.requests[name] = Request(owner, readable, self.calibration(owner))
        return self.requests[name]

    def calibration(self, owner):
        """That of a namespace, which becomes the last one used."""
        calibration = self.calibrations.pop(owner, None) or CalibrationState(self.has_token_weights)
        self.calibrations[owner] = calibration
        calibration.counts = self.counts[owner] = self.counts.pop(owner, calibration.counts)
        if len(self.calibrations) > self.max_calibrations:
            del self.calibrations[next(iter(self.calibrations))]
        if len(self.counts) > self.max_counts:
            del self.counts[next(iter(self.counts))]
        return calibration

    def insert(self, name, tokens, origin):
        if not tokens:
            return
        request = self.requests[name] if name in self.requests else self.open(name)
        self.give_room(request, len(tokens))
        if origin is Origin.OUTPUT:
            self.learn(request, tokens)
        request.draft = []
        if request.own:
            request.own.append(tokens, NO_OWNER)
        request.sequence += tokens
        request.alternatives = []
        if origin is Origin.OUTPUT:
            for token in tokens:
                request.calibration.count(token)
        if origin is Origin.OUTPUT or self.remember_prompts:
            request.answer += tokens

    def give_room(self, request, count):
        if request.own and request.own.written + count <= request.own.capacity:
            return
        logs = [other.own for other in self.requests.values() if other is not request and other.own]
        taken = sum(ring_bytes(log.capacity) for log in logs) + ring_bytes(SMALLEST_RING)
        max_tokens = affordable_tokens(self.own_budget - taken)
        if request.own is None and max_tokens > 0:
            request.own = Log(SMALLEST_RING)
        if request.own:
            request.own.make_room(count, max_tokens)

    def recycle(self, name, tokens, successors, *, accepted=0):
        request = self.requests[name]
        if accepted:
            rows = [list(row) for row in successors[len(successors) - accepted :]]
            request.note(rows, [*tokens[len(tokens) - accepted + 1 :], request.sequence[-1]])
        for token, row in zip(tokens, successors, strict=True):
            self.successors.write(self.requests[name].owner, token, row)
        self.drop_names()

    def learn_vocabulary(self, successors):
        for token, row in enumerate(successors):
            self.successors.write(VOCABULARY, token, row)
        self.drop_names()

    def forget(self, name):
        request = self.requests.pop(name, None)
        if request and request.answer:
            self.append_shared(request.answer, request.owner)
        self.drop_names()

    def remember(self, tokens, namespace):
        if tokens:
            owner = self.owner(namespace)
            self.append_shared(tokens, owner)
            for token in tokens:
                self.calibration(owner).count(token)
            self.drop_names()

    def append_shared(self, tokens, owner):
        self.shared.make_room(len(tokens) + 1, self.max_shared)
        self.shared.append([*tokens, GAP], owner)

    def default_calibration(self):
        """What a snapshot has: that of the default namespace."""
        return self.calibrations.get(self.owners.get(DEFAULT_NAMESPACE)) or CalibrationState()

    def forget_namespace(self, namespace):
        owner = self.owners.get(namespace)
        self.calibrations.pop(owner, None)
        self.counts.pop(owner, None)
        for cell in self.shared.cells:
            if cell.owner == owner:
                cell.token, cell.owner = GAP, NO_OWNER
        entries = self.successors.entries
        self.successors.entries = {key: row for key, row in entries.items() if key[0] != owner}
        self.drop_names()

    def drop_names(self):
        """Of a namespace without a token, a successor or a live request, not even its name is left."""
        used = {VOCABULARY, *(cell.owner for cell in self.shared.cells if cell.token != GAP)}
        used.update(owner for owner, _ in self.successors.entries)
        used.update(owner for request in self.requests.values() for owner in request.readable)
        self.owners = {name: owner for name, owner in self.owners.items() if owner in used}

    def learn(self, request, tokens):
        node = 0 if request.draft else None
        for token in tokens:
            if node is None:
                break
            request.calibration.learn(request.draft[node][3], token)
            below = range(node + 1, len(request.draft))
            node = next((i for i in below if request.draft[i][:2] == (token, node)), None)

    # what it predicts

    def find(self, request, run, depth):
        """The matches of `run`, which ends at a node of this depth, highest rank first."""
        bounds = (
            {"orders": REMATCH_ORDERS, "max_walked": MAX_WALKED_IN_REMATCH}
            if depth
            else {"orders": len(ORDERS), "max_walked": MAX_WALKED}
        )
        run = run[-LONGEST_MATCH:]
        own = request.own.find(NO_OWNER, run, MAX_OWN, **bounds) if request.own else []
        shared = []
        for owner in request.readable:
            shared += self.shared.find(owner, run, MAX_SHARED - len(shared), **bounds)
        matches = [
            Match(source, followed, length - depth, depth)
            for source, found in [(OWN, own), (SHARED, shared)]
            for followed, length in found
        ]
        return sorted(matches, key=lambda match: match.rank)

    def predict(self, request, after, matches, depth, probability, successors, alternatives, noise):
        prediction = Prediction(after)
        left = 1.0
        known: set[int] = set()
        for (length, source), ranked in groupby(matches, key=lambda match: match.rank):
            if left <= MIN_SHARE:
                break
            votes = Counter(match.next_token(depth) for match in ranked)
            votes = {token: float(vote) for token, vote in votes.items() if token not in known}
            if not votes:
                continue
            count = sum(votes.values())
            bucket = request.calibration.bucket(source, depth - length, len(votes), count)
            share = left * (bucket[1] / bucket[0])
            left -= share
            known.update(votes)
            prediction.groups.append((bucket, list(votes)))
            for token, vote in votes.items():
                evidence = log(max(vote * (share / count), MIN_EVIDENCE))
                prediction.candidates.append(
                    Candidate(token, feature_index(source, token, successors, request), evidence)
                )
        prediction.rest = log(max(left, MIN_EVIDENCE))
        if left > MIN_SHARE:
            prediction.candidates += [
                Candidate(token, feature_index(RECYCLED, token, successors, request), prediction.rest)
                for token in dict.fromkeys(successors)
                if token not in known
            ]
            most = 8 if probability < 0.2 else 16 if probability < 0.5 else FREQUENT
            runner_ups = [token for token, _ in request.runner_ups[: RUNNER_UPS // 2]]
            guesses = [*alternatives, *runner_ups, *request.calibration.frequent()[:most]]
            prediction.candidates += [
                Candidate(token, feature_index(GUESSED, token, successors, request), prediction.rest)
                for token in dict.fromkeys(guesses if probability >= 0.1 else [])
                if token not in known and token not in successors
            ]
        lucky = [] if noise is None else lucky_tokens(noise)
        if left > MIN_SHARE and probability >= 0.2:
            known.update(candidate.token for candidate in prediction.candidates)
            prediction.candidates += [
                Candidate(
                    token,
                    feature_index(LUCKY, token, successors, request),
                    prediction.rest + log(frequency_of(token, len(noise))),
                )
                for token in lucky
                if token not in known
            ]
        for candidate in prediction.candidates:
            candidate.hints = hints_of(request, candidate.token, successors, alternatives, int(depth == 0))
            if noise is not None and candidate.token < len(noise):
                candidate.luck = -log(noise[candidate.token]) - MEAN_LUCK
                candidate.hints += (lucky_hint(candidate, lucky, successors, int(depth == 0)),)
        request.calibration.softmax(prediction)
        return prediction

    # what it drafts

    def propose(self, name, *, decoding_length, branch_length, mode, noise=()):
        """Draft; `noise` has the E of all tokens of each coming draw that is known."""
        request = self.requests[name]
        request.max_nodes = max(request.max_nodes, decoding_length)
        nodes = [(request.sequence[-1], -1, 0, 1.0)]
        lists = [self.find(request, request.sequence, 0)]
        predictions, rows = [], {}
        found = len(lists[0])
        max_found = matches_for(request.max_nodes)
        max_candidates = candidates_for(request.max_nodes) - MAX_NODE_CANDIDATES
        waiting = Waiting(decoding_length - 1)
        while True:
            node = len(nodes) - 1
            token, _, depth, probability = nodes[node]
            prediction = Prediction()
            if depth < branch_length and waiting.would_accept(probability * MIN_CHILD_RATIO):
                if sum(len(before.candidates) for before in predictions) <= max_candidates:
                    successors = self.successors.read(request.readable, token)
                    rows[node] = successors
                    alternatives = rows[nodes[node][1]] if node else request.alternatives
                    prediction = self.predict(
                        request,
                        token,
                        lists[node],
                        depth,
                        probability,
                        successors,
                        alternatives,
                        noise[depth] if depth < len(noise) else None,
                    )
                likely = prediction.candidates
                if mode is DraftMode.SINGLE and likely:
                    likely = [max(likely, key=lambda candidate: candidate.probability)]
                for candidate in likely:
                    waiting.push(probability * candidate.probability, node, candidate.token)
            predictions.append(prediction)
            if len(nodes) == decoding_length or not waiting.nodes:
                break
            probability, parent, token = waiting.pop()
            depth = nodes[parent][2] + 1
            nodes.append((token, parent, depth, probability))
            room = 4 * max_found - sum(map(len, lists))
            matches = [
                match
                for match in lists[parent]
                if match.next_token(depth - 1) == token and match.next_token(depth) != GAP
            ][:room]
            is_roomy = min(max_found - found, room) >= MAX_MATCHES
            if len(matches) < FEW_MATCHES and probability > MIN_REMATCH_PROBABILITY and is_roomy:
                matches = self.find(request, [*request.sequence, *path_to(nodes, len(nodes) - 1)], depth)
                found += len(matches)
            lists.append(matches)
        request.draft = [
            (token, parent, probability, prediction)
            for (token, parent, _, probability), prediction in zip(nodes, predictions, strict=True)
        ]
        return as_draft_tree(side_by_side(nodes, decoding_length) if mode is DraftMode.PARALLEL else nodes)


class Waiting:
    """The nodes that wait to be drafted; at most `capacity` will be."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.nodes = []  # (minus its probability, arrival, parent, token)
        self.ever = []  # minus the probability of each that ever came

    def would_accept(self, probability):
        """Whether a node would be among the first `capacity` of all that came so far."""
        if probability < MIN_PROBABILITY:
            return False
        return len(self.ever) < self.capacity or (
            self.capacity > 0 and -probability < sorted(self.ever)[self.capacity - 1]
        )

    def push(self, probability, parent, token):
        if probability >= MIN_PROBABILITY:
            self.nodes.append((-probability, len(self.ever), parent, token))
            self.ever.append(-probability)

    def pop(self):
        best = min(self.nodes)
        self.nodes.remove(best)
        return -best[0], best[2], best[3]


def feature_index(source, token, successors, request):
    rank = UNRANKED if successors else NO_SUCCESSORS
    if token in successors:
        rank = successors.index(token)
    return source, rank, request.own.age(token) if request.own else 0


def hints_of(request, token, successors, alternatives, is_root):
    place = alternatives.index(token) if token in alternatives else NOT_ALTERNATIVE
    frequent = request.calibration.frequent()
    runner_ups = [other for other, _ in request.runner_ups[:RUNNER_UPS]]
    buckets = [
        ranked.index(token).bit_length() if token in ranked else UNRANKED_BUCKET
        for ranked in (frequent, runner_ups)
    ]
    cases = int(bool(successors)), is_root
    return tuple(
        (which, bucket, *cases)
        for which, bucket in enumerate([place if alternatives else NO_ALTERNATIVES, *buckets])
    )


def frequency_of(token, vocabulary_size):
    return 1 / ((token + 200) * log((vocabulary_size + 200) / 200))


def lucky_tokens(noise):
    luck = [frequency_of(token, len(noise)) / exponential for token, exponential in enumerate(noise)]
    ranked = sorted(range(len(noise)), key=lambda token: -luck[token])
    return [token for token in ranked if luck[token] > 1 / 64][:LUCKY_TOKENS]


def lucky_hint(candidate, lucky, successors, is_root):
    bucket = lucky.index(candidate.token).bit_length() if candidate.token in lucky else UNRANKED_BUCKET
    bucket += RANK_BUCKETS if candidate.feature[0] == LUCKY else 0
    return LUCKY_PLACE, bucket, int(bool(successors)), is_root


def path_to(nodes, node):
    path = []
    while node > 0:
        path.insert(0, nodes[node][0])
        node = nodes[node][1]
    return path
