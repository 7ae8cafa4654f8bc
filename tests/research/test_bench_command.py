"""`python -m research.bench`: experiments, reports, batches that go on after an interruption."""

import json
import sys

import pytest

from research.bench import __main__ as main_module


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


def on(folder):
    model = ("--model", folder, "--dtype", "float32", "--device", "cpu", "--threads", 1)
    return (*model, "--max-new-tokens", 8)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main_module.main([str(argument) for argument in arguments])
    return ended.value.code


def test_a_report_has_tables_pictures_and_every_figure(folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", "rows.jsonl"])
    out = tmp_path / "out" / "report"
    result = run(data, *on(folder), "--report", out)
    assert result == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "report.json",
        "report.md",
        "speedup.png",
        "speedup.svg",
    ]
    text = (out / "report.md").read_text()
    assert "# rows.jsonl: main" in text
    assert "![speedup](speedup.svg)" in text
    assert "```\npython -m research.bench rows.jsonl\n" in text
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


@pytest.mark.parametrize("name", ["batch", "peak-memory", "warm-up"])
def test_an_experiment_has_its_own_figures(folder, data, tmp_path, name):
    out = tmp_path / "report"
    result = run(data, *on(folder), "--experiment", name, "--no-noise", "--report", out)
    assert result == 0
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
    monkeypatch.setattr(main_module, "prepare_model", None)
    assert run(data, *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_grid_has_its_tables_and_pictures(folder, data, tmp_path):
    out = tmp_path / "report"
    result = run(data, *on(folder), "--limit", 1, "--no-noise", "--experiment", "grid", "--report", out)
    assert result == 0
    text = (out / "report.md").read_text()
    assert "**Speedup in decoding, by decoding length and branch length**" in text
    assert "**Mean acceptance length, by decoding length and branch length**" in text
    assert "![grid](grid.svg)" in text
    assert (out / "grid.svg").exists()


def test_batches_go_on_where_they_were_interrupted(folder, data, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    arguments = (data, *on(folder), "--no-noise", "--method", "lookahead", "--batch-sizes", "2,3")
    real = main_module.run_experiment

    def stopped(model, tokenizer, plan, *more):
        method, calls = plan.methods[1], iter(range(1 + 1 + 3 + 1 + 1 + 1))  # both warm-ups of both sizes
        answer = method.generate

        def generate(*given, **options):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return answer(*given, **options)

        monkeypatch.setattr(method, "generate", generate)
        return real(model, tokenizer, plan, *more)

    with monkeypatch.context() as patched:
        patched.setattr(main_module, "run_experiment", stopped)
        assert run(*arguments, "--json", path) == 130
    assert len(json.loads(path.read_text())["per_prompt"]) == 3 + 1
    assert len(list(tmp_path.glob("report.json.batch-*.unfinished.jsonl"))) == 2
    assert run(*arguments, "--json", path) == 0
    report = json.loads(path.read_text())
    assert [row["category"] for row in report["per_prompt"]] == ["batch 2"] * 3 + ["batch 3"] * 2
    assert (report["resumed_prompts"], report["interrupted"]) == (4, False)
    assert list(tmp_path.glob("*.unfinished.jsonl")) == []


def test_a_report_that_cannot_be_written_is_refused(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(data, "--report", tmp_path / "file" / "folder") == 2
    assert "cannot be made" in capsys.readouterr().err
