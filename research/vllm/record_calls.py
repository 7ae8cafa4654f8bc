"""Record what vLLM calls a proposer with, in vLLM's environment.

    python -m research.vllm.record_calls MODEL OUT.json

The tests play the calls to our proposer where there is no vLLM. Eight requests, two of them equal, share a
cache that is too small for them and read their prompts in chunks: rows are condensed and swapped, requests
are preempted and come back.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

DOCUMENT = (
    "The harbour opens at six in the morning. Boats longer than twelve metres need a permit from the harbour "
    "master, which costs forty crowns. Dogs are allowed on the pier, but not on the beach. "
)
QUESTIONS = (
    "Repeat the text word for word.",
    "When does it open?",
    "Repeat the text word for word.",
    "Write the facts as a list.",
    "Who needs a permit?",
    "Repeat the text twice.",
    "Are dogs allowed?",
    "Say hello.",
)
MAX_TOKENS = (40, 24, 40, 31, 17, 48, 12, 8)


def main() -> None:
    """Answer the requests and write what was recorded."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams  # noqa: PLC0415

    llm: Any = LLM(
        sys.argv[1],
        dtype="float32",
        max_num_seqs=4,
        max_model_len=256,
        enforce_eager=True,
        disable_log_stats=False,
        enable_prefix_caching=False,
        block_size=32,
        num_gpu_blocks_override=12,
        max_num_batched_tokens=64,
        long_prefill_token_threshold=32,
        enable_chunked_prefill=True,
        speculative_config={
            "method": "custom_class",
            "model": "research.vllm.recording.RecordingProposer",
            "num_speculative_tokens": 8,
        },
        additional_config={"lookahead": {"budget": "all"}},
    )
    tokenizer = llm.get_tokenizer()
    prompts, parameters = [], []
    for number, (question, tokens) in enumerate(zip(QUESTIONS, MAX_TOKENS, strict=True)):
        text = f"{DOCUMENT}{question}"
        found = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        prompts.append({"prompt_token_ids": list(found if isinstance(found, list) else found["input_ids"])})
        extra = {"lookahead_namespace": f"tenant-{number % 2}"}
        parameters.append(SamplingParams(temperature=0, max_tokens=tokens, extra_args=extra))
    outputs = llm.generate(prompts, parameters, use_tqdm=False)
    from research.vllm.recording import CALLS  # noqa: PLC0415  before vLLM, numba ends its start

    preempted = [one.value for one in llm.get_metrics() if one.name == "vllm:num_preemptions"]
    requests = {
        name: {"prompt": output.prompt_token_ids, "max_tokens": tokens, "namespace": f"tenant-{number % 2}"}
        for number, (name, output, tokens) in enumerate(
            zip(
                sorted({row["id"] for call in CALLS for row in call["rows"]}),
                outputs,
                MAX_TOKENS,
                strict=True,
            )
        )
    }
    record = {
        "end_token": tokenizer.eos_token_id,
        "vocabulary": llm.llm_engine.model_config.get_vocab_size(),
        "preemptions": int(preempted[0]),
        "requests": requests,
        "answers": {
            name: list(output.outputs[0].token_ids) for name, output in zip(requests, outputs, strict=True)
        },
        "calls": CALLS,
    }
    Path(sys.argv[2]).write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
