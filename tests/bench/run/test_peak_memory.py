"""Peak memory: of a process or a device, and of the tensors of one action."""

import numpy as np
import pytest
import torch

from lookahead.bench.run.peak_memory import (
    CudaMeter,
    MemoryMeter,
    ResidentSetMeter,
    highest_sum,
    memory_meter,
    peak_tensor_bytes,
)


def test_the_resident_sets_high_water_mark_is_reset_and_read(tmp_path):
    (tmp_path / "clear_refs").write_text("")
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n")
    meter = ResidentSetMeter(tmp_path)
    assert meter.works()
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert meter.peak_bytes() == 2**21
    (tmp_path / "status").write_text("Name:\tpython\n")
    assert not meter.works()
    assert not ResidentSetMeter(tmp_path / "nowhere").works()


def test_the_meter_fits_the_device(monkeypatch):
    assert isinstance(memory_meter(torch.device("cuda")), CudaMeter)
    assert type(memory_meter(torch.device("meta"))) is MemoryMeter
    monkeypatch.setattr(ResidentSetMeter, "works", lambda _: False)
    assert memory_meter(torch.device("cpu")).peak_bytes() is None


@pytest.mark.skipif(
    not ResidentSetMeter().works(), reason="this system does not let a process reset its mark"
)
def test_what_is_allocated_and_freed_again_is_in_the_mark():
    meter = memory_meter(torch.device("cpu"))
    meter.reset()
    before = meter.peak_bytes()
    np.ones(2**25, np.uint8).sum()
    assert meter.peak_bytes() - before > 2**24
    meter.reset()
    assert meter.peak_bytes() - before < 2**24


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
