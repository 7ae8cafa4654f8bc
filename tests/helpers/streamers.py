"""Streamers for tests."""

from transformers import (
    LogitsProcessor,
)


class Breaking(LogitsProcessor):
    def __init__(self, error, after):
        self.error, self.left = error, after

    def __call__(self, _input_ids, scores):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return scores
