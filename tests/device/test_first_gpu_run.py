"""The script of the first measurements on a GPU, tried on the emulated device with tiny shapes."""

import json

import pytest

from device.emulation.device import used
from scripts import first_gpu_run

PARTS = [
    *("environment", "steps", "generate", "kernel", "failed_capture"),
    *("threads", "experts", "baselines", "cudnn"),
]


@pytest.mark.usefixtures("with_kernels")
def test_each_part_runs_and_is_written(tmp_path, monkeypatch, device):
    def once(work, _repeats=1):
        work()
        return 0.001

    monkeypatch.setattr(first_gpu_run, "seconds", once)
    first = first_gpu_run.FirstRun(is_tiny=True, in_thread=lambda: used(device))
    path = tmp_path / "gpu.json"
    found = first_gpu_run.run({name: getattr(first, name) for name in PARTS}, path, minutes=8)
    assert [part.get("error") for part in found.values()] == [None] * len(PARTS)
    assert json.loads(path.read_text()) == found
    assert found["generate"]["equal"]
    assert "not permitted" in found["failed_capture"]["refused"]
    assert found["threads"]["problems"] == []
    assert found["threads"]["captures"] == 10
    assert found["experts"]["grouped_mm_is_captured"] is True
    assert len(first_gpu_run.table_of(found).splitlines()) > len(PARTS)


def test_it_stops_when_the_time_is_up(tmp_path):
    found = first_gpu_run.run({"first": dict, "second": dict}, tmp_path / "gpu.json", minutes=-1)
    assert [*found.values()] == [{"left out": "-1 minutes were up"}] * 2
