"""What commands share: threads, output files, messages."""

import json
import os

import pytest
import torch

from lookahead.cli import options
from lookahead.cli.setup import check_can_write, deliver, notices, set_threads
from lookahead.errors import ConfigError, NotFoundError


@pytest.mark.parametrize(("listed", "threads"), [("2", 2), ("2,1", 2), (" 2 , 8 ", 2)])
def test_the_first_number_of_omp_num_threads_counts(listed, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", listed)
    set_threads(None)
    assert torch.get_num_threads() == threads
    set_threads(1)
    assert torch.get_num_threads() == 1


def test_an_empty_omp_num_threads_is_none(monkeypatch):
    monkeypatch.setattr("lookahead.bench.run.environment.physical_cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", " ")
    set_threads(None)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("listed", ["many", "4,", "0", "-1", "2,x", "99999999999", "1e3"])
def test_another_omp_num_threads_is_refused_by_name(listed, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", listed)
    with pytest.raises(ConfigError, match="OMP_NUM_THREADS="):
        set_threads(None)


@pytest.mark.parametrize("threads", [0, 1025, 10**30])
def test_numbers_of_threads_that_no_machine_has_are_refused(threads):
    with pytest.raises(ConfigError, match=f"--threads={threads} is not allowed"):
        set_threads(threads)


@pytest.mark.parametrize("temperature", [-1.0, 1e-45, float("inf"), float("nan")])
def test_a_temperature_that_logits_cannot_be_divided_by_is_refused(temperature):
    with pytest.raises(ConfigError, match="temperature="):
        options.check_sampling(temperature, None)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30])
def test_a_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(ConfigError, match=f"seed={seed}"):
        options.check_sampling(1.0, seed)
    options.check_sampling(0.0, -1)


def test_what_is_no_file_is_no_output_file(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "file")
    os.mkfifo(tmp_path / "pipe")
    for path in ("loop", "dangling", "pipe", ".", "nowhere/file", "x" * 300):
        with pytest.raises(NotFoundError, match="cannot write"):
            check_can_write(tmp_path / path)
    (tmp_path / "link").symlink_to("new")
    check_can_write(tmp_path / "link")


def test_a_report_that_cannot_be_written_is_shown_and_the_old_one_kept(tmp_path, monkeypatch):
    def is_full(*_arguments, **_more):
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.json"
    path.write_text("old")
    shown = []
    monkeypatch.setattr(json, "dump", is_full)
    with pytest.raises(OSError, match=r"No space left on device: .*report.json"):
        deliver(path, {"figure": 1}, lambda: shown.append("figures"))
    assert shown == ["figures"]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_is_written_before_a_reader_of_stdout_goes_away(tmp_path):
    def breaks():
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        deliver(tmp_path / "report.json", {"figure": 1}, breaks)
    assert json.loads((tmp_path / "report.json").read_text()) == {"figure": 1}


def test_names_that_look_like_markup_are_shown_as_they_are(capsys):
    with notices.status("loading [/a] in [red]"):
        notices.print("[/b] was left out")
    assert "[/b] was left out" in capsys.readouterr().err
