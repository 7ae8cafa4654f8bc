"""`python -m research.profile`: the picture of a profile, and a shape without weights."""

import json
import sys

import pytest

from helpers import tiny_models
from lookahead.bench.profile import bandwidth
from research import profile
from research.plotting.profile import plot_profile

QUICK = ("--dtype", "float32", "--device", "cpu", "--threads", "1", "--repeats", "2", "--sizes", "4,8")


def context(tokens, critical, *, is_at_least):
    return {
        "context_tokens": tokens,
        "steps": [{"nodes": 1, "over_generate": 0.8}, {"nodes": 16, "over_generate": 1.2}],
        "critical_decoding_length": {"tokens": critical, "is_at_least": is_at_least},
    }


REPORT = {
    "contexts": [context(200, 16, is_at_least=True), context(1000, 4, is_at_least=False)],
    "environment": {"model": "tiny", "dtype": "float32", "device": "cpu", "threads": 1},
}


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        profile.main([str(argument) for argument in arguments])
    return ended.value.code


def test_the_picture_has_a_line_for_each_context_and_its_critical_length(tmp_path):
    path = tmp_path / "profile.svg"
    plot_profile(REPORT, path)
    drawn = path.read_text()
    for words in ("200 tokens, CDL ≥ 16", "1,000 tokens, CDL 4", "tiny, float32, cpu, 1 threads"):
        assert f"<!-- {words}" in drawn


@pytest.fixture
def little_memory_to_read(monkeypatch):
    monkeypatch.setitem(bandwidth._PROBED_BYTES, "cpu", 2**20)


@pytest.mark.usefixtures("little_memory_to_read")
def test_a_shape_is_profiled_without_weights_or_tokenizer_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["profile", "--layers", "1"])
    shape, report_path, picture = (tmp_path / name for name in ("config.json", "profile.json", "profile.svg"))
    tiny_models.tiny_model("qwen2").config.to_json_file(shape)
    arguments = ("--random-weights", shape, "--layers", 1, "--context", 40, *QUICK)
    assert run(*arguments, "--json", report_path, "--plot", picture) == 0
    report = json.loads(report_path.read_text())
    assert report["command"] == "python -m research.profile --layers 1"
    assert report["environment"]["model"] == f"{shape} (random weights, 1 layer)"
    assert report["settings"]["layers"] == 1
    assert "<!-- 40 tokens, CDL" in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["FOLDER", "--random-weights", "llama-2-7b"], "both a model"),
        (["FOLDER", "--layers", "2"], "--layers 2 is only for --random-weights"),
        (["--random-weights", "llama-9"], "shape 'llama-9' is unknown"),
        (["--random-weights", "llama-2-7b", "--layers", "33", "--device", "cpu"], "layers=33"),
        (["FOLDER", "--plot", "profile.bmp"], "'.bmp'"),
    ],
)
def test_what_cannot_be_profiled_is_one_line_and_exit_code_2(
    arguments, said, folder, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*(folder if argument == "FOLDER" else argument for argument in arguments)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert said in line
