"""Servers that tests talk to over HTTP: real ones, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import uvicorn

from helpers.tiny_models import tiny_model, tiny_tokenizer
from lookahead import Lookahead, LookaheadConfig
from lookahead.engine import EngineSettings
from lookahead.server.app import create_app
from lookahead.server.served_model import served_model
from lookahead.server.settings import ServerSettings

NAME = "embedded"
MAX_SECONDS = 30


@dataclass
class LiveServer:
    """A server under test.

    Attributes:
        url: Its address.
        model: Its model.
        tokenizer: Its tokenizer.
        lookahead: Whose memory it has.
        engine: Its engine.
        state: What its routes share.
        app: Its ASGI application.
    """

    url: str
    model: Any
    tokenizer: Any
    lookahead: Lookahead
    engine: Any
    state: Any
    app: Any

    def wait_until_idle(self) -> None:
        """Wait until no request has a row or waits for one."""
        end = monotonic() + MAX_SECONDS
        while (stats := self.engine.stats()).running or stats.waiting:
            assert monotonic() < end, stats
            sleep(0.01)


def tiny_chat_model():
    """A small model with room for 32,768 tokens, and its tokenizer, which knows chats."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}!"
    return tiny_model("llama", max_position_embeddings=2**15), tokenizer


@contextmanager
def serving(model, tokenizer, *, config=None, engine=None, **settings) -> Iterator[LiveServer]:
    """Serve a model until the block ends."""
    lookahead = Lookahead(config or LookaheadConfig())
    settings = ServerSettings(**{"model_name": NAME, **settings})
    with lookahead.engine(model, tokenizer, engine or EngineSettings(max_rows=4)) as running:
        described = served_model(settings.model_name, model, tokenizer, running.max_request_tokens)
        app = create_app(running, described, lookahead.memory, settings)
        options = {"log_config": None, "access_log": False, "lifespan": "off", "loop": "asyncio"}
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, **options))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        end = monotonic() + MAX_SECONDS
        while not server.started:
            assert thread.is_alive()
            assert monotonic() < end
            sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            url = f"http://127.0.0.1:{port}"
            yield LiveServer(url, model, tokenizer, lookahead, running, app.state.server, app)
        finally:
            server.should_exit = True
            thread.join()
