"""Measuring settings in turns: each prompt goes to all of them before the next one does."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.json_process import JsonProcess

_ROOT = Path(__file__).parents[3]
_WORKERS = "research.peers.engines.workers"


class Worker(JsonProcess):
    """A process that answers prompts.

    Args:
        python: The Python of its environment.
        program: Its module's name in `workers`.
        job: What it loads.
        log: A file for what it prints.

    Attributes:
        load_s: How long it took to load.

    Raises:
        NotFoundError: It did not start.
    """

    def __init__(self, python: Path, program: str, job: Mapping[str, Any], log: Path) -> None:
        super().__init__(
            [str(python), "-m", f"{_WORKERS}.with_{program}", json.dumps(dict(job))],
            name="a worker",
            log=log,
            variables={"OMP_NUM_THREADS": str(job["threads"]), "VLLM_CPU_KVCACHE_SPACE": "2"},
            folder=_ROOT,
        )
        self.load_s: float = self.ready["load_s"]

    def answer(self, prompt_ids: Sequence[int], max_new_tokens: int) -> dict[str, Any]:
        """Return what `answered` returns in the worker.

        Raises:
            NotFoundError: It has ended.
        """
        return self.ask({"prompt_ids": list(prompt_ids), "max_new_tokens": max_new_tokens})


def measured(
    workers: Mapping[str, Worker], prompts: Sequence[Sequence[int]], max_new_tokens: int, rounds: int
) -> dict[str, list[list[dict[str, Any]]]]:
    """Return, for each setting and round, the answers to all prompts; the order of settings turns."""
    names = list(workers)
    found: dict[str, list[list[dict[str, Any]]]] = {name: [[] for _ in range(rounds)] for name in names}
    for name in names:
        workers[name].answer(prompts[0], 8)  # compiles, probes, warms up
    for turn in range(rounds):
        for number, prompt in enumerate(prompts):
            first = (turn + number) % len(names)
            for name in names[first:] + names[:first]:
                found[name][turn].append(workers[name].answer(prompt, max_new_tokens))
    return found


def summary(rounds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return tokens per second, decoding and end to end, and the seconds of prompts: medians over rounds."""
    decoding, whole, prompts = [], [], []
    for answers in rounds:
        tokens = [len(answer["tokens"]) for answer in answers]
        total = sum(answer["seconds"] for answer in answers)
        reading = sum(answer["first_s"] for answer in answers)
        decoding.append((sum(tokens) - len(tokens)) / max(total - reading, 1e-9))
        whole.append(sum(tokens) / total)
        prompts.append(reading)
    return {
        "decoding_tokens_s": round(statistics.median(decoding), 1),
        "end_to_end_tokens_s": round(statistics.median(whole), 1),
        "prompts_s": round(statistics.median(prompts), 2),
        "tokens": sum(len(answer["tokens"]) for answer in rounds[0]),
        "rounds": {
            "decoding": [round(speed, 1) for speed in decoding],
            "end_to_end": [round(speed, 1) for speed in whole],
        },
    }
