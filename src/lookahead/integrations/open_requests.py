"""`OpenRequests`: requests of a foreign engine and their texts in the draft store."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from lookahead.config import DraftMode
from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.store import DraftStore, Origin
from lookahead.drafting.tree import DraftTree


@dataclass(eq=False, kw_only=True)
class OpenRequest:
    """A request that is being answered.

    Attributes:
        length: Tokens of it that the store has, prompt and answer.
        stop_tokens: Tokens that end the answer.
        tokens_left: The most tokens that the answer still gets; None for any number.
        is_ended: Whether the answer is complete. What comes then is not part of it.
    """

    length: int
    stop_tokens: frozenset[int]
    tokens_left: int | None
    is_ended: bool = False

    def cut(self, tokens: Int32Array) -> Int32Array:
        """Return those of an engine's new tokens that belong to the answer, and note whether they end it.

        An engine verifies a draft before it looks for the end, so tokens may come after the end token, or
        after the last token of the answer.
        """
        if self.is_ended:
            return tokens[:0]
        if self.tokens_left is not None:
            tokens = tokens[: self.tokens_left]
        end = next((place for place, token in enumerate(tokens.tolist()) if token in self.stop_tokens), None)
        tokens = tokens if end is None else tokens[: end + 1]
        if self.tokens_left is not None:
            self.tokens_left -= len(tokens)
        self.is_ended = end is not None or self.tokens_left == 0
        return tokens


class OpenRequests:
    """Gives the tokens of requests to a draft store, and gets drafts for them.

    Args:
        store: The draft store.
        mode: The layout of drafts.
    """

    def __init__(self, store: DraftStore, *, mode: DraftMode) -> None:
        self._store, self._mode = store, mode
        self._requests: dict[Hashable, OpenRequest] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._requests

    def __getitem__(self, key: Hashable) -> OpenRequest:
        return self._requests[key]

    def keys(self) -> list[Hashable]:
        """Return the keys of all requests, those whose answer has ended included."""
        return list(self._requests)

    def open(
        self,
        key: Hashable,
        prompt: Int32Array,
        *,
        namespace: str,
        reads: Sequence[str] = (),
        remember: bool = True,
        stop_tokens: frozenset[int] = frozenset(),
        max_tokens: int | None = None,
    ) -> OpenRequest:
        """Begin a request.

        Args:
            key: Its key.
            prompt: int32, its prompt.
            namespace: The namespace of its tokens.
            reads: Further namespaces to draft from.
            remember: Whether its answer is remembered.
            stop_tokens: Tokens that end the answer.
            max_tokens: The most tokens of the answer.

        Raises:
            LookaheadError: The namespace or a token is not allowed; the request is not begun then.
        """
        self._store.open(key, namespace=namespace, reads=reads, remember=remember)
        try:
            self._store.insert(key, prompt, Origin.PROMPT)
        except Exception:
            self._store.forget(key)
            raise
        self._requests[key] = OpenRequest(length=len(prompt), stop_tokens=stop_tokens, tokens_left=max_tokens)
        return self._requests[key]

    def learn(self, key: Hashable, tokens: Int32Array) -> None:
        """Remember new tokens of an answer; at its end, it is drafted from by others at once.

        Raises:
            LookaheadError: A token is not allowed.
        """
        request = self._requests[key]
        request.length += len(tokens)
        was_ended = request.is_ended
        kept = request.cut(tokens)
        if len(kept):
            self._store.insert(key, kept, Origin.OUTPUT)
        if request.is_ended and not was_ended:
            self._store.forget(key)

    def propose(self, key: Hashable, max_tokens: int) -> DraftTree | None:
        """Return a draft of at most so many tokens after the last one; None if there is none."""
        request = self._requests[key]
        if request.tokens_left is not None:
            max_tokens = min(max_tokens, request.tokens_left - 1)
        if request.is_ended or max_tokens < 1 or request.length == 0:
            return None
        tree = self._store.propose(
            key, decoding_length=max_tokens + 1, branch_length=max_tokens, mode=self._mode
        )
        return tree if len(tree) > 1 else None

    def close(self, key: Hashable) -> None:
        """End a request, whether its answer is complete or not. Do nothing if it is unknown."""
        request = self._requests.pop(key, None)
        if request is not None and not request.is_ended:
            self._store.forget(key)

    def close_all(self) -> None:
        """End all requests."""
        for key in self.keys():
            self.close(key)
