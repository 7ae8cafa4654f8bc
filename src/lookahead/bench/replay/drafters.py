"""The draft stores that can be replayed, by name."""

from collections.abc import Callable, Mapping, Sequence

from lookahead.bench.replay.replay import ReplayedDrafter
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.noise import NO_NOISE
from lookahead.drafting.store import DraftStore, Origin
from lookahead.drafting.tree import DraftTree
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError

Makers = Mapping[str, Callable[[LookaheadConfig], ReplayedDrafter]]

_REQUEST = "replayed"


class StoreDrafter:
    """A draft store, replayed.

    Args:
        store: Holds the memory from request to request.
        config: Branch length and draft mode.

    Attributes:
        noise: What is known of the noise of the coming draws.
    """

    def __init__(self, store: DraftStore, config: LookaheadConfig) -> None:
        self.calibrated = config.draft_mode is not DraftMode.PARALLEL  # there a child may occur twice
        self._store = store
        self._config = config
        self.noise = NO_NOISE

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request."""
        self._store.insert(_REQUEST, prompt_ids, Origin.PROMPT)

    def propose(self, draft_tokens: int, max_depth: int) -> DraftTree:
        """Return the store's draft."""
        return self._store.propose(
            _REQUEST,
            decoding_length=draft_tokens + 1,
            branch_length=min(self._config.branch_length, max_depth),
            mode=self._config.draft_mode,
            noise=self.noise,
        )

    def learn(self, token_ids: Int32Array) -> None:
        """Insert tokens of the answer."""
        self._store.insert(_REQUEST, token_ids, Origin.OUTPUT)

    def recycle(self, token_ids: Int32Array, successors: Int32Array) -> None:
        """Hand the successors to the store."""
        self._store.recycle(_REQUEST, token_ids, successors, accepted=len(token_ids))

    def end(self) -> None:
        """Forget the request."""
        self.noise = NO_NOISE
        self._store.forget(_REQUEST)

    @property
    def nbytes(self) -> int:
        """Bytes of the store."""
        return self._store.nbytes


def _trie(mode: DraftMode, max_nodes: int | None = None) -> Callable[[LookaheadConfig], ReplayedDrafter]:
    def made(config: LookaheadConfig) -> ReplayedDrafter:
        store = TokenTrie(max_nodes=max_nodes, max_bytes=config.max_bytes)
        return StoreDrafter(store, LookaheadConfig(branch_length=config.branch_length, draft_mode=mode))

    return made


_TRIES = {
    "trie": DraftMode.HIERARCHICAL,
    "trie-parallel": DraftMode.PARALLEL,
    "trie-single": DraftMode.SINGLE,
}
REPLAYED: Makers = {
    "log": lambda config: StoreDrafter(TokenLog(max_bytes=config.max_bytes), config),
    **{name: _trie(mode) for name, mode in _TRIES.items()},
}
SIZED = frozenset({"log", "trie"})
"""The stores whose bytes per token are measured; the trie takes the same in all draft modes."""


def make_replayed(
    names: Sequence[str], *, max_nodes: int | None = None, known: Makers = REPLAYED
) -> dict[str, Callable[[LookaheadConfig], ReplayedDrafter]]:
    """Return what makes the drafters of these names, each once.

    Args:
        names: Keys of `known`.
        max_nodes: Hard cap of the tries, in nodes; None leaves it to the cap in bytes.
        known: The drafters to choose from.

    Raises:
        ConfigError: A name is unknown.
    """
    for name in names:
        if name not in known:
            message = f"store {name!r} is unknown; choose from {', '.join(known)}"
            raise ConfigError(message)
    return {name: _trie(_TRIES[name], max_nodes) if name in _TRIES else known[name] for name in names}
