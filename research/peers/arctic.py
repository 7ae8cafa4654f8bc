"""Arctic's suffix decoding: its own `SuffixDecodingCache`, where `arctic-inference` is installed."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.tree import DraftTree
from lookahead.errors import MissingDependencyError
from research.peers.peer import Peer, tree_of

_DEEPEST = 64
INSTALL = "pip install --no-deps arctic-inference"

BEST: dict[str, Any] = {"max_spec_factor": 16.0, "min_token_prob": 0.0, "use_tree_spec": True}
"""Trees, as many tokens as allowed whatever the match, no minimum probability: the best in replay."""
DEFAULTS: dict[str, Any] = {}
"""Its own defaults: a chain, at most as long as the match, of tokens with a probability of at least 0.1."""


def arctic_is_installed() -> bool:
    """Return whether the package is installed; installing it needs a compiler, but no GPU."""
    return find_spec("arctic_inference") is not None


class ArcticSuffixTree(Peer):
    """Arctic's cache: a suffix tree of the request, and one of all answers.

    Args:
        settings: Keyword arguments of `SuffixDecodingCache.speculate`.

    Raises:
        MissingDependencyError: The package is not installed.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        if not arctic_is_installed():
            message = f"Arctic's suffix decoding needs arctic-inference; install it with: {INSTALL}"
            raise MissingDependencyError(message)
        package = import_module("arctic_inference.suffix_decoding")
        self._cache = package.SuffixDecodingCache(max_tree_depth=_DEEPEST)
        self._settings = settings
        self._request = 0
        self._context: Int32Array = np.zeros(0, np.int32)

    def begin(self, prompt_ids: Int32Array) -> None:
        """Open a request."""
        self._context = prompt_ids[-_DEEPEST:]
        self._cache.start_request(self._request, np.ascontiguousarray(prompt_ids))

    def propose(self, draft_tokens: int, max_depth: int) -> DraftTree:
        """Return Arctic's draft as a draft tree."""
        if max_depth == 0:
            return DraftTree.root_only(int(self._context[-1]))
        draft = self._cache.speculate(
            self._request, self._context, max_spec_tokens=draft_tokens, **self._settings
        )
        return tree_of(
            [int(self._context[-1]), *draft.token_ids],
            [-1, *(parent + 1 for parent in draft.parents)],
            max_depth,
        )

    def learn(self, token_ids: Int32Array) -> None:
        """Append tokens of the answer."""
        self._context = np.concatenate([self._context, token_ids])[-_DEEPEST:]
        self._cache.add_active_response(self._request, np.ascontiguousarray(token_ids))

    def end(self) -> None:
        """Forget the prompt; the answer stays."""
        self._cache.stop_request(self._request)
        self._request += 1

    @property
    def nbytes(self) -> int | None:
        """Bytes of the tree of answers, by the package's own estimate; None without one."""
        estimate = getattr(getattr(self._cache, "_global_tree", None), "estimate_memory", None)
        return None if estimate is None else int(estimate())
