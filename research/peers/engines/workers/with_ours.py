"""Lookahead and transformers: job `{"model": NAME, "threads": N, "packed": BOOL, "way": WAY}`.

Ways: `generate` is transformers' own, `auto` Lookahead as it is by default, a number a fixed decoding length.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from lookahead import Lookahead, LookaheadConfig
from lookahead.hf.models.loading import load_model
from research.peers.engines.workers.serving import Generate, serve


class _Tokens(BaseStreamer):
    """Hands tokens on as they are known; the prompt comes first."""

    def __init__(self) -> None:
        self.found: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, or further tokens."""
        if not self._is_prompt:
            self.found.put(value.reshape(-1).tolist())
        self._is_prompt = False

    def end(self) -> None:
        """Do nothing: the thread says when the answer ends."""


def load(job: dict[str, Any]) -> Generate:
    """Return what generates with a model of ours."""
    torch.set_num_threads(job["threads"])
    model: Any
    model, _ = load_model(job["model"], "bfloat16", "cpu", packed=job["packed"])
    way = job["way"]
    length: Any = "auto" if way == "auto" else int(way) if way != "generate" else None
    la = None if length is None else Lookahead(LookaheadConfig(decoding_length=length))

    def generate(prompt_ids: list[int], max_new_tokens: int) -> Iterator[int]:
        ids = torch.tensor([prompt_ids])
        streamer = _Tokens()
        inputs: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "streamer": streamer}
        inputs |= {"do_sample": False, "max_new_tokens": max_new_tokens}

        def run() -> None:
            try:
                if la is None:
                    model.generate(ids, **inputs)
                else:
                    la.generate(model, ids, **inputs)
            finally:
                streamer.found.put(None)

        thread = threading.Thread(target=run)
        thread.start()
        while (tokens := streamer.found.get()) is not None:
            yield from tokens
        thread.join()

    return generate


if __name__ == "__main__":
    serve(load)
