"""Keys and tenants over HTTP: nothing of one is drafted, cached or told for another."""

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.live_server import serving, tiny_chat_model
from helpers.samples import examples
from lookahead import LookaheadConfig
from lookahead.server.access import Access, KeyRing

CHAT, MEMORY = "/v1/chat/completions", "/lookahead/memory"
A, B, ADMIN = "key-of-tenant-a", "key-of-tenant-b", "key-of-the-operator"
KEYS = [
    (A, Access(("tenant-a", "shared"))),
    (B, Access(("tenant-b",))),
    (ADMIN, Access(None, is_admin=True)),
]
FIXED = LookaheadConfig(decoding_length=8)
# long enough for blocks of the prefix cache
STORY = "Repeat this: the grey cat sat on the red mat and looked at the blue bird. " * 5


@pytest.fixture(scope="module")
def guarded():
    """Drafts of a fixed size: the automatic one depends on how long steps take."""
    with serving(*tiny_chat_model(), config=FIXED, keys=KeyRing(KEYS)) as server:
        yield server


def post(server, path, body, key):
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=120)


def ask(server, key, text=STORY, **options):
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 24, "temperature": 0}
    answer = post(server, CHAT, body | options, key)
    assert answer.status_code == 200, answer.text
    return answer.json()


def forget(server, namespace):
    assert post(server, f"{MEMORY}/forget", {"namespace": namespace}, ADMIN).status_code == 200


def test_a_missing_or_wrong_key_opens_nothing(guarded):
    for path, body in [(CHAT, {}), ("/v1/completions", {}), ("/v1/responses", {}), ("/tokenize", {})]:
        for key in (None, "wrong", A[:-1], f"{A}x"):
            refused = post(guarded, path, body, key)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert httpx.get(f"{guarded.url}/v1/models").status_code == 401
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    basic = httpx.get(f"{guarded.url}/v1/models", headers={"authorization": f"Basic {A}"})
    assert basic.status_code == 401


def test_a_key_opens_its_own_namespaces_and_the_memory_is_the_operators(guarded):
    assert ask(guarded, A, lookahead={"namespace": "shared", "reads": ["tenant-a"]})
    for options in ({"namespace": "tenant-b"}, {"reads": ["tenant-b"]}, {"namespace": "default"}):
        body = {"messages": [{"role": "user", "content": "a"}], "lookahead": options}
        refused = post(guarded, CHAT, body, A)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "namespace_not_allowed")
    for path in ("warm", "save", "forget"):
        body = {"texts": ["a"], "namespace": "tenant-a"}
        assert post(guarded, f"{MEMORY}/{path}", body, A).status_code == 403
    headers = {"authorization": f"Bearer {A}"}
    assert httpx.get(f"{guarded.url}{MEMORY}", headers=headers).status_code == 403


def test_metrics_name_no_tenant(guarded):
    ask(guarded, A)
    guarded.wait_until_idle()
    text = httpx.get(f"{guarded.url}/metrics").text
    assert "tenant-a" not in text
    assert 'namespace="_others"' in text


def counts(answer):
    """All that a client learns of an answer but its id and the time."""
    text = answer["choices"][0]["message"]["content"]
    return text, answer["usage"]


@pytest.mark.matrix
@given(
    texts=st.lists(st.sampled_from([STORY, STORY[:120], "Say hello.", "One two three. " * 20]), max_size=3),
    seed=st.integers(0, 3),
)
@settings(
    max_examples=examples(24),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_one_tenant_gets_is_the_same_whatever_another_left(guarded, texts, seed):
    options = {"temperature": 0.7, "seed": seed}
    for name in ("tenant-a", "tenant-b", "shared"):
        forget(guarded, name)
    first = [counts(ask(guarded, B, **options)), counts(ask(guarded, B, **options))]
    forget(guarded, "tenant-b")
    for text in texts:
        ask(guarded, A, text)
    assert [counts(ask(guarded, B, **options)), counts(ask(guarded, B, **options))] == first
    assert first[0][1]["prompt_tokens_details"]["cached_tokens"] == 0
    assert first[1][1]["prompt_tokens_details"]["cached_tokens"] >= 64


def test_a_salt_separates_within_a_tenant(guarded):
    def cached(**options):
        answer = ask(guarded, A, "With salt. " + STORY, max_tokens=2, **options)
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert [cached(), cached(cache_salt="one"), cached(cache_salt="two")] == [0, 0, 0]
    assert all(cached(**options) >= 64 for options in ({}, {"cache_salt": "one"}))


def test_what_is_not_remembered_leaves_nothing(guarded):
    forget(guarded, "tenant-b")
    question = "Count from one to ten in words, slowly, and then stop. " * 6
    ask(guarded, B, question, lookahead={"remember": False})
    guarded.wait_until_idle()
    assert "tenant-b" not in guarded.lookahead.memory.namespaces
    again = ask(guarded, B, question, max_tokens=2)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_operator_warms_inspects_and_forgets(guarded):
    warmed = post(
        guarded, f"{MEMORY}/warm", {"texts": ["The cat sat."], "namespace": "library"}, ADMIN
    ).json()
    headers = {"authorization": f"Bearer {ADMIN}"}
    held = httpx.get(f"{guarded.url}{MEMORY}", headers=headers).json()
    assert held["namespaces"]["library"] == warmed["tokens"] > 0
    assert held["bytes"] > 0
    forget(guarded, "library")
    assert "library" not in httpx.get(f"{guarded.url}{MEMORY}", headers=headers).json()["namespaces"]
    assert post(guarded, f"{MEMORY}/save", {}, ADMIN).json()["error"]["code"] == "no_memory_file"


def test_forgetting_a_namespace_forgets_what_salts_hid_and_the_prefix_cache(guarded):
    text = "To be forgotten. " + STORY
    for options in ({}, {"cache_salt": "one"}):
        ask(guarded, A, text, max_tokens=2, **options)
    forget(guarded, "tenant-a")
    assert not any(name.startswith("tenant-a") for name in guarded.lookahead.memory.namespaces)
    for options in ({}, {"cache_salt": "one"}):
        again = ask(guarded, A, text, max_tokens=2, **options)
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_only_the_operator_comes_before_others(guarded):
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "priority": -1}
    assert post(guarded, CHAT, body, A).status_code == 403
    assert post(guarded, CHAT, body, ADMIN).status_code == 200
    assert post(guarded, CHAT, body | {"priority": 1}, A).status_code == 200


def test_a_server_without_keys_answers_to_its_own_name_only():
    with serving(*tiny_chat_model(), config=FIXED, allowed_hosts=("127.0.0.1", "[::1]")) as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
            refused = httpx.get(f"{server.url}/v1/models", headers={"host": host})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "host_not_allowed")
        assert httpx.get(f"{server.url}/v1/models", headers={"host": "[::1]:80"}).status_code == 200
