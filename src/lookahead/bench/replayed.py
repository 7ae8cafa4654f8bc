"""What can be replayed: our stores, and the simplest of the other systems for comparison.

To add one: write a class as `ReplayedDrafter` asks, and give it a line in `REPLAYED`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from lookahead.bench.replay import ReplayedDrafter
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.store import DraftStore, Origin
from lookahead.drafting.token_log import TokenLog
from lookahead.drafting.token_trie import TokenTrie
from lookahead.drafting.tree import DraftTree, Int32Array
from lookahead.errors import ConfigError

_REQUEST = "replayed"


class StoreDrafter:
    """One of our draft stores.

    Args:
        store: it remembers from request to request.
        config: branch length and mode.
    """

    def __init__(self, store: DraftStore, config: LookaheadConfig) -> None:
        self._store = store
        self._config = config

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request."""
        self._store.insert(_REQUEST, prompt_ids, Origin.PROMPT)

    def propose(self, draft_tokens: int, most_levels: int) -> DraftTree:
        """Return the store's draft."""
        return self._store.propose(
            _REQUEST,
            decoding_length=draft_tokens + 1,
            branch_length=min(self._config.branch_length, most_levels),
            mode=self._config.mode,
        )

    def learn(self, token_ids: Int32Array) -> None:
        """Insert tokens of the answer."""
        self._store.insert(_REQUEST, token_ids, Origin.OUTPUT)

    def end(self) -> None:
        """Forget the request."""
        self._store.forget(_REQUEST)

    @property
    def nbytes(self) -> int:
        """Bytes of the store."""
        return self._store.nbytes


class PromptLookup:
    """transformers' prompt lookup: copy what followed the first earlier occurrence of the last tokens.

    Args:
        longest_match: n-grams of so many tokens are looked for first, then shorter ones.
        most_tokens: the most tokens copied.
    """

    def __init__(self, longest_match: int = 3, most_tokens: int = 10) -> None:
        self._longest_match = longest_match
        self._most_tokens = most_tokens
        self._context: Int32Array = np.zeros(0, np.int32)

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request."""
        self._context = prompt_ids

    def propose(self, draft_tokens: int, most_levels: int) -> DraftTree:
        """Return a chain."""
        length = min(self._most_tokens, draft_tokens, most_levels)
        return chain_tree(int(self._context[-1]), self._copied(length))

    def learn(self, token_ids: Int32Array) -> None:
        """Append tokens of the answer."""
        self._context = np.concatenate([self._context, token_ids])

    def end(self) -> None:
        """Forget everything."""
        self._context = self._context[:0]

    @property
    def nbytes(self) -> int:
        """Nothing is remembered."""
        return 0

    def _copied(self, length: int) -> Int32Array:
        context = self._context
        for size in range(min(self._longest_match, len(context) - 1), 0, -1):
            windows = np.lib.stride_tricks.sliding_window_view(context[:-1], size)
            matches = np.flatnonzero((windows == context[-size:]).all(axis=1))
            if len(matches):
                start = int(matches[0]) + size
                return context[start : start + max(0, length)]
        return context[:0]


def chain_tree(token_id: int, drafted: Int32Array) -> DraftTree:
    """Return the draft tree of one chain under `token_id`."""
    size = 1 + len(drafted)
    return DraftTree(
        np.concatenate([np.array([token_id], np.int32), drafted]),
        np.arange(-1, size - 1, dtype=np.int32),
        np.arange(size, dtype=np.int32),
        np.ones(size),
    )


def _trie(mode: DraftMode) -> Callable[[LookaheadConfig], ReplayedDrafter]:
    def made(config: LookaheadConfig) -> ReplayedDrafter:
        store = TokenTrie(memory_nodes=config.memory_nodes, memory_bytes=config.memory_bytes)
        return StoreDrafter(store, LookaheadConfig(branch_length=config.branch_length, mode=mode))

    return made


def _log(config: LookaheadConfig) -> ReplayedDrafter:
    return StoreDrafter(TokenLog(memory_bytes=config.memory_bytes), config)


REPLAYED: dict[str, Callable[[LookaheadConfig], ReplayedDrafter]] = {
    "log": _log,
    "trie": _trie(DraftMode.HIERARCHICAL),
    "trie-parallel": _trie(DraftMode.PARALLEL),
    "trie-single": _trie(DraftMode.SINGLE),
    "prompt-lookup": lambda _: PromptLookup(),
}


def make_replayed(names: Sequence[str]) -> dict[str, Callable[[LookaheadConfig], ReplayedDrafter]]:
    """Return the makers of these names, each once.

    Raises:
        ConfigError: a name is unknown.
    """
    for name in names:
        if name not in REPLAYED:
            message = f"store {name!r} is unknown; choose from {', '.join(REPLAYED)}"
            raise ConfigError(message)
    return {name: REPLAYED[name] for name in names}
