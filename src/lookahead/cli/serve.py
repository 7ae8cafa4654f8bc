"""`lookahead serve`: an OpenAI-compatible server."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.cli import options
from lookahead.cli.options import DtypeName
from lookahead.config import DEFAULT_MEMORY_BYTES, MIN_MEMORY_BYTES, LookaheadConfig
from lookahead.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lookahead.engine.settings import EngineSettings
    from lookahead.server.access import KeyRing
    from lookahead.server.settings import ServerSettings

_KEY_VARIABLE = "LOOKAHEAD_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


_Host = Annotated[str, typer.Option(help="Address to listen at.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")]
_ServedModelName = Annotated[
    str | None, typer.Option(help="The name that clients use.", show_default="as --model")
]
_MaxRows = Annotated[int, typer.Option(min=1, max=1024, help="Requests that are answered at once.")]
_MaxQueued = Annotated[int, typer.Option(min=0, help="Requests that may wait; others are told 503.")]
_MaxModelLen = Annotated[
    int | None,
    typer.Option(min=2, help="The most tokens of prompt and answer.", show_default="the model's context"),
]
_CacheBytes = Annotated[
    int, typer.Option(min=2**20, help="Memory for keys and values, the prefix cache included.")
]
_PrefixCache = Annotated[bool, typer.Option(help="Read what prompts begin with only once.")]
_ApiKey = Annotated[
    list[str] | None,
    typer.Option(help=f"Accept only these keys; also from {_KEY_VARIABLE}. Each opens all namespaces."),
]
_ApiKeys = Annotated[
    Path | None, typer.Option(help="A JSON file of keys with the namespaces that each opens.")
]
_AllowWithoutKey = Annotated[
    bool, typer.Option(help="Listen at another address than this machine's own without any key.")
]
_AllowedHost = Annotated[
    list[str] | None,
    typer.Option(
        help="Names in the Host header that are answered, besides loopback's; any if none is given."
    ),
]
_Memory = Annotated[
    Path | None,
    typer.Option(help="Load the draft memory from this file if it exists, and save it there."),
]
_MemoryBytes = Annotated[
    int, typer.Option(min=MIN_MEMORY_BYTES, help="The draft memory's cap; a loaded file's is replaced.")
]
_SaveMemoryEvery = Annotated[
    int, typer.Option(min=0, help="Seconds between two saves; 0 to save only at the end.")
]
_DrainSeconds = Annotated[int, typer.Option(min=0, help="Seconds that running requests have after SIGTERM.")]
_MaxBodyBytes = Annotated[int, typer.Option(min=1024, help="The longest body of a request.")]
_MetricsPrefix = Annotated[
    str, typer.Option(help="What names of metrics begin with: vllm, for its dashboards.")
]
_ModelDefaults = Annotated[
    bool, typer.Option(help="Take sampling defaults from the model's generation config, not OpenAI's.")
]


def serve(
    model: options.Model = "embedded",
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    dtype: options.Dtype = DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
    packed: options.PackedIfPossible = None,
    served_model_name: _ServedModelName = None,
    max_rows: _MaxRows = 8,
    max_queued: _MaxQueued = 256,
    max_model_len: _MaxModelLen = None,
    cache_bytes: _CacheBytes = 4 * 2**30,
    prefix_cache: _PrefixCache = True,
    api_key: _ApiKey = None,
    api_keys: _ApiKeys = None,
    allow_without_key: _AllowWithoutKey = False,
    allowed_host: _AllowedHost = None,
    memory: _Memory = None,
    memory_bytes: _MemoryBytes = DEFAULT_MEMORY_BYTES,
    save_memory_every: _SaveMemoryEvery = 300,
    drain_seconds: _DrainSeconds = 30,
    max_body_bytes: _MaxBodyBytes = 8 * 2**20,
    metrics_prefix: _MetricsPrefix = "lookahead",
    model_defaults: _ModelDefaults = False,
    decoding_length: options.DecodingLength = options.AUTO,
    branch_length: options.BranchLength = options.DEFAULTS.branch_length,
    compiled_cpu: options.CompiledCpu = True,
) -> None:
    """Serve a model at an OpenAI-compatible address, and a page to chat with it."""
    _check_extra()
    from lookahead.server.settings import ServerSettings

    config = LookaheadConfig(
        decoding_length=options.decoding_length_in(decoding_length),
        branch_length=branch_length,
        compiled_cpu=compiled_cpu,
        max_bytes=memory_bytes,
    )
    engine_settings = _engine_settings(max_rows, max_queued, max_model_len, cache_bytes, prefix_cache)
    keys = _keys(api_key, api_keys, host, is_open=allow_without_key)
    settings = ServerSettings(
        model_name=served_model_name or model,
        keys=keys,
        memory_file=memory,
        save_memory_every_s=save_memory_every,
        drain_s=drain_seconds,
        max_body_bytes=max_body_bytes,
        metrics_prefix=metrics_prefix,
        uses_model_defaults=model_defaults,
        allowed_hosts=_allowed_hosts(host, keys, allowed_host),
    )
    packed = packed if compiled_cpu else bool(packed)  # the model's own code unpacks in every step
    load = partial(_load, model, dtype.value, device, threads, packed=packed)
    _serve(load, config, engine_settings, settings, (host, port))


def _engine_settings(
    max_rows: int, max_queued: int, max_model_len: int | None, cache_bytes: int, prefix_cache: bool
) -> "EngineSettings":
    from lookahead.engine.settings import EngineSettings

    return EngineSettings(
        max_rows=max_rows,
        max_step_tokens=max(EngineSettings().max_step_tokens, 2 * max_rows),
        max_queued=max_queued,
        max_request_tokens=max_model_len,
        cache_bytes=cache_bytes,
        prefix_cache=prefix_cache,
    )


def _load(
    name: str, dtype: str, device: str | None, threads: int | None, *, packed: bool | None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    from lookahead.cli.setup import prepare_model

    return prepare_model(name, dtype, device, threads, packed=packed)


def _serve(
    load: "Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]",
    config: Any,
    engine_settings: Any,
    settings: "ServerSettings",
    address: tuple[str, int],
) -> None:
    from lookahead.cli.setup import check_can_write, notices
    from lookahead.drafting.memory.draft_memory import DraftMemory
    from lookahead.hf.lookahead import Lookahead
    from lookahead.server.app import create_app
    from lookahead.server.operation.run import bound_socket, run, url_of
    from lookahead.server.served_model import served_model

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("lookahead").setLevel(logging.INFO)
    bound = bound_socket(*address)
    if settings.memory_file is not None:
        check_can_write(settings.memory_file)
    model, tokenizer = load()
    memory = None
    if settings.memory_file is not None and settings.memory_file.exists():
        memory = DraftMemory.load(settings.memory_file, tokenizer=tokenizer, max_bytes=config.max_bytes)
    lookahead = Lookahead(config, memory=memory)
    with notices.status("getting the engine ready"):
        engine = lookahead.engine(model, tokenizer, engine_settings)
    with engine:
        described = served_model(settings.model_name, model, tokenizer, engine.max_request_tokens)
        app = create_app(engine, described, lookahead.memory, settings)
        ready = f"serving {settings.model_name} at {url_of(bound)}"
        run(app, bound, lambda: notices.print(ready))


def _check_address(host: str, keys: "KeyRing | None", *, is_open: bool) -> None:
    """Refuse to let other machines in without a key.

    Raises:
        ConfigError: The address is not this machine's own, and there is no key.
    """
    if keys is None and host not in _LOOPBACK and not is_open:
        message = (
            f"--host {host} lets other machines in, and there is no key: give --api-key or --api-keys, or "
            "--allow-without-key if something in front of this server checks them"
        )
        raise ConfigError(message)


def _allowed_hosts(host: str, keys: "KeyRing | None", given: list[str] | None) -> tuple[str, ...]:
    """Return the names that are answered; empty for any."""
    is_open = keys is None and host in _LOOPBACK
    return (*(given or ()), *((*_LOOPBACK, "[::1]") if is_open else ()))


def _keys(keys: list[str] | None, file: Path | None, host: str, *, is_open: bool) -> "KeyRing | None":
    """Return who may ask; None if everybody may.

    Raises:
        ConfigError: Keys are given in two ways; or there is no key and the address lets other machines in.
    """
    from lookahead.server.access import KeyRing

    given = list(keys or ())
    if not given and file is None and os.environ.get(_KEY_VARIABLE):
        given = [os.environ[_KEY_VARIABLE]]
    if given and file is not None:
        message = "--api-key and --api-keys are both given; give one"
        raise ConfigError(message)
    ring = KeyRing.of_plain_keys(given) if given else None
    if file is not None:
        ring = KeyRing.load(file)
    _check_address(host, ring, is_open=is_open)
    return ring


def _check_extra() -> None:
    """Check that the server's packages are installed.

    Raises:
        MissingDependencyError: One is not.
    """
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        message = f"lookahead serve needs {', '.join(missing)}: pip install 'lookahead-llm[serve]'"
        raise MissingDependencyError(message)
