"""What can be replayed: our stores, and other systems for comparison.

To add one: write a class as `ReplayedDrafter` asks, and give it a line in `REPLAYED`.
"""

from collections.abc import Callable, Sequence

from lookahead.bench.replay.peers import arctic
from lookahead.bench.replay.peers.llma import LLMA
from lookahead.bench.replay.peers.prompt_lookup import PromptLookup
from lookahead.bench.replay.peers.published_trie import PublishedTrie
from lookahead.bench.replay.replay import ReplayedDrafter
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import DraftStore, Origin
from lookahead.drafting.tree import DraftTree
from lookahead.drafting.trie.token_trie import TokenTrie
from lookahead.errors import ConfigError

_REQUEST = "replayed"


class StoreDrafter:
    """One of our draft stores.

    Args:
        store: it remembers from request to request.
        config: branch length and mode.
    """

    def __init__(self, store: DraftStore, config: LookaheadConfig) -> None:
        self.calibrated = config.draft_mode is not DraftMode.PARALLEL  # there a child may stand twice
        self._store = store
        self._config = config

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
        )

    def learn(self, token_ids: Int32Array) -> None:
        """Insert tokens of the answer."""
        self._store.insert(_REQUEST, token_ids, Origin.OUTPUT)

    def recycle(self, token_ids: Int32Array, successors: Int32Array) -> None:
        """Hand the successors to the store."""
        self._store.recycle(_REQUEST, token_ids, successors)

    def end(self) -> None:
        """Forget the request."""
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


def _log(config: LookaheadConfig) -> ReplayedDrafter:
    return StoreDrafter(TokenLog(max_bytes=config.max_bytes), config)


_TRIES = {
    "trie": DraftMode.HIERARCHICAL,
    "trie-parallel": DraftMode.PARALLEL,
    "trie-single": DraftMode.SINGLE,
}
_PUBLISHED_BRANCH_LENGTH = 12
"""What the published retrieval uses; it remembers a token only when a branch's length more have come."""

REPLAYED: dict[str, Callable[[LookaheadConfig], ReplayedDrafter]] = {
    "log": _log,
    **{name: _trie(mode) for name, mode in _TRIES.items()},
    "prompt-lookup": lambda _: PromptLookup(),
    "llma": lambda _: LLMA(),
    "published-trie": lambda config: PublishedTrie(min(config.branch_length, _PUBLISHED_BRANCH_LENGTH)),
    "arctic": lambda _: arctic.ArcticSuffixTree(arctic.BEST),
    "arctic-default": lambda _: arctic.ArcticSuffixTree(arctic.DEFAULTS),
}
PEERS = ("prompt-lookup", "llma", "published-trie", "arctic", "arctic-default")
"""Other systems, in `REPLAYED`."""
COSTED = frozenset({"log", "trie", "arctic", "arctic-default"})
"""Those whose costs are measured with a full memory: each structure that can hold a million tokens."""


def make_replayed(
    names: Sequence[str], *, max_nodes: int | None = None
) -> dict[str, Callable[[LookaheadConfig], ReplayedDrafter]]:
    """Return the makers of these names, each once.

    Args:
        names: of what is in `REPLAYED`.
        max_nodes: hard cap of the tries, in nodes; None leaves it to the cap in bytes.

    Raises:
        ConfigError: a name is unknown.
    """
    for name in names:
        if name not in REPLAYED:
            message = f"store {name!r} is unknown; choose from {', '.join(REPLAYED)}"
            raise ConfigError(message)
    return {name: _trie(_TRIES[name], max_nodes) if name in _TRIES else REPLAYED[name] for name in names}
