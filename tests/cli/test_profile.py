"""`lookahead profile`, on tiny models."""

import json

import pytest
from typer.testing import CliRunner

from lookahead.bench.profile import bandwidth
from lookahead.cli import app, main

QUICK = ("--dtype", "float32", "--device", "cpu", "--threads", "1", "--repeats", "2", "--sizes", "4,8")


@pytest.fixture(autouse=True)
def _little_memory_to_read(monkeypatch):
    monkeypatch.setitem(bandwidth._PROBED_BYTES, "cpu", 2**20)


def invoke(*arguments):
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


def test_a_profile_is_shown_and_written(folder, tmp_path):
    report_path = tmp_path / "profile.json"
    contexts = ("--context", 20, "--context", 40, "--context", 250)
    result = invoke(folder, *contexts, *QUICK, "--json", report_path)
    assert result.exit_code == 0, result.output
    for shown in (
        "Behind 20 tokens",
        "Behind 40 tokens",
        "T(8)",
        "CDL",
        "all but the replay",
        "time to first token",
        "peak memory",
    ):
        assert shown in result.stdout
    assert "250" not in result.stdout
    assert "too few positions for contexts of: 250" in " ".join(result.stderr.split())
    report = json.loads(report_path.read_text())
    assert {"date", "command", "settings", "environment", "bandwidth", "weight_bytes"} <= set(report)
    assert report["environment"]["threads"] == 1
    assert report["verification"] == "tree"
    assert report["skipped_contexts"] == [250]
    assert [context["context_tokens"] for context in report["contexts"]] == [20, 40]
    for context in report["contexts"]:
        assert [step["nodes"] for step in context["steps"]] == [1, 4, 8]
        assert all(step["seconds"] > 0 for step in context["steps"])
        assert context["decoding"]["tokens"] == 64
        assert sum(context["decoding"]["shares"].values()) == pytest.approx(1.0)
        assert context["host"]["steps"] > 8
        assert context["host"]["nodes_per_step"] > 8
        assert context["host"]["seconds"] > 0
        assert context["first_token"]["over_generate"] > 0
        assert context["memory"]["over_generate"] > 0


def test_a_model_whose_drafts_are_chains_is_profiled_with_a_word(folder, monkeypatch):
    from lookahead.bench.profile import profiling
    from lookahead.hf.steps.verification import CHAIN
    from lookahead.hf.support.probe import ProbeResult

    monkeypatch.setattr(profiling, "probe", lambda _model, **_asked: ProbeResult(CHAIN, "a test says so"))
    result = invoke(folder, "--context", 20, *QUICK)
    assert result.exit_code == 0, result.output
    assert "one branch: a test says so" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["FOLDER", "--context", "0"], "context=0"),
        (["FOLDER", "--sizes", "8,many"], "--sizes '8,many'"),
        (["FOLDER", "--sizes", "5000"], "size=5000"),
        (["FOLDER", "--repeats", "0"], "repeats=0"),
        (["FOLDER", "--context", "4000"], "no context of 4000 fits the model's 256 positions"),
        (["FOLDER", "--json", "no/such/folder/profile.json"], "no/such/folder"),
        (["./no-such-folder"], "./no-such-folder"),
    ],
)
def test_what_cannot_be_profiled_is_one_line_and_exit_code_2(
    arguments, said, folder, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["profile", *(folder if argument == "FOLDER" else argument for argument in arguments)])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2
    assert line.startswith("error: ")
    assert said in line
