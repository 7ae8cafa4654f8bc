"""A vLLM engine that does what it is told line by line: `python -m research.vllm.engine_process JOB`.

It runs in vLLM's environment. Jobs and results are JSON, one on each line; what vLLM itself prints goes to
stderr.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

LOOKAHEAD = {"method": "custom_class", "model": "lookahead.integrations.vllm.Proposer"}
METHODS: Mapping[str, Mapping[str, Any] | None] = {
    "none": None,
    "lookahead": LOOKAHEAD,
    "suffix": {"method": "suffix"},
}


class EngineProcess:
    """Answers batches of requests with vLLM.

    Args:
        job: `model`, `dtype`, `method`, `rows`, and perhaps `draft_tokens`, `lookahead` (our options) and
            `engine` (further arguments of `vllm.LLM`).
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        from vllm import LLM  # noqa: PLC0415  only in vLLM's environment

        speculative = METHODS[job["method"]]
        if speculative is not None:
            speculative = {**speculative, "num_speculative_tokens": job.get("draft_tokens", 16)}
        self._method: str = job["method"]
        self._llm: Any = LLM(
            job["model"],
            dtype=job["dtype"],
            max_num_seqs=job["rows"],
            max_model_len=job.get("max_model_len", 2048),
            enforce_eager=True,
            enable_prefix_caching=False,
            disable_log_stats=False,
            speculative_config=speculative,
            additional_config={"lookahead": job.get("lookahead", {})} if job["method"] == "lookahead" else {},
            **job.get("engine", {}),
        )
        self._core: Any = self._llm.llm_engine.engine_core.engine_core
        self._runner: Any = self._core.model_executor.driver_worker.worker.model_runner
        self._preemptions = 0

    def run(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Answer requests that come all at once; return their tokens and the seconds."""
        from vllm import SamplingParams  # noqa: PLC0415

        prompts, parameters = [], []
        for one in requests:
            prompt: dict[str, Any] = {"prompt_token_ids": one["prompt_ids"]}
            if "salt" in one:
                prompt["cache_salt"] = one["salt"]
            extra = {"lookahead_namespace": one["namespace"]} if "namespace" in one else None
            prompts.append(prompt)
            parameters.append(
                SamplingParams(
                    temperature=one.get("temperature", 0.0),
                    seed=one.get("seed"),
                    max_tokens=one["max_tokens"],
                    ignore_eos=one.get("ignore_eos", False),
                    extra_args=extra,
                )
            )
        before = self._counters()
        cpu, wall = time.process_time(), time.perf_counter()
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        counted = {name: value - before[name] for name, value in self._counters().items()}
        return {
            "answers": [list(output.outputs[0].token_ids) for output in outputs],
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            **counted,
        }

    def reset(self) -> dict[str, Any]:
        """Let a suffix cache begin anew. Our memory needs none: each pass has a namespace of its own."""
        if self._method == "suffix":
            drafter = self._runner.drafter
            old = drafter.suffix_cache
            drafter.suffix_cache = type(old)(
                max_tree_depth=old.max_tree_depth, max_cached_requests=old.max_cached_requests
            )
        return {}

    def state(self) -> dict[str, Any]:
        """Return what our proposer holds and has learned of steps."""
        drafter = self._runner.drafter
        memory = drafter.memory.memory
        return {
            "namespaces": memory.namespaces,
            "coefficients": list(drafter.budget.times.coefficients),
            "scheduler": type(self._core.scheduler).__name__,
        }

    def _counters(self) -> dict[str, int]:
        names = {
            "vllm:num_preemptions": "preemptions",
            "vllm:spec_decode_num_draft_tokens": "drafted",
            "vllm:spec_decode_num_accepted_tokens": "accepted",
            "vllm:spec_decode_num_drafts": "drafts",
        }
        counted = dict.fromkeys(names.values(), 0)
        for metric in self._llm.get_metrics():
            if metric.name in names:
                counted[names[metric.name]] += int(metric.value)
        return counted


def main() -> None:
    """Serve jobs until the input ends."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = EngineProcess(json.loads(sys.argv[1]))
    results.write("{}\n")
    results.flush()
    for line in sys.stdin:
        job = json.loads(line)
        results.write(json.dumps(getattr(engine, job.pop("do"))(**job)) + "\n")
        results.flush()


if __name__ == "__main__":
    main()
