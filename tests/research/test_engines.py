"""Measuring other systems: files made for them, workers, the figures."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from helpers.tiny_gguf import write_tiny_gguf
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.errors import NotFoundError
from research.peers.engines.files import FORMATS, converted_file
from research.peers.engines.measure import Worker, measured, summary
from research.peers.engines.settings import SETTINGS
from research.peers.engines.workers.serving import answered


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file, "llama", Packing.Q4_1)
    return file


@pytest.mark.parametrize("kind", FORMATS)
def test_a_converted_file_has_the_same_metadata_and_nearly_the_same_weights(source, kind, tmp_path):
    target = converted_file(source, kind, tmp_path / "files")
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(target)
    for name, field in before.fields.items():
        if not name.startswith("GGUF."):
            assert after.fields[name].contents() == field.contents(), name
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (old.name, list(old.shape)) == (new.name, list(new.shape))
        assert new.tensor_type.name == (kind if len(old.shape) > 1 else "F32")
        expected, found = (gguf.dequantize(one.data, one.tensor_type) for one in (old, new))
        assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()
    made = target.stat().st_mtime_ns
    assert converted_file(source, kind, tmp_path / "files").stat().st_mtime_ns == made


def test_an_answer_is_timed_to_its_first_token_and_to_its_end():
    found = answered(lambda prompt, count: iter(prompt[:count]), [3, 4, 5], 2)
    assert found["tokens"] == [3, 4]
    assert 0 <= found["first_s"] <= found["seconds"]


def test_figures_are_medians_over_rounds():
    rounds = [
        [
            {"tokens": [1] * 11, "first_s": 1.0, "seconds": 1.0 + seconds},
            {"tokens": [1], "first_s": 1.0, "seconds": 1.0},
        ]
        for seconds in (1.0, 2.0, 5.0)
    ]
    found = summary(rounds)
    assert found["decoding_tokens_s"] == 5.0
    assert found["end_to_end_tokens_s"] == 3.0
    assert found["prompts_s"] == 2.0
    assert found["tokens"] == 12


def test_all_settings_get_each_prompt_in_turns_that_begin_with_different_ones():
    asked = []

    class Told:
        def __init__(self, name):
            self.name = name

        def answer(self, prompt, count):
            asked.append((self.name, tuple(prompt), count))
            return {"tokens": [1]}

    found = measured({name: Told(name) for name in "ab"}, [[1], [2]], 5, 2)
    assert {name: list(map(len, rounds)) for name, rounds in found.items()} == {"a": [2, 2], "b": [2, 2]}
    assert [name for name, _, count in asked if count == 5] == list("abbabaab")


def test_each_setting_has_its_own_name():
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_a_worker_of_ours_gives_the_same_tokens_packed_and_with_generate(source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    answers = []
    for way, packed in (("generate", False), ("8", True)):
        job = {"model": str(source), "threads": 1, "way": way, "packed": packed}
        with Worker(Path(sys.executable), "ours", job, tmp_path / "log") as worker:
            answers.append(worker.answer([5, 6, 7, 8], 12))
    assert len(answers[0]["tokens"]) == 12
    assert answers[0]["tokens"] == answers[1]["tokens"]
    assert answers[1]["seconds"] > 0


def test_a_worker_that_ends_says_where_it_says_why(tmp_path):
    with pytest.raises(NotFoundError, match="log says why"):
        Worker(Path(sys.executable), "ours", {"model": "nowhere.gguf", "threads": 1}, tmp_path / "log")
