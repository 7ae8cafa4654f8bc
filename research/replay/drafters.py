"""Everything that can be replayed: the draft stores, and other systems.

To add a system: write a class that implements `ReplayedDrafter`, and add a line to `PEERS`.
"""

from lookahead.bench.replay.drafters import REPLAYED as STORES
from lookahead.bench.replay.drafters import SIZED as SIZED_STORES
from lookahead.bench.replay.drafters import Makers
from research.peers import arctic
from research.peers.llma import LLMA
from research.peers.prompt_lookup import PromptLookup
from research.peers.published_trie import PublishedTrie

_PUBLISHED_BRANCH_LENGTH = 12
"""The published default. It remembers a token only after this many more tokens, so a longer one is worse."""

PEERS: Makers = {
    "prompt-lookup": lambda _: PromptLookup(),
    "llma": lambda _: LLMA(),
    "published-trie": lambda config: PublishedTrie(min(config.branch_length, _PUBLISHED_BRANCH_LENGTH)),
    "arctic": lambda _: arctic.ArcticSuffixTree(arctic.BEST),
    "arctic-default": lambda _: arctic.ArcticSuffixTree(arctic.DEFAULTS),
}
REPLAYED: Makers = {**STORES, **PEERS}
SIZED = SIZED_STORES | {"arctic", "arctic-default"}
"""Drafters whose bytes and costs are measured with a full memory: those that can hold a million tokens."""
