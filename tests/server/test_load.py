"""Many clients at once, as `make soak` has them for minutes; and what /metrics says of it."""

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from scripts.soak_server import found_faults, many_clients, metric

pytestmark = pytest.mark.model
MODEL = (("model_name", "embedded"),)


def values_of(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_many_clients_leave_nothing_behind_and_counters_add_up(live):
    before = httpx.get(f"{live.url}/metrics").text
    told = asyncio.run(many_clients(live.url, clients=8, seconds=2))
    live.wait_until_idle()
    after = httpx.get(f"{live.url}/metrics").text
    assert told.faults == []
    for name, value in (("prompt_tokens_total", told.prompt), ("generation_tokens_total", told.completion)):
        counted = metric(after, name) - metric(before, name)
        assert value <= counted <= value + (200 * told.left)
    assert told.completion > 0


def test_metrics_are_what_prometheus_reads_and_only_grow(live):
    first = values_of(httpx.get(f"{live.url}/metrics").text)
    body = {
        "messages": [{"role": "user", "content": "one two one two one two"}],
        "max_tokens": 20,
        "temperature": 0,
    }
    usage = httpx.post(f"{live.url}/v1/chat/completions", json=body, timeout=60).json()["usage"]
    live.wait_until_idle()
    second = values_of(httpx.get(f"{live.url}/metrics").text)
    assert set(first) <= set(second)

    def grown(name, **labels):
        key = (f"lookahead:{name}", tuple(sorted((labels | {"model_name": "embedded"}).items())))
        return second[key] - first.get(key, 0)

    assert grown("prompt_tokens_total") == usage["prompt_tokens"]
    assert grown("generation_tokens_total") == usage["completion_tokens"]
    details = usage["completion_tokens_details"]
    accepted = details["accepted_prediction_tokens"]
    assert grown("spec_decode_num_accepted_tokens_total") == accepted
    drafted = grown("spec_decode_num_draft_tokens_total")
    assert drafted == accepted + details["rejected_prediction_tokens"] >= accepted > 0
    by_place = [
        value - first.get(key, 0)
        for key, value in sorted(second.items(), key=lambda item: str(item[0]))
        if key[0] == "lookahead:spec_decode_num_accepted_tokens_per_pos_total"
    ]
    assert sum(by_place) == accepted
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert grown(f"{name}_count") == 1
    assert (
        second["lookahead:num_requests_running", MODEL]
        == second["lookahead:num_requests_waiting", MODEL]
        == 0
    )
    shrunk = [
        key
        for key, value in first.items()
        if key[0].endswith(("_total", "_count", "_bucket", "_sum")) and second[key] < value
    ]
    assert shrunk == []
    assert 0 <= second["lookahead:kv_cache_usage_perc", MODEL] <= 1


def test_faults_of_a_soak_are_found():
    from collections import Counter

    from scripts.soak_server import Told

    text = "lookahead:prompt_tokens_total 5.0\nlookahead:generation_tokens_total 7.0\n"
    assert found_faults(Told(Counter(), 5, 7), text) == []
    assert found_faults(Told(Counter(), 5, 6), text)
    assert found_faults(Told(Counter(), 6, 7), text)
    assert found_faults(Told(Counter(), 5, 7, 0, ["status 500"]), text) == ["status 500"]
    assert found_faults(Told(Counter(), 4, 6, left=1), text) == []
