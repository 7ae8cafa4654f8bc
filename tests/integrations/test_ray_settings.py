"""Arguments of `build_app`, where tenants go, who is answered without a key, settings of `ray.serve.llm`."""

import asyncio
import sys
from types import SimpleNamespace

import pytest

from lookahead.errors import ConfigError, EngineClosedError, MissingDependencyError
from lookahead.integrations.ray import build_app, llm_config
from lookahead.integrations.ray.middleware import LocalClients, is_local
from lookahead.integrations.ray.replica import ServedReplica, keys_of
from lookahead.integrations.ray.routing import router_config
from lookahead.integrations.ray.settings import ReplicaSettings
from lookahead.server.access import KeyRing


def test_texts_of_a_command_line_are_what_a_yaml_file_says_with_types():
    typed = {
        "model": "embedded",
        "replicas": 2,
        "cpus": 1.5,
        "gpus": 0,
        "max_rows": 4,
        "max_ongoing": 6,
        "threads": 3,
        "exchange": False,
        "decoding_length": 16,
        "memory": "memory.safetensors",
        "exchange_every_s": 0.25,
    }
    texts = {name: str(value) for name, value in typed.items()} | {"exchange": "False"}
    assert ReplicaSettings.of(texts) == ReplicaSettings.of(typed) == ReplicaSettings(**typed)


def test_what_is_not_given_has_defaults():
    settings = ReplicaSettings.of({"max_rows": "3", "cpus": "2.5"})
    assert (settings.name, settings.max_ongoing_requests, settings.thread_count) == ("embedded", 6, 2)
    assert ReplicaSettings.of({"decoding_length": "auto"}) == ReplicaSettings()
    assert ReplicaSettings.of({"cpus": "0.5"}).thread_count == 1


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("replica", "2", "is no argument of build_app; there are model, "),
        ("replicas", "0", "an integer from 1"),
        ("replicas", "two", "an integer from 1"),
        ("replicas", 1.5, "an integer from 1"),
        ("model", "", "a text that is not empty"),
        ("model", 3, "a text that is not empty"),
        ("memory", 3, "a text that is not empty"),
        ("dtype", "int8", "'bfloat16', "),
        ("cpus", "many", "a number from 0"),
        ("cpus", -1, "a number from 0"),
        ("cpus", float("nan"), "a number from 0"),
        ("gpus", True, "a number from 0"),
        ("exchange", "yes", "True or False"),
        ("exchange_every_s", 0, "a number from 0.01"),
        ("route_by", "session", "'tenant' or 'load'"),
        ("fallback_replicas", -1, "an integer from 0"),
        ("max_ongoing", 0, "an integer from 1"),
        ("max_queued", 0, "an integer from 1"),
        ("decoding_length", "long", 'an integer from 1 to 4096 or "auto"'),
        ("memory_bytes", 1, "an integer from"),
        ("cache_bytes", "1", "an integer from"),
        ("drain_s", "soon", "an integer from 0"),
        ("metrics_prefix", "a-b", "letters and digits"),
        ("prefix_cache", 1, "True or False"),
    ],
)
def test_arguments_that_are_not_allowed_are_refused_before_there_is_a_replica(name, value, allowed):
    with pytest.raises(ConfigError, match=allowed.replace("(", r"\(")) as refused:
        build_app({name: value})
    assert name in str(refused.value) or "memory" in name


def test_without_ray_the_application_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"lookahead-llm\[ray\]"):
        build_app({})


def test_tenants_go_by_their_header_or_requests_by_load():
    config = router_config("tenant", 3)
    assert config["request_router_class"].endswith("ConsistentHashRouter")
    assert config["request_router_kwargs"] == {"num_fallback_replicas": 3}
    assert router_config("load", 3) == {}


@pytest.mark.parametrize(
    ("client", "is_ours"),
    [
        (("127.0.0.1", 5), True),
        (["127.8.0.1", 5], True),
        (("::1", 5), True),
        (("10.0.0.1", 5), False),
        (("localhost", 5), False),
        (None, False),
        ((), False),
    ],
)
def test_without_a_key_only_ones_own_machine_is_answered(client, is_ours):
    assert is_local(client) is is_ours
    sent = []

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    asyncio.run(LocalClients(app)({"type": "http", "client": client}, None, send))
    assert sent[0]["status"] == (200 if is_ours else 403)


def test_without_a_key_no_web_page_asks_under_a_name_of_its_own():
    keys = KeyRing.of_plain_keys(["key-of-the-operator"])
    assert "localhost" in ReplicaSettings().server_settings(None).allowed_hosts
    assert ReplicaSettings().server_settings(keys).allowed_hosts == ()
    assert ReplicaSettings(allow_without_key=True).server_settings(None).allowed_hosts == ()


def test_keys_come_from_a_file_or_from_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("LOOKAHEAD_API_KEY", raising=False)
    assert keys_of(ReplicaSettings()) is None
    monkeypatch.setenv("LOOKAHEAD_API_KEY", "key-of-the-operator")
    assert keys_of(ReplicaSettings()).access_of("key-of-the-operator").is_admin
    file = tmp_path / "keys.json"
    file.write_text('{"keys": [{"key": "key-of-tenant-a", "namespaces": ["tenant-a"]}]}')
    keys = keys_of(ReplicaSettings(api_keys=str(file)))
    assert keys.access_of("key-of-tenant-a").namespaces == ("tenant-a",)
    assert keys.access_of("key-of-the-operator") is None


class Server:
    """What a replica closes."""

    def __init__(self, memory_file="memory.safetensors"):
        self.calls = []
        self.is_draining = False
        self.engine = SimpleNamespace(
            is_running=True, drain=lambda seconds: self.calls.append(("drain", seconds))
        )
        self.settings = SimpleNamespace(memory_file=memory_file)
        self.memory_file = SimpleNamespace(save=lambda: self.calls.append(("save",)))


def replica_of_rank(rank, server):
    replica = object.__new__(ServedReplica)
    replica._context = lambda: SimpleNamespace(rank=None if rank is None else SimpleNamespace(rank=rank))
    replica._server, replica._ends = server, SimpleNamespace(set=lambda: None)
    replica._replica = SimpleNamespace(close=lambda: server.calls.append(("exchange",)))
    return replica


@pytest.mark.parametrize(
    ("rank", "file", "saves"), [(0, "m", True), (1, "m", False), (None, "m", False), (0, None, False)]
)
def test_at_the_end_all_exchange_and_the_replica_of_rank_0_saves(rank, file, saves):
    server = Server(file)
    replica = replica_of_rank(rank, server)
    replica.check_health()
    replica.close()
    replica.close()
    assert server.calls == [("drain", 0), ("exchange",)] + [("save",)] * saves
    assert server.is_draining


def test_a_replica_whose_engine_has_ended_is_not_healthy():
    server = Server()
    replica = replica_of_rank(0, server)
    server.engine.is_running = False
    with pytest.raises(EngineClosedError, match="has ended"):
        replica.check_health()
    replica.close()


def test_a_replica_that_was_not_made_has_nothing_to_close():
    object.__new__(ServedReplica).close()


def test_vllm_is_told_of_the_plugin():
    made = llm_config(
        "/models/m",
        model_id="m",
        replicas=2,
        lookahead={"memory_file": "/shared/m.safetensors", "save_every_s": 30},
        engine_kwargs={"tensor_parallel_size": 4, "additional_config": {"other": 1}},
    )
    assert made == {
        "model_loading_config": {"model_id": "m", "model_source": "/models/m"},
        "llm_engine": "vLLM",
        "engine_kwargs": {
            "tensor_parallel_size": 4,
            "speculative_config": {
                "method": "custom_class",
                "model": "lookahead.integrations.vllm.Proposer",
                "num_speculative_tokens": 16,
            },
            "additional_config": {
                "other": 1,
                "lookahead": {"memory_file": "/shared/m.safetensors", "save_every_s": 30},
            },
        },
        "deployment_config": {"num_replicas": 2, "request_router_config": router_config("tenant", 2)},
    }
    assert llm_config("m")["model_loading_config"]["model_id"] == "m"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"replicas": 0}, "replicas=0"),
        ({"draft_tokens": 0}, "draft_tokens=0"),
        ({"lookahead": {"memory": "m"}}, "lookahead.memory is no option"),
        ({"lookahead": {"memory_file": 3}}, "memory_file=3"),
        ({"lookahead": {"save_every_s": 0}}, "save_every_s=0"),
        ({"engine_kwargs": {"speculative_config": {}}}, "instead"),
        ({"engine_kwargs": {"additional_config": {"lookahead": {}}}}, "instead"),
    ],
)
def test_settings_of_the_plugin_that_are_not_allowed_are_refused(given, fault):
    with pytest.raises(ConfigError, match=fault):
        llm_config("m", **given)


def test_ray_takes_the_settings_where_it_can_be_asked():
    pytest.importorskip("vllm", reason="LLMConfig of ray.serve.llm needs vLLM")
    llm = pytest.importorskip("ray.serve.llm", reason="Ray is not installed")
    config = llm.LLMConfig(**llm_config("m", lookahead={"max_bytes": 2**20}))
    assert config.engine_kwargs["additional_config"] == {"lookahead": {"max_bytes": 2**20}}
