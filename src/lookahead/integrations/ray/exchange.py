"""`RayExchange`: the updates of all replicas go through one named actor.

    replica A ── publish ──►  actor: NamedBoard  ◄── since(name, number) ── replica B

The actor takes no CPU of the cluster's and is detached: it outlives replicas, deployments and jobs. Ray
restarts it when its process or node dies. Its board is empty then. Each replica notices by the board's name
and publishes all that its own journal still holds: what others have they take no second time, and what the
lost board had not handed out is handed out now.
"""

import logging
from collections.abc import Callable
from typing import Any

from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.memory.journal import MemoryUpdate
from lookahead.errors import ExchangeError, MissingDependencyError, first_line
from lookahead.integrations.ray.board import NamedBoard

_log = logging.getLogger("lookahead.exchange")
_RAY_NAMESPACE = "lookahead"
"""Where the actors are found by name; Ray's word, nothing to do with a memory's namespaces."""


class RayExchange:
    """Publishes and receives updates through an actor that all replicas know by its name.

    >>> memory = DraftMemory()
    >>> replica = Replica(memory, RayExchange("my-service", memory))  # doctest: +SKIP
    >>> replica.start()  # doctest: +SKIP

    Args:
        name: The name that the replicas of one service share. Give models with different tokenizers
            different names.
        memory: The memory whose updates are published.
        timeout_s: Seconds that one call of the actor may take.
        call: Calls a method of the board by its name; None for that of the actor.
    """

    def __init__(
        self,
        name: str,
        memory: DraftMemory,
        *,
        timeout_s: float = 10.0,
        call: Callable[..., Any] | None = None,
    ) -> None:
        self._memory = memory
        self._source = memory.updates().source
        self._call = ActorCalls(name, timeout_s) if call is None else call
        self._board: str | None = None
        self._number = 0
        self._owes_all = False

    def publish(self, update: MemoryUpdate) -> None:
        """Let all other replicas receive an update.

        Raises:
            ExchangeError: The actor cannot be reached, or was restarted; it may be tried again.
        """
        if not self._publish(update):
            message = "the exchange was restarted; what it held is published again at the next exchange"
            raise ExchangeError(message)

    def receive(self) -> list[MemoryUpdate]:
        """Return what others published since the last call, in the order in which it was published.

        Raises:
            ExchangeError: The actor cannot be reached; it may be tried again.
        """
        if self._owes_all:
            # Not before this call: what the last one returned is applied by now, and nothing that others
            # have forgotten is published again.
            self._publish(self._memory.updates())
        board, number, updates = self._call("since", self._board, self._number, self._source)
        if self._board not in (None, board):
            _log.warning("the exchange was restarted; this replica publishes again what it learned")
            self._owes_all = True
        self._board, self._number = board, number
        found: list[MemoryUpdate] = updates
        return found

    def _publish(self, update: MemoryUpdate) -> bool:
        """Publish an update, with all before it if they are owed; return whether the board took it."""
        if self._owes_all:
            update = self._memory.updates()
        is_taken = bool(self._call("publish", self._board, update))
        self._owes_all = self._owes_all and not is_taken
        return is_taken


class ActorCalls:
    """Calls the board in the actor, which is started if there is none.

    Args:
        name: The actor's name.
        timeout_s: Seconds that one call may take.
    """

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._actor: Any = None

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the board returns.

        Raises:
            ExchangeError: The actor cannot be reached.
            MissingDependencyError: Ray is not installed.
        """
        ray = _ray()
        try:
            if self._actor is None:
                self._actor = self._found_or_started(ray)
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=self._timeout_s)
        except (ray.exceptions.RayError, ValueError, RuntimeError) as error:
            self._actor = None  # the next call finds it by its name, or starts another one
            message = (
                f"the actor {self._name!r} of the exchange cannot be reached ({type(error).__name__}: "
                f"{first_line(error):.200}); it is tried again. If it stays so, look for the actor with "
                "'ray list actors'"
            )
            raise ExchangeError(message) from error

    def _found_or_started(self, ray: Any) -> Any:
        options = {
            "name": self._name,
            "namespace": _RAY_NAMESPACE,
            "get_if_exists": True,
            "lifetime": "detached",
            "max_restarts": -1,
            "num_cpus": 0,
        }
        return ray.remote(NamedBoard).options(**options).remote()


def _ray() -> Any:
    try:
        import ray  # noqa: PLC0415  # only who uses it needs it
    except ImportError as error:
        message = "this needs Ray: pip install 'lookahead-llm[ray]'"
        raise MissingDependencyError(message) from error
    return ray
