"""Measuring settings in turns: each prompt goes to all of them before the next one does."""

import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lookahead.errors import NotFoundError

_ROOT = Path(__file__).parents[3]
_WORKERS = "research.peers.engines.workers"


class Worker:
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
        self._log = log.open("a")
        threads = str(job["threads"])
        self._process = subprocess.Popen(  # noqa: S603
            [str(python), "-m", f"{_WORKERS}.with_{program}", json.dumps(dict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=_ROOT,
            env=os.environ | {"OMP_NUM_THREADS": threads, "VLLM_CPU_KVCACHE_SPACE": "2"},
        )
        try:
            self.load_s: float = self._answer()["load_s"]
        except NotFoundError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101  it is a pipe
            pipe.close()
        self._process.wait()
        self._log.close()

    def answer(self, prompt_ids: Sequence[int], max_new_tokens: int) -> dict[str, Any]:
        """Return what `answered` returns in the worker.

        Raises:
            NotFoundError: It has ended.
        """
        job = {"prompt_ids": list(prompt_ids), "max_new_tokens": max_new_tokens}
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        line = self._process.stdout.readline()
        if not line:
            message = f"a worker has ended; {self._log.name} says why"
            raise NotFoundError(message)
        found: dict[str, Any] = json.loads(line)
        return found


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
