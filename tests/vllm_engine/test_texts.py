"""vLLM itself with our proposer: the text of vLLM without it, and each answer in the memory once."""

import os
from itertools import count
from pathlib import Path

import pytest

from research.vllm.client import VllmProcess

pytestmark = pytest.mark.slow

ENVIRONMENT = Path(os.environ.get("LOOKAHEAD_VLLM_ENVIRONMENT", "none"))
MODEL = os.environ.get("LOOKAHEAD_VLLM_MODEL", "none")
DOCUMENT = (
    "The harbour opens at six in the morning. Boats longer than twelve metres need a permit from the harbour "
    "master, which costs forty crowns. Dogs are allowed on the pier, but not on the beach. "
)
QUESTIONS = (
    "When does the harbour open?",
    "Who needs a permit, and what does it cost?",
    "Repeat the text word for word.",
    "Summarise the text in one sentence.",
    "Are dogs allowed on the beach?",
    "Write the text again, in capital letters.",
    "List the facts of the text.",
    "What is forbidden?",
)
NUMBERS = count()


@pytest.fixture(scope="module")
def requests():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    made = []
    for number, question in enumerate(QUESTIONS * 2):
        text = DOCUMENT * (1 + 3 * (number % 2)) + question
        ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        ids = ids if isinstance(ids, list) else ids["input_ids"]
        made.append({"prompt_ids": list(ids), "max_tokens": 64})
    return made


@pytest.fixture
def engine(tmp_path):
    running = []

    def start(method, *, rows=4, **job):
        job = {"model": MODEL, "dtype": "float32", "method": method, "rows": rows, **job}
        running.append(VllmProcess(ENVIRONMENT, job, threads=1, log=tmp_path / f"{next(NUMBERS)}.log"))
        return running[-1]

    yield start
    for process in running:
        process.close()


@pytest.fixture(scope="module")
def plain(requests, tmp_path_factory):
    """The answers of vLLM without speculation."""
    job = {"model": MODEL, "dtype": "float32", "method": "none", "rows": 4}
    log = tmp_path_factory.mktemp("vllm") / "plain.log"
    with VllmProcess(ENVIRONMENT, job, threads=1, log=log) as process:
        return process.do("run", requests=requests)["answers"]


def in_namespaces(requests, kind):
    return [one | {kind: f"tenant-{number % 3}"} for number, one in enumerate(requests)]


def tokens_by_tenant(answers, prefix=""):
    counted = {}
    for number, answer in enumerate(answers):
        name = f"{prefix}tenant-{number % 3}"
        counted[name] = counted.get(name, 0) + len(answer)
    return counted


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"rows": 1},
        {"lookahead": {"budget": "all"}},
        # 20 blocks of 32 tokens for 4 requests of up to 300 each: they are preempted; chunks of 64 tokens
        {
            "lookahead": {"budget": "all"},
            "engine": {
                "num_gpu_blocks_override": 20,
                "block_size": 32,
                "max_num_batched_tokens": 128,
                "long_prefill_token_threshold": 64,
                "enable_chunked_prefill": True,
            },
            "max_model_len": 512,
        },
    ],
    ids=["auto", "one row", "all drafts", "preempted and in chunks"],
)
def test_the_text_is_vllms_own_and_the_memory_holds_each_answer_once(engine, requests, plain, variant):
    process = engine("lookahead", **variant)
    asked = in_namespaces(requests, "namespace")
    told = process.do("run", requests=asked)
    assert told["answers"] == plain
    assert told["accepted"] > 0
    assert process.do("state")["namespaces"] == tokens_by_tenant(plain)
    if "engine" in variant:
        assert told["preemptions"] > 0
    again = process.do("run", requests=asked)
    assert again["answers"] == plain
    assert again["accepted"] > told["accepted"]
    twice = {name: 2 * tokens for name, tokens in tokens_by_tenant(plain).items()}
    assert process.do("state")["namespaces"] == twice


def test_a_cache_salt_is_a_namespace(engine, requests, plain):
    process = engine("lookahead", lookahead={"budget": "all"})
    told = process.do("run", requests=in_namespaces(requests, "salt"))
    assert told["answers"] == plain
    state = process.do("state")
    assert state["namespaces"] == tokens_by_tenant(plain, "cache_salt:")
    assert state["scheduler"] == "SaltScheduler"


def test_a_memory_file_warms_the_next_engine(engine, requests, plain, tmp_path):
    options = {"memory_file": str(tmp_path / "memory.safetensors"), "budget": "all"}
    first = engine("lookahead", lookahead=options)
    cold = first.do("run", requests=requests)
    first.close()  # the process ends and saves
    second = engine("lookahead", lookahead=options)
    assert second.do("state")["namespaces"] == {"default": sum(map(len, plain))}
    warm = second.do("run", requests=requests)
    assert warm["answers"] == cold["answers"] == plain
    assert warm["accepted"] > cold["accepted"]
