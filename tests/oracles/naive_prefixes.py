"""The prefix cache as a list of whole beginnings, the one that was used least recently first."""

from collections.abc import Sequence

Beginning = tuple[str, tuple[int, ...]]


class NaivePrefixes:
    """Beginnings of texts; each stands for its last block.

    Args:
        block_tokens: Tokens of a block.
    """

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.held: list[Beginning] = []

    def beginnings(self, namespace: str, tokens: Sequence[int]) -> list[Beginning]:
        """Return the text's beginnings of whole blocks, shortest first."""
        ends = range(self.block_tokens, len(tokens) + 1, self.block_tokens)
        return [(namespace, tuple(tokens[:end])) for end in ends]

    def find(self, namespace: str, tokens: Sequence[int]) -> list[Beginning]:
        found = []
        for beginning in self.beginnings(namespace, tokens[:-1]):
            if beginning not in self.held:
                break
            found.append(beginning)
        self.use(found)
        return found

    def add(self, namespace: str, tokens: Sequence[int]) -> None:
        self.use(self.beginnings(namespace, tokens))

    def use(self, beginnings: list[Beginning]) -> None:
        self.held = [one for one in self.held if one not in beginnings] + beginnings[::-1]

    def shrink(self, max_tokens: int) -> None:
        while len(self.held) * self.block_tokens > max_tokens:
            self.held.pop(0)
