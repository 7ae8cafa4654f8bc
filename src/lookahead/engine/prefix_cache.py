"""`PrefixCache`: blocks of what texts begin with, kept to be read once.

A block stands for `BLOCK_TOKENS` tokens behind certain tokens, in a namespace. Its key is a digest of all of
these, so that only the same beginning finds it:

    tokens    t0 … t63 | t64 … t127 | t128 …
    key 0     digest(namespace, t0 … t63)
    key 1     digest(key 0, t64 … t127)

The blocks that were used least recently go first; of one text, the last ones before the first.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

import numpy as np

Block = TypeVar("Block")
BLOCK_TOKENS = 64
"""Tokens of a block. With smaller ones more of a text would be found again, in more copies."""


class PrefixCache(Generic[Block]):
    """Blocks by the text that they belong to.

    Attributes:
        queries: Tokens that were looked for.
        hits: Tokens that were found.
    """

    def __init__(self) -> None:
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()  # least recently used first
        self.queries = self.hits = 0

    @property
    def tokens(self) -> int:
        """Tokens of all blocks."""
        return len(self._blocks) * BLOCK_TOKENS

    def find(self, namespace: str, tokens: Sequence[int]) -> list[Block]:
        """Return the blocks that a prompt begins with.

        Its last token is never among them: it has to be read for the logits after it.
        """
        held = []
        for key in _keys(namespace, tokens[:-1]):
            if key not in self._blocks:
                break
            held.append(key)
        self._touch(held)
        self.queries += len(tokens)
        self.hits += len(held) * BLOCK_TOKENS
        return [self._blocks[key] for key in held]

    def add(self, namespace: str, tokens: Sequence[int], make: Callable[[int], Block]) -> None:
        """Keep the blocks of a text that are not held yet.

        Args:
            namespace: Whose text it is.
            tokens: The text; what is left of the last block is not kept.
            make: Returns the block that begins at a token.
        """
        keys = _keys(namespace, tokens)
        held: list[bytes] = []
        try:
            for index, key in enumerate(keys):
                if key not in self._blocks:
                    self._blocks[key] = make(index * BLOCK_TOKENS)
                held.append(key)
        finally:  # memory may run out in between: what is held is found again only in this order
            self._touch(held)

    def shrink(self, max_tokens: int) -> None:
        """Give up blocks until they have at most so many tokens."""
        while self._blocks and self.tokens > max_tokens:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Give up all blocks."""
        self._blocks.clear()

    def _touch(self, keys: Sequence[bytes]) -> None:
        """Note that a text's blocks were used: the first ones last, as the others are found behind them."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)


def _keys(namespace: str, tokens: Sequence[int]) -> list[bytes]:
    """Return the keys of a text's whole blocks."""
    whole = np.asarray(tokens, np.int64)[: len(tokens) // BLOCK_TOKENS * BLOCK_TOKENS]
    key = blake2b(namespace.encode(), digest_size=32).digest()
    keys = []
    for block in whole.reshape(-1, BLOCK_TOKENS):
        key = blake2b(key + block.tobytes(), digest_size=32).digest()
        keys.append(key)
    return keys
