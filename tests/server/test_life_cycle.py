"""Clients that leave, full queues, signals: rows are freed, running requests end, the memory is saved."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import openai
import pytest

from helpers.live_server import serving, tiny_chat_model
from helpers.samples import sampled
from helpers.tiny_models import tiny_model, tiny_tokenizer
from lookahead import DraftMemory, LookaheadConfig
from lookahead.engine import EngineSettings

LONG = {
    "messages": [{"role": "user", "content": "Write a long story about the sea."}],
    "max_tokens": 20_000,
    "ignore_eos": True,
    "temperature": 0,
}
SHORT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, "temperature": 0}
CHAT = "/v1/chat/completions"
MAX_SECONDS = 30


@pytest.fixture(scope="module")
def small():
    """A small model in plain steps, with two rows and room for two more."""
    settings = EngineSettings(max_rows=2, max_queued=2)
    config = LookaheadConfig(decoding_length=1)
    with serving(*tiny_chat_model(), config=config, engine=settings, drain_s=1) as server:
        yield server


@pytest.fixture
def raw_request(small):
    """Opens a socket that has sent a request and reads nothing; it is closed after the test at the latest."""
    with ExitStack() as opened:

        def send(body):
            host, port = small.url.removeprefix("http://").split(":")
            content = json.dumps(body).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection = opened.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            return connection

        yield send


def wait_for(condition):
    end = time.monotonic() + MAX_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_leaves_frees_its_row(small, raw_request, is_streamed):
    before = small.engine.stats().finished.get("cancelled", 0)
    connection = raw_request(LONG | {"stream": is_streamed})
    wait_for(lambda: small.engine.stats().running == 1)
    connection.close()
    wait_for(lambda: small.engine.stats().running == 0)
    assert small.engine.stats().finished["cancelled"] == before + 1


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_leaves_while_it_waits_leaves_the_queue(small, raw_request, is_streamed):
    running = [raw_request(LONG) for _ in range(2)]
    wait_for(lambda: small.engine.stats().running == 2)
    waiting = raw_request(SHORT | {"stream": is_streamed})
    wait_for(lambda: small.engine.stats().waiting == 1)
    waiting.close()
    wait_for(lambda: small.engine.stats().waiting == 0)
    for connection in running:
        connection.close()
    small.wait_until_idle()


BODIES = {
    CHAT: LONG,
    "/v1/completions": {"prompt": "The sea", "max_tokens": 20_000, "ignore_eos": True},
    "/v1/responses": {"input": "The sea", "max_output_tokens": 20_000, "ignore_eos": True},
}


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("turns", range(6))
def test_a_client_that_leaves_at_any_turn_of_the_loop_leaves_nothing(small, path, is_streamed, turns):
    """The client leaves some turns of the event loop after its request is in the engine."""
    small.wait_until_idle()
    before = small.engine.stats().finished
    content = json.dumps(BODIES[path] | {"stream": is_streamed}).encode()
    messages = iter([{"type": "http.request", "body": content, "more_body": False}])

    async def receive():
        for message in messages:
            return message
        while not (stats := small.engine.stats()).running + stats.waiting:  # noqa: ASYNC110  counts turns
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(_message):
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")],
    }
    asyncio.run(small.app(scope, receive, send))
    small.wait_until_idle()
    after = small.engine.stats().finished
    assert after == before | {"cancelled": before.get("cancelled", 0) + 1}


def test_several_choices_leave_together(small, raw_request):
    connection = raw_request(LONG | {"n": 3, "stream": True})
    wait_for(lambda: small.engine.stats().running == 2)
    connection.close()
    small.wait_until_idle()


def test_a_full_queue_is_told_so_and_taken_later(small, raw_request):
    connections = [raw_request(LONG) for _ in range(4)]
    wait_for(lambda: (stats := small.engine.stats()).running + stats.waiting == 4)
    refused = httpx.post(small.url + CHAT, json=SHORT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    none_of_three = httpx.post(small.url + CHAT, json=SHORT | {"n": 3})
    assert none_of_three.status_code == 503
    with ThreadPoolExecutor(1) as threads:
        client = openai.OpenAI(base_url=f"{small.url}/v1", api_key="any", max_retries=5)
        later = threads.submit(client.chat.completions.create, model="embedded", **SHORT)
        time.sleep(0.5)
        for connection in connections:
            connection.close()
        assert later.result().choices[0].message.content
    small.wait_until_idle()


def test_a_slow_reader_holds_up_nobody(small, raw_request):
    slow = raw_request(LONG | {"stream": True, "max_tokens": 60, "lookahead": {"sources": True}})
    wait_for(lambda: small.engine.stats().running == 1)
    assert httpx.post(small.url + CHAT, json=SHORT, timeout=60).status_code == 200
    wait_for(lambda: small.engine.stats().running == 0)
    slow.close()


def test_pings_come_while_nothing_else_does(small, raw_request, monkeypatch):
    monkeypatch.setattr("lookahead.server.http.streaming.PING_SECONDS", 0.05)
    running = [raw_request(LONG) for _ in range(2)]
    wait_for(lambda: small.engine.stats().running == 2)

    body = {"prompt": "a", "stream": True}
    with httpx.stream("POST", f"{small.url}/v1/completions", json=body, timeout=60) as answer:
        assert next(line for line in answer.iter_lines() if line) == ": ping"
    for connection in running:
        connection.close()
    small.wait_until_idle()


def test_a_fault_of_one_answer_is_an_error_in_shape_and_others_go_on(small, monkeypatch):
    def fails(*_):
        message = "the grammar broke"
        raise RuntimeError(message)

    monkeypatch.setattr(small.state.grammars, "of", lambda *_: fails)
    for body in (SHORT, SHORT | {"stream": True}):
        answer = httpx.post(small.url + CHAT, json=body, timeout=60)
        assert "server failed" in answer.text
        assert "the grammar broke" not in answer.text
        if body is SHORT:
            assert answer.status_code == 500
        else:
            assert answer.text.endswith("data: [DONE]\n\n")
    monkeypatch.undo()
    assert httpx.post(small.url + CHAT, json=SHORT, timeout=60).status_code == 200


def started_server(tmp_path, *options, **variables):
    """`lookahead serve` in a process of its own; returns it and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "lookahead", "serve", "--port", str(port), "--threads", "1", *options]
    log = tmp_path / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output)  # noqa: S603
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return process, url
        except httpx.TransportError:
            time.sleep(0.1)
    process.kill()
    raise AssertionError(log.read_text())


@pytest.fixture
def tiny_server(tmp_path):
    """Starts a server with a small model, which decodes in plain steps, and with a memory file."""
    folder, file = str(tmp_path / "model"), str(tmp_path / "memory.safetensors")
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    memory = DraftMemory()
    memory.warm([list(range(3, 33))])
    memory.save(file, tokenizer=tiny_tokenizer())
    named = ("--model", folder, "--served-model-name", "tiny", "--memory", file)
    plain = ("--dtype", "float32", "--decoding-length", "1")
    return file, *started_server(tmp_path, *named, *plain, "--max-rows", "2")


def after_what_runs(process, url):
    """Stop a server that is answering; return how many tokens it must have learned."""
    tokens = 400  # a second or two
    long = {"prompt": "HelloHello", "max_tokens": tokens, "ignore_eos": True}
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(httpx.post, f"{url}/v1/completions", json=long, timeout=120)
        wait_for(lambda: 'num_requests_running{model_name="tiny"} 1.0' in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{url}/health").status_code == 503)
        refused = httpx.post(f"{url}/v1/completions", json=long)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert refused.headers["retry-after"]
        answer = running.result()
    assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, tokens)
    assert process.wait(timeout=MAX_SECONDS) == 0
    return tokens


def at_once(process, _url):
    """Stop a server that is idle."""
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 0
    assert time.monotonic() - begun < 5
    return 0


@pytest.mark.matrix
@pytest.mark.parametrize("end", sampled([after_what_runs, at_once], [after_what_runs]))
def test_sigterm_lets_running_requests_end_and_saves_the_memory(tiny_server, end):
    """The sample has a server that is answering; an idle one is in `make verify`."""
    file, process, url = tiny_server
    assert httpx.get(f"{url}/lookahead/memory").json()["namespaces"]["default"] >= 30  # it was loaded
    learned = end(process, url)
    assert DraftMemory.load(file).namespaces["default"] >= 30 + learned


@pytest.mark.model
def test_a_killed_server_loses_at_most_what_came_after_the_last_save(tmp_path):
    file = tmp_path / "memory.safetensors"
    options = ("--memory", str(file), "--save-memory-every", "1", "--dtype", "float32")
    options += ("--decoding-length", "8")  # step times need not be measured
    process, url = started_server(tmp_path, *options)
    httpx.post(url + CHAT, json=SHORT | {"max_tokens": 20, "ignore_eos": True}, timeout=60)
    wait_for(lambda: file.exists() and DraftMemory.load(file).namespaces.get("default", 0) >= 20)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(httpx.post, url + CHAT, json=LONG, timeout=60)
        time.sleep(1.2)
        process.kill()
        process.wait()
    assert DraftMemory.load(file).namespaces["default"] >= 20
