"""A callback that records what it was called with."""

import torch
from transformers import (
    LogitsProcessor,
    StoppingCriteria,
)
from transformers.generation.streamers import BaseStreamer


class Recorder(LogitsProcessor, StoppingCriteria, BaseStreamer):
    """Processor, criterion and streamer in one: an event for each call."""

    def __init__(self):
        self.events = []
        self.scores = []

    def __call__(self, input_ids, scores):
        if isinstance(scores, torch.Tensor):
            assert scores.shape == (1, 64)
            assert scores.dtype == torch.float32
            self.events.append(("process", input_ids.tolist()))
            self.scores.append(scores.clone())
            return scores
        self.events.append(("judge", input_ids.tolist(), scores))
        return torch.zeros(1, dtype=torch.bool)

    def put(self, value):
        self.events.append(("put", value.tolist(), value.device.type))

    def end(self):
        self.events.append(("end",))
