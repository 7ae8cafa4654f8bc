"""The published Lookahead retrieval (arXiv 2312.12728 and its code), re-implemented with its faults.

It differs from TokenTrie in this:

- it drops everything after an end-of-sequence token in the prompt: with chat templates, the user's message;
- it inserts a token of the answer only after `branch_length + 1` more tokens;
- it matches only the last two tokens, and a shorter match replaces the draft of a longer one;
- branches of earlier prompts stay with a count of 0 until a squeeze, and fill drafts that have room;
- in a subtree larger than the draft only the counts of answers matter, not the prompt's;
- it takes nodes depth first until the draft is full;
- it has no cap: the subtree of a token is squeezed after 1,024 subtrees were touched.

One fault does not occur in replay: token id 0 means "none" in node 0.
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
    """A token below its branch, with its counts in the prompt and in answers."""

    __slots__ = ("children", "in_output", "in_prompt")

    def __init__(self) -> None:
        self.in_prompt = 0.0
        self.in_output = 0.0
        self.children: dict[int, _Node] = {}

    @property
    def weight(self) -> float:
        """The order of nodes: the prompt's count, with a small share of the answers' count."""
        return (1.0 - _OUTPUT_WEIGHT) * self.in_prompt + _OUTPUT_WEIGHT * self.in_output


class _Subtree:
    """The tree of everything that followed one token."""

    __slots__ = ("children", "nodes", "output_nodes")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.nodes = 0
        self.output_nodes = 0

    def insert(self, branch: list[int], *, is_output: bool) -> None:
        """Count a branch, and add its new nodes."""
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
        """If the subtree is too large, halve the counts and drop nodes seen in at most one answer."""
        if self.nodes > _MAX_NODES or self.output_nodes > _MAX_OUTPUT_NODES:
            self.nodes = self.output_nodes = _squeezed(self.children)


class PublishedTrie(Peer):
    """The published trie, with hierarchical drafts of one row.

    Args:
        branch_length: Maximum depth of a draft.
        eos: The end-of-sequence token; 2 in the published cache.
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
        """Insert the prompt without its first token, up to the first end-of-sequence token."""
        tokens = prompt_ids.tolist()
        self._context = tokens[-_CONTEXT:]
        kept = self._before_eos(tokens[1:])
        for start in range(len(kept) - 1):
            if kept[start] in self._subtrees:
                self._touched.add(self._subtrees[kept[start]])
            self._touched_by_prompt.add(self._insert(kept, start, is_output=False))

    def propose(self, draft_tokens: int, max_depth: int) -> DraftTree:
        """Return the first draft of at least `branch_length` tokens, else the last draft."""
        levels = min(self._branch_length, max_depth)
        drafted: tuple[list[int], list[int]] = ([self._context[-1]], [-1])
        if levels > 0:
            for index, token in enumerate(self._context):
                subtree = self._subtrees.get(token)
                if subtree is None:
                    continue
                children = _followed(subtree.children, self._context[index + 1 :])
                drafted = _drafted(self._context[-1], children, draft_tokens + 1, levels)
                if len(drafted[0]) >= levels:
                    break
        return tree_of(*drafted, levels)

    def learn(self, token_ids: Int32Array) -> None:
        """Insert the tokens of the answer that are followed by a whole branch by now."""
        self._context = (self._context + token_ids.tolist())[-_CONTEXT:]
        self._unlearned += self._before_eos(token_ids.tolist())
        self._learn_all_but(self._branch_length + 1)

    def end(self) -> None:
        """Insert the rest of the answer, remove the prompt's counts, squeeze large subtrees."""
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
        for start in range(learned):
            self._touched.add(self._insert(self._unlearned, start, is_output=True))
        self._unlearned = self._unlearned[learned:]

    def _insert(self, tokens: list[int], start: int, *, is_output: bool) -> _Subtree:
        subtree = self._subtrees.setdefault(tokens[start], _Subtree())
        subtree.insert(tokens[start + 1 : start + 2 + self._branch_length], is_output=is_output)
        return subtree

    def _before_eos(self, tokens: list[int]) -> list[int]:
        return tokens[: tokens.index(self._eos)] if self._eos in tokens else tokens


def _followed(children: dict[int, _Node], tokens: list[int]) -> dict[int, _Node]:
    """Return the nodes after `tokens`; none if neither this prompt nor an answer has this path."""
    for token in tokens:
        node = children.get(token)
        if node is None or node.weight == 0:
            return {}
        children = node.children
    return children


def _drafted(
    last_token: int, children: dict[int, _Node], max_nodes: int, levels: int
) -> tuple[list[int], list[int]]:
    """Return the draft's tokens and parents, depth first, by descending weight."""
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
    """Return the minimum count of a node in answers: if not all nodes fit, the count of the middle node.

    The published code never sets a second threshold, meant for the prompt's nodes.
    """
    nodes: list[_Node] = []
    _collect(children, nodes)
    if len(nodes) <= max_nodes:
        return 0.0
    counts = sorted((node.in_output for node in nodes), reverse=True)
    return counts[max(max_nodes // 2, 1) - 1]


def _collect(children: dict[int, _Node], nodes: list[_Node]) -> None:
    """Append every node with a count, parents first."""
    for node in children.values():
        if node.weight > 0:
            nodes.append(node)
            _collect(node.children, nodes)


def _forget_prompt(children: dict[int, _Node]) -> None:
    """Reset the prompt's counts; the nodes stay."""
    for node in children.values():
        if node.in_prompt > 0:
            node.in_prompt = 0.0
            _forget_prompt(node.children)


def _squeezed(children: dict[int, _Node]) -> int:
    """Halve the counts in answers, drop nodes with a count of at most 1; return the number of nodes left."""
    left = 0
    for token, node in list(children.items()):
        if node.in_output > 1.0:
            node.in_output *= 0.5
            left += 1 + _squeezed(node.children)
        else:
            del children[token]
    return left
