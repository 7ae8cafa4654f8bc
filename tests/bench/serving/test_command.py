"""`lookahead bench --experiment serving`, end to end on a tiny model."""

import json

import pytest
from typer.testing import CliRunner

from lookahead.bench.run.journal import journal_beside
from lookahead.bench.serving.continuous import ContinuousBatching
from lookahead.cli import app
from lookahead.errors import ConfigError

METHODS = [
    "la.generate",
    "generate",
    "generate-batch-2",
    "continuous-batching-2",
    "engine-off-2",
    "engine-cold-2",
    "engine-warm-2",
]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = ("HelloHello", "abcabc", "xyzxyz", "OnceOnce")
    lines = [{"id": place, "category": "qa", "turns": [text]} for place, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def bench(folder, data, *arguments):
    on_tiny = ("--model", folder, "--dtype", "float32", "--device", "cpu", "--threads", "1")
    few = ("--max-new-tokens", "8", "--rows", "2", "--pairs", "3", "--no-noise")
    call = ["bench", str(data), "--experiment", "serving", *on_tiny, *few, *map(str, arguments)]
    return CliRunner().invoke(app, call)


def test_every_method_serves_the_requests_in_every_round(folder, data, tmp_path):
    path = tmp_path / "report.json"
    result = bench(folder, data, "--arrivals", "poisson", "--rate", 50, "--json", path)
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    assert report["failed"] == {}
    assert list(report["methods"]) == report["settings"]["methods"] == METHODS
    assert len(report["rounds"]) == 3
    for name, figures in report["methods"].items():
        assert (figures["rounds"], figures["tokens"], figures["differing"]) == (3, 32, 0), name
        assert figures["tokens_per_second"] > 0
        assert figures["first_token_p99_ms"] >= figures["first_token_p50_ms"] > 0
        assert figures["tokens_per_forward"] > 0
    assert report["methods"]["engine-off-2"]["acceptance_length"] == 1.0
    assert report["methods"]["engine-warm-2"]["acceptance_length"] > 1.0
    assert report["methods"]["generate"]["speedup"]["rounds"] == 3
    assert report["drafts"]["2"]["warm_over_off"]["interval"]
    assert report["environment"]["transformers"]
    assert "warm/off" in result.stdout
    assert not journal_beside(path).exists()


def test_a_method_that_cannot_serve_the_model_is_reported(folder, data, tmp_path, monkeypatch):
    path = tmp_path / "report.json"

    def fails(*_):
        message = "out of luck"
        raise RuntimeError(message)

    monkeypatch.setattr(ContinuousBatching, "serve", fails)
    result = bench(folder, data, "--method", "generate", "--method", "continuous-batching", "--json", path)
    assert result.exit_code == 0
    assert "failed: continuous-batching-2: RuntimeError: out of luck" in " ".join(result.stderr.split())
    report = json.loads(path.read_text())
    assert report["failed"] == {"continuous-batching-2": "RuntimeError: out of luck"}
    assert list(report["methods"]) == ["la.generate", "generate"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rate", "0"), "rate=0.0 is not allowed"),
        (("--rows", "2,x"), "--rows '2,x' is not allowed"),
        (("--temperature", "0.5"), "--temperature has no meaning"),
        (("--method", "llma"), "method 'llma' is unknown"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(data, arguments, words):
    result = bench("no-such-model", data, *arguments)
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)
