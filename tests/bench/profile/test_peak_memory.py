"""Peak memory of the tensors of one action."""

import torch

from lookahead.bench.profile.peak_memory import highest_sum, peak_tensor_bytes


def test_the_highest_of_all_sums_is_the_peak():
    assert highest_sum([5, 3, -5, 4, -3, -4]) == 8
    assert highest_sum([-5, 2]) == 0
    assert highest_sum([]) == 0


def test_peak_memory_is_what_lives_at_once_temporary_tensors_too():
    kept = []

    def action():
        for _ in range(3):
            torch.ones(1000, dtype=torch.float32)
        kept.append(torch.ones(500, dtype=torch.float32))
        torch.ones(2000, dtype=torch.float32)

    assert peak_tensor_bytes(action, torch.device("cpu")) == (500 + 2000) * 4
