"""vLLM's own API server with our proposer: tenants, grammars, and what is left at the end."""

import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lookahead import DraftMemory
from research.vllm.client import engine_variables

pytestmark = pytest.mark.slow

ENVIRONMENT = Path(os.environ.get("LOOKAHEAD_VLLM_ENVIRONMENT", "none"))
MODEL = os.environ.get("LOOKAHEAD_VLLM_MODEL", "none")
SPECULATIVE = {
    "method": "custom_class",
    "model": "lookahead.integrations.vllm.Proposer",
    "num_speculative_tokens": 8,
}
TEXT = "Say the days of the week. Say them again. Say them once more."
SCHEMA = {
    "type": "object",
    "properties": {"day": {"type": "string", "maxLength": 12}, "number": {"type": "integer"}},
    "required": ["day", "number"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server, its process and its memory file."""
    folder = tmp_path_factory.mktemp("server")
    memory = folder / "memory.safetensors"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"lookahead": {"memory_file": str(memory), "budget": "all", "save_every_s": 3600}}
    command = [
        *(str(ENVIRONMENT / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", MODEL, "--served-model-name", "embedded", "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", "1024", "--max-num-seqs", "4", "--host", "127.0.0.1", "--port", str(port)),
        # Here the worker is a process of its own; and without a timeout vLLM kills it at once.
        *("--scheduler-cls", "lookahead.integrations.vllm.SaltScheduler", "--shutdown-timeout", "20"),
        *("--speculative-config", json.dumps(SPECULATIVE), "--additional-config", json.dumps(options)),
    ]
    variables = os.environ | engine_variables(ENVIRONMENT, 1) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output)  # noqa: S603
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 300
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.5)
    yield url, process, memory
    process.kill()
    process.wait()


def chat(url, **body):
    body = {"model": "embedded", "temperature": 0, "max_tokens": 32, "ignore_eos": True, **body}
    body.setdefault("messages", [{"role": "user", "content": TEXT}])
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def accepted(url):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("vllm:spec_decode_num_accepted_tokens_total")]
    return float(found[0].rsplit(" ", 1)[1])


def test_tenants_are_apart_grammars_hold_and_the_memory_is_saved_at_the_end(server):
    url, process, memory = server
    names = [{"vllm_xargs": {"lookahead_namespace": "tenant-a"}}, {"cache_salt": "tenant-b"}]
    with ThreadPoolExecutor(4) as threads:
        texts = list(threads.map(lambda number: chat(url, **names[number % 2]), range(8)))
    assert len(set(texts)) == 1
    assert accepted(url) > 0

    form = {"type": "json_schema", "json_schema": {"name": "day", "schema": SCHEMA, "strict": True}}
    for _ in range(2):  # the second one is drafted from the first
        before = accepted(url)
        text = chat(url, response_format=form, ignore_eos=False, max_tokens=64)
        parsed = json.loads(text)
        assert set(parsed) == {"day", "number"}
        assert isinstance(parsed["number"], int)
    assert accepted(url) > before

    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    held = DraftMemory.load(memory).namespaces
    assert held["tenant-a"] == held["cache_salt:tenant-b"] == 4 * 32
    assert set(held) == {"tenant-a", "cache_salt:tenant-b", "default"}
