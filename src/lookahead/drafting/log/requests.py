"""A log's live requests, and the namespaces that they belong to.

A namespace is known while it has a token or a recycled prediction in the memory, or a live request belongs to
it or reads it. After that nothing of it is left, not even its name. Names count within the memory's cap.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lookahead.drafting.arrays import Int32Array
from lookahead.drafting.growth.frequent import count_tokens
from lookahead.drafting.growth.runner_ups import RunnerUps, new_runner_ups
from lookahead.drafting.log.calibration import Learned
from lookahead.drafting.log.matches import LONGEST_MATCH, NO_OWNER, VOCABULARY
from lookahead.drafting.log.ring import GAP, RingBuffer
from lookahead.drafting.log.workspace import WorkspaceBuffers
from lookahead.drafting.store import VOCABULARY_NAMESPACE

LARGEST_OWNER = 2**31 - 1
_BYTES_BESIDES_NAME = 384
"""Bytes of a namespace besides its name: what it keeps, and its places in two dictionaries."""
_FEW = 500
"""Numbers that are counted faster one by one."""
_KEPT_SHARE = 0.75
"""How much of the room for names stays in use when the least recently used leave."""


@dataclass(eq=False, slots=True)
class Namespace:
    """What a log knows of a namespace.

    Attributes:
        name: Its name.
        owner: Its number.
        tokens: How many tokens it has in the shared log.
        has_successors: Whether it may have entries in the table of successors.
        requests: How many live requests belong to it or read it.
    """

    name: str
    owner: int
    tokens: int = 0
    has_successors: bool = False
    requests: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether anything keeps its name."""
        return self.tokens > 0 or self.has_successors or self.requests > 0


class Namespaces:
    """Numbers namespaces: kernels know owners only by number.

    Args:
        max_bytes: Cap on the bytes of all names.

    Attributes:
        nbytes: Bytes of all names.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._by_name: dict[str, Namespace] = {}  # in the order of their last use
        self._by_owner: dict[int, Namespace] = {}
        self._next_owner = VOCABULARY + 1
        self.nbytes = 0

    def __iter__(self) -> Iterator[Namespace]:
        """Iterate in the order of first use."""
        return iter(sorted(self._by_name.values(), key=lambda namespace: namespace.owner))

    def named(self, name: str) -> Namespace | None:
        """Return the namespace of that name; None if it is unknown."""
        return self._by_name.get(name)

    def owner_of(self, name: str) -> int:
        """Return the number of the namespace of that name; NO_OWNER if it is unknown."""
        namespace = self._by_name.get(name)
        return NO_OWNER if namespace is None else namespace.owner

    def numbered(self, owner: int) -> Namespace | None:
        """Return the namespace of that number; None if it is unknown."""
        return self._by_owner.get(owner)

    def use(self, name: str) -> Namespace | None:
        """Return a namespace, a new one at its first use, as the last one used; None without room for it."""
        namespace = self._by_name.pop(name, None)
        if namespace is None:
            if self.nbytes + bytes_of(name) > self._max_bytes:
                return None
            namespace = Namespace(name, self._unused_owner())
            self._by_owner[namespace.owner] = namespace
            self.nbytes += bytes_of(name)
        self._by_name[name] = namespace
        return namespace

    def surplus(self, name: str) -> list[Namespace]:
        """Return the least recently used namespaces that must leave for a new one; none of a live request."""
        wanted = self.nbytes + bytes_of(name) - int(_KEPT_SHARE * self._max_bytes)
        leaving: list[Namespace] = []
        for namespace in self._by_name.values():
            if wanted <= 0:
                break
            if namespace.requests == 0:
                leaving.append(namespace)
                wanted -= bytes_of(namespace.name)
        return leaving

    def newest_that_fit(self, names: Iterable[str]) -> set[str]:
        """Return the first of these names, the newest first, that fit besides those of live requests."""
        pinned = {namespace.name for namespace in self._by_name.values() if namespace.requests}
        room = self._max_bytes - sum(map(bytes_of, pinned))
        fitting = set()
        for name in names:
            room -= 0 if name in pinned else bytes_of(name)
            if room < 0:
                break
            fitting.add(name)
        return fitting

    def numbers_for(
        self, snapshot: Mapping[str, npt.NDArray[Any]], use: Callable[[str], Namespace | None]
    ) -> Int32Array:
        """Return the number here of each owner in a snapshot, NO_OWNER where there is no room for its name.

        Where names do not fit, those of the newest texts stay. They are open: the caller closes them.

        Args:
            snapshot: The snapshot.
            use: Returns a namespace and makes room for it, see `use`.
        """
        named = newest_first(snapshot)
        texts = [name for name in named.values() if name != VOCABULARY_NAMESPACE]
        fitting = self.newest_that_fit(texts)
        numbers = np.full(
            1 + max([NO_OWNER, *named, int(snapshot["owners"].max(initial=NO_OWNER))]), NO_OWNER, np.int32
        )
        for owner in sorted(named):
            known = use(named[owner]) if named[owner] in fitting else None
            if known is not None:
                numbers[owner] = known.owner
                self.open([known.owner])
            elif named[owner] == VOCABULARY_NAMESPACE:
                numbers[owner] = VOCABULARY
        for name in reversed(texts):
            if name in fitting:
                self.use(name)
        return numbers

    def count_overwritten(self, owners: Int32Array) -> None:
        """Count tokens of these owners as overwritten; the names that nothing keeps leave."""
        for owner, count in _counted(owners).items():
            namespace = self._by_owner.get(owner)
            if namespace is not None:
                namespace.tokens -= count
                self.leave(namespace)

    def recount(self, token_owners: Int32Array, successor_owners: Collection[int]) -> None:
        """Count anew what the memory holds; the names that nothing keeps leave.

        Args:
            token_owners: The owner of each token in the shared log, gaps not counted.
            successor_owners: The owners that have entries in the table of successors.
        """
        held = _counted(token_owners)
        for namespace in list(self._by_name.values()):
            namespace.tokens = held.get(namespace.owner, 0)
        self.recount_successors(successor_owners)

    def recount_successors(self, owners: Collection[int]) -> None:
        """Set which owners have entries in the table of successors; the names that nothing keeps leave."""
        for namespace in list(self._by_name.values()):
            namespace.has_successors = namespace.owner in owners
            self.leave(namespace)

    def open(self, owners: Iterable[int]) -> None:
        """Keep the namespaces of these numbers for a live request."""
        for owner in owners:
            if owner in self._by_owner:
                self._by_owner[owner].requests += 1

    def close(self, owners: Iterable[int]) -> None:
        """Keep them no longer; the names that nothing keeps leave."""
        for owner in owners:
            if owner in self._by_owner:
                self._by_owner[owner].requests -= 1
                self.leave(self._by_owner[owner])

    def leave(self, namespace: Namespace) -> None:
        """Remove a namespace that nothing keeps."""
        if not namespace.is_kept and namespace.owner in self._by_owner:
            del self._by_name[namespace.name], self._by_owner[namespace.owner]
            self.nbytes -= bytes_of(namespace.name)

    def _unused_owner(self) -> int:
        while self._next_owner in self._by_owner or self._next_owner > LARGEST_OWNER:
            self._next_owner = self._next_owner + 1 if self._next_owner < LARGEST_OWNER else VOCABULARY + 1
        self._next_owner += 1
        return self._next_owner - 1


@dataclass(eq=False)
class LiveRequest:
    """What a log knows of a request between `open` and `forget`.

    Attributes:
        name: The name of its namespace.
        owner: The number of its namespace; NO_OWNER if there was no room for its name.
        readable: int32, the namespaces that it reads, its own first.
        own: Its own log.
        draft: The workspace with its last draft.
        runner_ups: What the model nearly chose in it.
        tail: int32 [LONGEST_MATCH], its last tokens, at the end.
        learned: What is learned with all requests of its namespace.
        length: Tokens so far.
        sources: int32, the source of each token that was inserted last.
        is_remembered: Whether it leaves anything to later requests.
        answer: Tokens for the shared log when the request ends, in parts.
    """

    name: str
    owner: int
    readable: Int32Array
    own: RingBuffer
    draft: WorkspaceBuffers
    learned: Learned
    runner_ups: RunnerUps = field(default_factory=new_runner_ups)
    tail: Int32Array = field(default_factory=lambda: np.full(LONGEST_MATCH, GAP, np.int32))
    length: int = 0
    sources: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    is_remembered: bool = True
    answer: list[Int32Array] = field(default_factory=list)

    def keep(self, tokens: Int32Array, *, is_output: bool, keeps_prompts: bool) -> None:
        """Keep what the request leaves to later ones: counts of its answer's tokens, and its text."""
        if is_output and self.is_remembered:
            count_tokens(self.learned.frequent, tokens)
        if self.is_remembered and (is_output or keeps_prompts):
            self.answer.append(tokens)


def bytes_of(name: str) -> int:
    """Return what a namespace of that name counts as."""
    return _BYTES_BESIDES_NAME + len(name.encode())


def newest_first(snapshot: Mapping[str, npt.NDArray[Any]]) -> dict[int, str]:
    """Return the names in a snapshot by their numbers there, those of the newest texts first."""
    named = dict(zip(snapshot["owners_named"].tolist(), snapshot["names"].tolist(), strict=True))
    owners, ages = np.unique(snapshot["owners"][::-1], return_index=True)
    age = dict(zip(owners.tolist(), ages.tolist(), strict=True))
    oldest = len(snapshot["owners"])
    return {owner: named[owner] for owner in sorted(named, key=lambda owner: age.get(owner, oldest))}


def _counted(owners: Int32Array) -> dict[int, int]:
    if len(owners) < _FEW:
        return Counter(owners.tolist())
    numbers, counts = np.unique(owners, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))
