"""`lookahead bench`: experiments, reports, going on after an interruption."""

import json
import sys

import pytest
from typer.testing import CliRunner

from lookahead.bench.run import runner
from lookahead.bench.run.journal import journal_beside
from lookahead.cli import app, main


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = ("HelloHello", "abcabc", "xyzxyz", "OnceOnce", "2?22?2", "HelloAgain")
    lines = [
        {"id": place, "category": "rag" if place % 2 else "qa", "turns": [text]}
        for place, text in enumerate(texts)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def bench(folder, data, *arguments):
    on_tiny = (
        "--model",
        folder,
        "--dtype",
        "float32",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--max-new-tokens",
        "8",
    )
    return CliRunner().invoke(app, ["bench", str(data), *on_tiny, *map(str, arguments)])


def test_a_report_has_tables_pictures_and_every_figure(folder, data, tmp_path):
    out = tmp_path / "out" / "report"
    result = bench(folder, data, "--report", out)
    assert result.exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "report.json",
        "report.md",
        "speedup.png",
        "speedup.svg",
    ]
    text = (out / "report.md").read_text()
    assert "# rows.jsonl: main" in text
    assert "![speedup](speedup.svg)" in text
    assert "\nlookahead bench" in text or "```\nlookahead" in text
    assert "noise: transformers measured twice" in text
    assert "prompt-lookup is prompt-lookup-" in text
    assert "| seed | 0 |" in text
    assert "| lookahead-plain |" in text
    report = json.loads((out / "report.json").read_text())
    assert report["settings"]["experiment"] == "main"
    assert report["trials"]["prompt-lookup"]["prompts"] == 6
    assert report["noise"]["interval"]
    assert report["latency"]["lookahead"]["first_token_ms"]["p50"] > 0
    assert report["differences"]["lookahead"] == {}


def test_an_interrupted_run_goes_on_where_it_was(folder, data, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    arguments = ("--method", "lookahead", "--json", path)
    real = runner.measure
    calls = iter(range(3 + 3 * 3 + 1))

    def stops(*given, **more):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(*given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "measure", stops)
        assert bench(folder, data, *arguments).exit_code == 130
    assert [row["id"] for row in json.loads(path.read_text())["per_prompt"]] == [0, 1, 2]
    assert journal_beside(path).exists()
    refused = bench(folder, data, *arguments, "--seed", 5)
    assert "unfinished run with seed=0, not 5" in str(refused.exception)
    result = bench(folder, data, *arguments)
    assert result.exit_code == 0
    assert "going on with an interrupted run" in result.stderr
    report = json.loads(path.read_text())
    assert [row["id"] for row in report["per_prompt"]] == list(range(6))
    assert (report["resumed_prompts"], report["interrupted"]) == (3, False)
    assert not journal_beside(path).exists()


def test_a_failing_prompt_is_reported_and_left_out(folder, data, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    real = runner.measure

    def fails(method, model, inputs, **more):
        if method.name == "lookahead" and inputs["input_ids"].shape[1] == 8:
            message = "out of luck"
            raise RuntimeError(message)
        return real(method, model, inputs, **more)

    monkeypatch.setattr(runner, "measure", fails)
    data.write_text(data.read_text() + '\n{"id": "bad", "category": "qa", "turns": ["abcdabcd"]}')
    result = bench(folder, data, "--method", "lookahead", "--json", path)
    report = json.loads(path.read_text())
    assert result.exit_code == 0
    assert "failed and left out: bad, by lookahead: RuntimeError: out of luck" in " ".join(
        result.stderr.split()
    )
    assert [failure["row_id"] for failure in report["failed"]] == [3, "bad"]  # "OnceOnce" is 8 long, too
    assert len(report["per_prompt"]) == 5


@pytest.mark.parametrize("name", ["batch", "peak-memory", "warm-up"])
def test_an_experiment_has_its_own_figures(folder, data, tmp_path, name):
    out = tmp_path / "report"
    result = bench(folder, data, "--experiment", name, "--no-noise", "--report", out)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text())
    if name == "batch":
        assert list(report["prompts"]["by_category"].values()) == [6, 3, 1]
        assert report["speedup"]["lookahead"]["by_category"]["batch 4"] > 0
        assert report["decode_speedup"]["lookahead"]["overall"] is None
    elif name == "peak-memory":
        assert set(report["peak_memory"]["mebibytes"]) == set(report["tokens_per_second"])
        assert "Peak memory: " in (out / "report.md").read_text()
    else:
        assert [row["id"] for row in report["per_prompt"]] != list(range(6))
        assert (out / "warm-up.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experiment", "magic"], "'magic' is unknown; choose from main, methods"),
        (["--batch-sizes", "2", "--method", "prompt-lookup-5"], "one prompt at a time"),
        (["--batch-sizes", "two"], "--batch-sizes 'two' is not allowed"),
        (["--method", "assisted"], "--assistant"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_model_is_loaded(
    data, arguments, said, capsys, monkeypatch
):
    monkeypatch.setattr(sys.modules["lookahead.cli.measure.bench"], "prepare_model", None)
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(data), *arguments])
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_data_is_found_in_its_folder(folder, data, tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKAHEAD_DATA", str(data.parent))
    monkeypatch.chdir(tmp_path.parent)
    assert bench(folder, "rows.jsonl", "--method", "lookahead", "--limit", 1).exit_code == 0


def test_a_report_that_cannot_be_written_is_refused(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main(["bench", str(data), "--report", str(tmp_path / "file" / "folder")])
    assert "cannot be made" in capsys.readouterr().err
