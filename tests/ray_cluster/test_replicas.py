"""Two replicas with Ray on this machine: what they share, where tenants go, overload, and what survives."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from helpers.ray_cluster import NAME, sources_of, wait_for
from lookahead import DraftMemory

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
LONG = {
    "prompt": "theSea",
    "max_tokens": 1500,
    "ignore_eos": True,
    "temperature": 1,  # and not remembered: nothing is drafted that would make it short
    "lookahead": {"namespace": "long", "remember": False},
}


def test_what_one_learned_the_other_drafts_within_two_seconds(cluster):
    one, other = cluster.tenants()
    first = cluster.answer("theFirstPrompt", tenant=one, namespace="shared")
    begin = time.monotonic()
    assert "memory" not in sources_of(first)
    while "memory" not in sources_of(cluster.answer("theFirstPrompt", tenant=other, namespace="shared")):
        assert time.monotonic() - begin < 2
        time.sleep(0.1)


def test_counts_are_exact_after_ten_rounds(cluster):
    one, other = cluster.tenants()
    for number in range(10):
        cluster.answer(f"round{number}of", tenant=one, namespace="rounds-1", tokens=7)
        cluster.answer(f"turn{number}of", tenant=other, namespace="rounds-2", tokens=5)
    for tenant in (one, other):
        wait_for(lambda: cluster.counts(tenant, "rounds-1", "rounds-2") == (70, 50))  # noqa: B023  at once
    time.sleep(1)  # some exchanges more
    for tenant in (one, other):
        assert cluster.counts(tenant, "rounds-1", "rounds-2") == (70, 50)


def test_namespaces_stay_apart_on_all_replicas(cluster):
    one, other = cluster.tenants()
    cluster.answer("aSecretPrompt", tenant=one, namespace="walls-a")
    for tenant in (one, other):
        wait_for(lambda: cluster.counts(tenant, "walls-a") == (24,))  # noqa: B023  at once
        assert "memory" not in sources_of(
            cluster.answer("aSecretPrompt", tenant=tenant, namespace=f"walls-of-{tenant}")
        )
        assert "memory" in sources_of(cluster.answer("aSecretPrompt", tenant=tenant, namespace="walls-a"))


def test_a_tenant_has_one_replica_and_tenants_are_spread(cluster):
    tenants = [f"tenant-{number}" for number in range(12)]
    homes = {tenant: cluster.replica_of(tenant) for tenant in tenants}
    assert len(set(homes.values())) == 2
    for _ in range(5):
        assert {tenant: cluster.replica_of(tenant) for tenant in tenants} == homes


def test_a_stream_is_what_openais_client_reads(cluster):
    (tenant, _) = cluster.tenants()
    client = openai.OpenAI(
        base_url=f"{cluster.url}/v1", api_key="none", default_headers={"x-session-id": tenant}
    )
    asked = {"model": NAME, "prompt": "theSea", "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > 2


def test_events_come_as_they_are_made(cluster):
    body = LONG | {"stream": True}
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        begins = [time.monotonic() for _ in response.iter_lines()]
    assert begins[-1] - begins[0] > 0.1


def test_a_client_that_leaves_frees_its_row(cluster):
    (tenant, _) = cluster.tenants()
    with httpx.stream(
        "POST",
        f"{cluster.url}/v1/completions",
        json=LONG | {"stream": True},
        headers=cluster.headers(tenant),
        timeout=60,
    ) as response:
        lines = response.iter_lines()  # kept: without it httpx closes the connection
        next(lines)
        assert cluster.metric(tenant, "num_requests_running") == 1
    wait_for(lambda: cluster.metric(tenant, "num_requests_running") == 0, seconds=5)


def burst(cluster, count, tenant=None):
    """The answers to so many requests, which begin one by one: all that come at once count as queued."""
    with ThreadPoolExecutor(count) as threads:
        running = []
        for _ in range(count):
            running.append(threads.submit(cluster.post, "/v1/completions", LONG, tenant))
            time.sleep(0.05)
    return [one.result() for one in running]


def test_under_overload_some_are_told_503_and_when_to_ask_again(cluster):
    answers = burst(cluster, 24)
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 503}
    assert counts[200] >= 6
    refused = [answer for answer in answers if answer.status_code == 503]
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    answer = cluster.post("/v1/completions", LONG | {"max_tokens": 2})
    assert answer.status_code == 200
    assert len(answer.headers.get_list("x-request-id")) == 1


def test_a_full_replica_sends_its_tenants_to_the_other_one(cluster):
    (tenant, _) = cluster.tenants()
    home = cluster.replica_of(tenant)
    answers = burst(cluster, 5, tenant)
    assert [answer.status_code for answer in answers] == [200] * 5
    replicas = Counter(answer.headers["x-lookahead-replica"] for answer in answers)
    assert replicas[home] >= 3
    assert len(replicas) == 2


def test_what_one_is_told_to_forget_all_forget(cluster):
    one, other = cluster.tenants()
    cluster.answer("toBeForgotten", tenant=one, namespace="gone")
    wait_for(lambda: cluster.counts(other, "gone") == (24,))
    assert cluster.post("/lookahead/memory/forget", {"namespace": "gone"}, one).status_code == 200
    wait_for(lambda: cluster.counts(other, "gone") == cluster.counts(one, "gone") == (0,))


def test_the_file_has_what_both_learned(cluster):
    one, other = cluster.tenants()
    cluster.answer("savedByOne", tenant=one, namespace="saved-1")
    cluster.answer("savedByTheOther", tenant=other, namespace="saved-2")

    def is_saved():
        held = DraftMemory.load(cluster.memory_file).namespaces
        return (held.get("saved-1"), held.get("saved-2")) == (24, 24)

    wait_for(lambda: cluster.memory_file.exists() and is_saved())


def test_without_keys_other_machines_are_refused(cluster):
    address = ray.util.get_node_ip_address()
    if address.startswith("127."):
        pytest.skip("this machine has no other address than its own")
    refused = httpx.get(cluster.url.replace("127.0.0.1", address) + "/version")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "key_needed")


def test_the_exchange_goes_on_after_its_actor_died(cluster):
    one, other = cluster.tenants()
    (name,) = [
        found["name"] for found in ray.util.list_named_actors(True) if "exchange-lookahead-" in found["name"]
    ]
    actor = ray.get_actor(name, namespace="lookahead")
    cluster.answer("beforeTheEnd", tenant=one, namespace="restart")
    ray.kill(actor, no_restart=False)
    cluster.answer("afterTheEnd", tenant=one, namespace="restart")
    wait_for(lambda: cluster.counts(other, "restart") == (48,))
    ray.kill(actor, no_restart=True)
    cluster.answer("afterTheLastEnd", tenant=other, namespace="restart")
    wait_for(lambda: cluster.counts(one, "restart") == cluster.counts(other, "restart") == (72,))


def test_one_replica_dies_and_requests_go_on(cluster):
    one, other = cluster.tenants()
    cluster.answer("whatIsKnown", tenant=one, namespace="survives")
    wait_for(lambda: cluster.counts(other, "survives") == (24,))
    victim, survivor = cluster.replica_of(one), cluster.replica_of(other)
    (name,) = [
        found["name"] for found in ray.util.list_named_actors(True) if found["name"].endswith(f"#{victim}")
    ]
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(cluster.post, "/v1/completions", LONG, other)
        ray.kill(ray.get_actor(name, namespace="serve"))
        assert running.result().status_code == 200
    after = [cluster.post("/v1/completions", LONG | {"max_tokens": 4}, one) for _ in range(5)]
    assert [answer.status_code for answer in after] == [200] * 5
    assert {answer.headers["x-lookahead-replica"] for answer in after} == {survivor}
    new = [tenant for tenant in cluster.tenants() if cluster.replica_of(tenant) not in (victim, survivor)]
    assert cluster.counts(new[0], "survives") == (24,)  # from the file, or the exchange
    assert "memory" in sources_of(cluster.answer("whatIsKnown", tenant=new[0], namespace="survives"))


def test_tenants_with_keys_behind_a_prefix_and_the_save_at_the_end(cluster, tmp_path):
    from ray import serve

    from lookahead.integrations.ray import build_app

    keys, file = tmp_path / "keys.json", tmp_path / "memory.safetensors"
    keys.write_text(
        '{"keys": [{"key": "key-of-tenant-a", "namespaces": ["a"]}, {"key": "key-of-tenant-b", '
        '"namespaces": ["b"]}, {"key": "key-of-the-operator", "admin": true}]}'
    )
    arguments = cluster.arguments | {"replicas": 1, "cpus": 0.5, "api_keys": str(keys), "memory": str(file)}
    serve.run(build_app(arguments | {"save_memory_every_s": 0}), name="keyed", route_prefix="/keyed")
    url = f"{cluster.url}/keyed"
    bearer = {name: {"authorization": f"Bearer key-of-{name}"} for name in ("tenant-a", "the-operator")}
    assert httpx.post(f"{url}/v1/completions", json=LONG).status_code == 401
    body = LONG | {"max_tokens": 12, "lookahead": {}}
    assert httpx.post(f"{url}/v1/completions", json=body, headers=bearer["tenant-a"]).status_code == 200
    foreign = body | {"lookahead": {"namespace": "b"}}
    assert httpx.post(f"{url}/v1/completions", json=foreign, headers=bearer["tenant-a"]).status_code == 403
    held = httpx.get(f"{url}/lookahead/memory", headers=bearer["the-operator"]).json()["namespaces"]
    assert held == {"a": 12}
    assert cluster.counts(None, "a") == (0,)
    assert not file.exists()
    serve.delete("keyed")
    assert DraftMemory.load(file).namespaces == {"a": 12}
