"""Malformed bodies, headers and connections: an error in OpenAI's shape or a valid answer, never a 5xx."""

import json
import os
import random
import re
import socket

import httpx
import pytest
import schemathesis
from schemathesis import Case

pytestmark = pytest.mark.model

CASES = int(os.environ.get("LOOKAHEAD_MALFORMED", "24"))
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/tokenize",
    "/detokenize",
    "/lookahead/memory/warm",
    "/lookahead/memory/forget",
)
VALID = {
    "messages": [{"role": "user", "content": "a"}],
    "prompt": "a",
    "input": "a",
    "tokens": [1],
    "texts": ["a"],
    "namespace": "n",
    "max_tokens": 2,
    "max_output_tokens": 2,
}
VALUES = [
    None,
    True,
    0,
    -1,
    2**63,
    10**400,
    1e308,
    "",
    "\0",
    "\ud800",
    "x" * 5000,
    [],
    [None],
    [[]],
    {},
    {"a": {}},
    {"type": "function"},
    {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}},
    {"regex": "(((("},
    {"grammar": "root ::= "},
    {"choice": [""]},
]
FIELDS = re.findall(
    r"\w+",
    """
    temperature top_p top_k min_p n stream stop seed logit_bias logprobs top_logprobs tools tool_choice
    response_format structured_outputs prediction cache_salt lookahead stream_options echo suffix bad_words
    allowed_token_ids stop_token_ids chat_template_kwargs repetition_penalty min_tokens priority text include
    """,
)


def assert_in_shape(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]


@pytest.fixture(autouse=True)
def nothing_is_left(live):
    yield
    live.wait_until_idle()
    assert httpx.get(f"{live.url}/health").status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"messages": "\xff"}',
        b"[" * 3000,
        b'{"a":' * 3000,
        b'{"messages": []}',
        b'{"model": 5, "messages": [{"role": "user", "content": "a"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "king", "content": "a"}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1' + b"0" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("path", PATHS[:3])
def test_bodies_that_are_no_request(live, path, content):
    answer = httpx.post(f"{live.url}{path}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert_in_shape(answer)


def test_bodies_that_are_too_long(live):
    large = b'{"prompt": "' + b"x" * (9 * 2**20) + b'"}'

    def in_parts():
        for begin in range(0, len(large), 2**20):
            yield large[begin : begin + 2**20]

    for content in (large, in_parts()):
        try:
            answer = httpx.post(f"{live.url}/v1/completions", content=content, timeout=60)
        except httpx.WriteError:  # the server closed before all was sent
            continue
        assert answer.status_code == 413
        assert_in_shape(answer)


def test_random_values_in_any_field(live):
    choose = random.Random(1)
    with httpx.Client(base_url=live.url, timeout=120) as client:
        for _ in range(CASES * 5):
            path = choose.choice(PATHS)
            body = dict(VALID)
            for _ in range(choose.randint(1, 3)):
                body[choose.choice([*VALID, *FIELDS])] = choose.choice(VALUES)
            content = json.dumps(body, allow_nan=True).encode()
            assert_in_shape(client.post(path, content=content, headers={"content-type": "application/json"}))


def test_half_requests_and_no_http(live):
    host, port = live.url.removeprefix("http://").split(":")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    sent = [
        b"",
        b"\0" * 100,
        b"GET",
        b"GET / HTTP/9.9\r\n\r\n",
        head,
        head + b"Content-Length: 100\r\n\r\n{",
        head + b"Content-Length: -5\r\n\r\n{}",
        head + b"Content-Length: ten\r\n\r\n{}",
        head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        head + b"X-Request-Id: " + b"\xff" * 50 + b"\r\nContent-Length: 2\r\n\r\n{}",
        head + b"Authorization: " + b"x" * 60000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ]
    for content in sent * max(1, CASES // 40):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while part := connection.recv(65536):
                received += part
        assert not received.startswith(b"HTTP/1.1 5"), (content, received)


@pytest.fixture(scope="module")
def schema(live):
    return schemathesis.openapi.from_url(f"{live.url}/openapi.json")


def test_bodies_of_the_schema_and_beside_it(live, schema):
    """What the schema allows, and what it does not, made up by schemathesis."""
    for operation in schema.get_all_operations():
        made = operation.ok()
        if made.method.lower() != "post":
            continue
        check_operation(live, made)


def check_operation(live, operation):
    from hypothesis import HealthCheck, Phase, given, settings

    strategy = operation.as_strategy()

    @given(case=strategy)
    @settings(
        max_examples=max(4, CASES // 8),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Case):
        if isinstance(case.body, dict):
            for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
                case.body[name] = 2
            case.body["n"] = 1
        assert_in_shape(case.call(base_url=live.url, timeout=60))

    check()
