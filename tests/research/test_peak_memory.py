"""Peak memory of a process or a device."""

import numpy as np
import pytest
import torch

from research.bench.peak_memory import CudaMeter, MemoryMeter, ResidentSetMeter, memory_meter


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
    np.ones(2**27, np.uint8).sum()  # so large that no memory that was freed before serves
    assert meter.peak_bytes() - before > 2**24
    meter.reset()
    assert meter.peak_bytes() - before < 2**24
