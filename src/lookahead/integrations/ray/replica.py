"""`ServedReplica`: what one replica of the application is: a model, its engine, the server's endpoints."""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from fastapi import FastAPI

from lookahead.drafting.exchange.exchange import Exchange
from lookahead.drafting.exchange.replica import Replica
from lookahead.drafting.memory.background import every
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.drafting.memory.journal import MemoryUpdate
from lookahead.drafting.memory.memory_file import MemoryFile
from lookahead.engine.protocol import Engine
from lookahead.errors import EngineClosedError, LookaheadError
from lookahead.integrations.ray.exchange import RayExchange
from lookahead.integrations.ray.middleware import LocalClients, ReplicaHeaders
from lookahead.integrations.ray.settings import ReplicaSettings
from lookahead.server.access import KeyRing
from lookahead.server.app import create_app
from lookahead.server.served_model import ServedModel, served_model

_log = logging.getLogger("lookahead.server")
_KEY_VARIABLE = "LOOKAHEAD_API_KEY"


class ServedReplica:
    """The class of the deployment. Serve makes one for each replica, in a process of its own.

    The replica of rank 0 saves the memory; Serve gives that rank to one of the replicas that run, and to
    another one when it is gone.

    Args:
        settings: The application's settings.

    Raises:
        LookaheadError: The model cannot be served, or a file cannot be read.
    """

    _server: Any = None
    """The server's state; None before the model is loaded, and where loading failed."""

    def __init__(self, settings: ReplicaSettings) -> None:
        from ray import serve  # noqa: PLC0415  # everything else here is used without it, too

        logging.getLogger("lookahead").setLevel(logging.INFO)
        self._context: Callable[[], Any] = serve.get_replica_context
        keys = keys_of(settings)
        engine, model, memory = loaded(settings)
        self._app = create_app(engine, model, memory, settings.server_settings(keys))
        if keys is None and not settings.allow_without_key:
            self._app.add_middleware(LocalClients)
        self._app.add_middleware(ReplicaHeaders, name=self._context().replica_tag)
        self._server = self._app.state.server
        self._replica = self._exchanging(settings, memory, engine) if settings.exchange else None
        self._ends = Event()
        self._every_s = settings.save_memory_every_s
        if settings.memory is not None and self._every_s > 0:
            save = partial(self._save_sometimes, self._server.memory_file)
            Thread(target=save, name="lookahead-memory", daemon=True).start()

    def __serve_build_asgi_app__(self) -> FastAPI:  # Serve calls it
        """Return the application that Serve is to call."""
        return self._app

    def check_health(self) -> None:
        """Let Serve replace this replica when its engine has ended.

        Raises:
            EngineClosedError: It has.
        """
        if not self._server.engine.is_running:
            message = "the engine of this replica has ended; its log says why"
            raise EngineClosedError(message)

    def __del__(self) -> None:
        """Close, when Serve stops the replica. Its requests have ended then."""
        self.close()

    def close(self) -> None:
        """Take no more requests, exchange and save for the last time. Faults are logged."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.is_draining = True
        server.engine.drain(0)
        self._ends.set()
        if self._replica is not None:
            _try(self._replica.close, "the memory cannot be exchanged at the end")
        if server.settings.memory_file is not None and self._is_saver():
            _try(server.memory_file.save, "the memory cannot be saved at the end")

    def _exchanging(self, settings: ReplicaSettings, memory: DraftMemory, engine: Engine) -> Replica:
        mark = (memory.tokenizer_fingerprint or "")[:12]
        name = f"lookahead-exchange-{self._context().app_name}-{mark}"
        exchange = ForgetfulExchange(RayExchange(name, memory), engine.clear_prefixes)
        replica = Replica(memory, exchange, every_s=settings.exchange_every_s)
        _try(replica.exchange, "the memory cannot be exchanged yet")  # warm before the first request
        replica.start()
        return replica

    def _is_saver(self) -> bool:
        """Return whether this replica saves now; ranks change while replicas come and go."""
        rank = self._context().rank
        return rank is not None and rank.rank == 0

    def _save_sometimes(self, file: MemoryFile) -> None:
        every(
            self._every_s,
            lambda: self._is_saver() and file.save(),
            self._ends,
            fault="the memory cannot be saved",
        )


class ForgetfulExchange:
    """An exchange that says when others have forgotten a namespace: the prefix cache has to forget it, too.

    Args:
        exchange: The exchange.
        forget: Called before such updates are applied.
    """

    def __init__(self, exchange: Exchange, forget: Callable[[], None]) -> None:
        self._exchange, self._forget = exchange, forget

    def publish(self, update: MemoryUpdate) -> None:
        """Publish an update.

        Raises:
            LookaheadError: It cannot be published; it may be tried again.
        """
        self._exchange.publish(update)

    def receive(self) -> list[MemoryUpdate]:
        """Return what others published.

        Raises:
            LookaheadError: Nothing can be received; it may be tried again.
        """
        updates = list(self._exchange.receive())
        if any(text.is_forgotten for update in updates for text in update.texts):
            self._forget()
        return updates


def keys_of(settings: ReplicaSettings) -> KeyRing | None:
    """Return who may ask; None if there are no keys.

    Raises:
        ConfigError: The keys are malformed.
        NotFoundError: Their file cannot be read.
    """
    if settings.api_keys is not None:
        return KeyRing.load(Path(settings.api_keys))
    key = os.environ.get(_KEY_VARIABLE)
    return KeyRing.of_plain_keys([key]) if key else None


def loaded(settings: ReplicaSettings) -> tuple[Engine, ServedModel, DraftMemory]:
    """Load the model and the memory; return a running engine, what is known of the model, and the memory.

    Raises:
        LookaheadError: One of them cannot be loaded or served.
    """
    import torch  # noqa: PLC0415  # the settings are checked without it

    from lookahead.hf.lookahead import Lookahead  # noqa: PLC0415  # likewise
    from lookahead.hf.models.loading import load_model  # noqa: PLC0415  # likewise

    torch.set_num_threads(settings.thread_count)
    model, tokenizer = load_model(settings.model, settings.dtype, settings.device)
    file = None if settings.memory is None else Path(settings.memory)
    if file is not None and file.exists():
        memory = DraftMemory.load(file, tokenizer=tokenizer, max_bytes=settings.memory_bytes)
    else:
        memory = DraftMemory(max_bytes=settings.memory_bytes)
        memory.bind(tokenizer=tokenizer)
    engine = Lookahead(settings.lookahead_config(), memory=memory).engine(
        model, tokenizer, settings.engine_settings()
    )
    return engine, served_model(settings.name, model, tokenizer, engine.max_request_tokens), memory


def _try(work: Callable[[], object], fault: str) -> None:
    """Do some work; log its failure."""
    try:
        work()
    except (LookaheadError, OSError) as error:
        _log.error("%s: %s", fault, error)
