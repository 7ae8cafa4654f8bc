"""The published Lookahead retrieval (arXiv 2312.12728 and its code), re-implemented with its faults.

What it does, and TokenTrie does not:

- whatever follows an end-of-sequence token in the prompt is dropped: with chat templates, the user's words;
- a token of the answer is remembered only when `branch_length + 1` more have come;
- the last two tokens are the whole context, and a shorter match replaces a longer one's draft;
- branches of earlier prompts stay, with a count of nothing, until a squeeze, and fill drafts that have room;
- in a subtree larger than the draft only what answers say counts, never the prompt;
- nodes are taken depth first until the draft is full;
- nothing caps it: a token's own subtree is squeezed once 1,024 subtrees were touched.

One fault cannot show in replay: token id 0 taken for "none" in node 0.
"""

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree
from research.peers.peer import Peer, measured_bytes, tree_of

_OUTPUT_WEIGHT = 1e-4
_MAX_NODES = 65536
_MAX_OUTPUT_NODES = 512
_SQUEEZED_AT = 1024
_CONTEXT = 2


class _Node:
    """A token under its branch; what was seen of it in the prompt, and in answers."""

    __slots__ = ("children", "in_output", "in_prompt")

    def __init__(self) -> None:
        self.in_prompt = 0.0
        self.in_output = 0.0
        self.children: dict[int, _Node] = {}

    @property
    def weight(self) -> float:
        """What nodes are ordered by: the prompt's count, and a trace of the answers'."""
        return (1.0 - _OUTPUT_WEIGHT) * self.in_prompt + _OUTPUT_WEIGHT * self.in_output


class _Subtree:
    """All that followed one token."""

    __slots__ = ("children", "nodes", "output_nodes")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.nodes = 0
        self.output_nodes = 0

    def insert(self, branch: list[int], *, is_output: bool) -> None:
        """Count a branch, and make what is new of it."""
        children = self.children
        for token in branch:
            node = children.get(token)
            if node is None:
                node = children[token] = _Node()
                self.nodes += 1
                self.output_nodes += is_output
            if is_output:
                node.in_output += 1.0
            else:
                node.in_prompt += 1.0
            children = node.children

    def squeeze(self) -> None:
        """Halve the counts and drop what was seen in one answer or none, where the subtree is too large."""
        if self.nodes > _MAX_NODES or self.output_nodes > _MAX_OUTPUT_NODES:
            self.nodes = self.output_nodes = _squeezed(self.children)


class PublishedTrie(Peer):
    """The published trie, hierarchical drafts of one row.

    Args:
        branch_length: the deepest a draft goes.
        eos: the end-of-sequence token; 2 is what the published cache takes it for.
    """

    def __init__(self, branch_length: int = 12, eos: int = 2) -> None:
        self._branch_length = branch_length
        self._eos = eos
        self._subtrees: dict[int, _Subtree] = {}
        self._touched: set[_Subtree] = set()
        self._touched_by_prompt: set[_Subtree] = set()
        self._unlearned: list[int] = []
        self._context: list[int] = []

    def begin(self, prompt_ids: Int32Array) -> None:
        """Insert the prompt but for its first token, as far as the first end-of-sequence token."""
        tokens = prompt_ids.tolist()
        self._context = tokens[-_CONTEXT:]
        told = self._before_eos(tokens[1:])
        for place in range(len(told) - 1):
            if told[place] in self._subtrees:
                self._touched.add(self._subtrees[told[place]])
            self._touched_by_prompt.add(self._insert(told, place, is_output=False))

    def propose(self, draft_tokens: int, max_depth: int) -> DraftTree:
        """Return the first draft with a branch's length of tokens, or else the last one looked for."""
        levels = min(self._branch_length, max_depth)
        drafted: tuple[list[int], list[int]] = ([self._context[-1]], [-1])
        if levels > 0:
            for place, token in enumerate(self._context):
                subtree = self._subtrees.get(token)
                if subtree is None:
                    continue
                children = _followed(subtree.children, self._context[place + 1 :])
                drafted = _drafted(self._context[-1], children, draft_tokens + 1, levels)
                if len(drafted[0]) >= levels:
                    break
        return tree_of(*drafted, levels)

    def learn(self, token_ids: Int32Array) -> None:
        """Remember those tokens of the answer that a whole branch has followed by now."""
        self._context = (self._context + token_ids.tolist())[-_CONTEXT:]
        self._unlearned += self._before_eos(token_ids.tolist())
        self._learn_all_but(self._branch_length + 1)

    def end(self) -> None:
        """Remember the rest of the answer, take the prompt's counts back, squeeze what grew too large."""
        self._learn_all_but(1)
        self._unlearned = []
        for subtree in self._touched_by_prompt:
            _forget_prompt(subtree.children)
        self._touched_by_prompt.clear()
        if len(self._touched) >= _SQUEEZED_AT:
            for subtree in self._touched:
                subtree.squeeze()
            self._touched.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of all nodes."""
        return measured_bytes(self._subtrees)

    def _learn_all_but(self, last: int) -> None:
        learned = max(0, len(self._unlearned) - last)
        for place in range(learned):
            self._touched.add(self._insert(self._unlearned, place, is_output=True))
        self._unlearned = self._unlearned[learned:]

    def _insert(self, tokens: list[int], place: int, *, is_output: bool) -> _Subtree:
        subtree = self._subtrees.setdefault(tokens[place], _Subtree())
        subtree.insert(tokens[place + 1 : place + 2 + self._branch_length], is_output=is_output)
        return subtree

    def _before_eos(self, tokens: list[int]) -> list[int]:
        return tokens[: tokens.index(self._eos)] if self._eos in tokens else tokens


def _followed(children: dict[int, _Node], tokens: list[int]) -> dict[int, _Node]:
    """Return what follows `tokens`; nothing where neither this prompt nor an answer went that way."""
    for token in tokens:
        node = children.get(token)
        if node is None or node.weight == 0:
            return {}
        children = node.children
    return children


def _drafted(
    last_token: int, children: dict[int, _Node], max_nodes: int, levels: int
) -> tuple[list[int], list[int]]:
    """Return the draft's tokens and parents, depth first, the heaviest first."""
    min_output = _min_output(children, max_nodes)
    token_ids, parents = [last_token], [-1]

    def take(children: dict[int, _Node], parent: int, levels: int) -> None:
        if levels == 0:
            return
        for token, node in sorted(children.items(), key=lambda child: child[1].weight, reverse=True):
            if len(token_ids) >= max_nodes:
                return
            if node.in_output >= min_output:
                token_ids.append(token)
                parents.append(parent)
                take(node.children, len(token_ids) - 1, levels - 1)

    take(children, 0, levels)
    return token_ids, parents


def _min_output(children: dict[int, _Node], max_nodes: int) -> float:
    """Return how often answers must have said a node: where not all fit, as often as the middle one.

    A second threshold, meant for the prompt's nodes, is never set in the published code.
    """
    nodes: list[_Node] = []
    _collect(children, nodes)
    if len(nodes) <= max_nodes:
        return 0.0
    counts = sorted((node.in_output for node in nodes), reverse=True)
    return counts[max(max_nodes // 2, 1) - 1]


def _collect(children: dict[int, _Node], nodes: list[_Node]) -> None:
    """Append every node that this prompt or an answer has seen, parents first."""
    for node in children.values():
        if node.weight > 0:
            nodes.append(node)
            _collect(node.children, nodes)


def _forget_prompt(children: dict[int, _Node]) -> None:
    """Take the prompt's counts back; the nodes stay."""
    for node in children.values():
        if node.in_prompt > 0:
            node.in_prompt = 0.0
            _forget_prompt(node.children)


def _squeezed(children: dict[int, _Node]) -> int:
    """Halve the counts in answers, drop nodes that count no more than one; return how many are left."""
    left = 0
    for token, node in list(children.items()):
        if node.in_output > 1.0:
            node.in_output *= 0.5
            left += 1 + _squeezed(node.children)
        else:
            del children[token]
    return left
