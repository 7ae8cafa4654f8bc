"""The command line, on a tiny model in a folder."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

import lookahead
from helpers import tiny_models
from lookahead.bench.methods.registry import METHODS, USUAL
from lookahead.bench.run import runner
from lookahead.cli import app, main
from lookahead.cli.demo.command import QUESTIONS

COMMANDS = ("demo", "generate", "bench", "compare", "replay", "memory", "check", "profile", "compile")
CONTEXT = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model = tiny_models.tiny_model("llama")
    model.config.max_position_embeddings = CONTEXT
    model.save_pretrained(path)
    tiny_models.tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    records = [
        {"id": index, "category": category, "turns": [text]}
        for index, (category, text) in enumerate(
            [("rag", "HelloHello"), ("rag", "abcabc"), ("qa", "xyzxyz"), ("writing", "Once"), ("math", "2?2")]
        )
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def invoke(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def on_tiny(folder, *arguments):
    return (*arguments, "--model", folder, "--dtype", "float32", "--device", "cpu", "--threads", "1")


def answer_of_transformers(folder, text, **options):
    model, tokenizer = lookahead.hf.models.loading.load_model(folder, "float32", "cpu")
    inputs = lookahead.hf.models.loading.encode_prompt(tokenizer, text, model)
    output_ids = model.generate(**inputs, **options)
    return tokenizer.decode(output_ids[0, inputs["input_ids"].shape[1] :])


@pytest.mark.parametrize(
    "arguments", [["--help"], *([command, "--help"] for command in COMMANDS), ["--version"]]
)
def test_help_imports_no_torch(arguments):
    program = (
        "import sys\nfrom lookahead.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "print([name for name in ('torch', 'transformers', 'numba') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert finished.stdout.splitlines()[-1] == "[]"


def test_python_dash_m_is_the_command():
    finished = subprocess.run(
        [sys.executable, "-m", "lookahead", "--version"], capture_output=True, text=True, check=True
    )
    assert finished.stdout == f"lookahead {lookahead.__version__}\n"


def test_the_help_lists_every_command(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = invoke("--help").output
    for command in COMMANDS:
        assert any(command in line.split() for line in shown.splitlines())
    assert "`lookahead compile`" in " ".join(shown.split())


def test_compile_compiles_every_kernel():
    # The session's kernels are compiled by `make setup`: this run only loads them from the cache.
    program = "from lookahead.cli import main\nmain(['compile'])"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert finished.stdout.endswith("all kernels are compiled\n")


def test_the_help_of_bench_names_every_method(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    shown = " ".join(invoke("bench", "--help").output.split())
    for name in METHODS:
        method, without, what = name.partition("-without")
        assert method in shown
        assert without + what in shown


def test_generate_streams_the_text_of_transformers(folder):
    result = invoke(*on_tiny(folder, "generate", "HelloHello", "--max-new-tokens", 20))
    assert result.exit_code == 0
    assert (
        result.stdout
        == answer_of_transformers(folder, "HelloHello", max_new_tokens=20, do_sample=False) + "\n"
    )


def test_generate_reads_a_file_or_stdin(folder, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("HelloHello")
    arguments = on_tiny(folder, "generate", "--max-new-tokens", 8)
    outputs = {
        invoke(*arguments, "HelloHello").stdout,
        invoke(*arguments, "--file", path).stdout,
        invoke(*arguments, stdin="HelloHello").stdout,
    }
    assert len(outputs) == 1


def test_generate_samples_as_transformers_does_with_the_same_seed(folder):
    options = ("--temperature", 0.8, "--top-p", 0.9, "--top-k", 30, "--repetition-penalty", 1.1, "--seed", 3)
    result = invoke(*on_tiny(folder, "generate", "HelloHello", "--max-new-tokens", 20, *options))
    torch.manual_seed(3)
    expected = answer_of_transformers(
        folder,
        "HelloHello",
        max_new_tokens=20,
        do_sample=True,
        temperature=0.8,
        top_p=0.9,
        top_k=30,
        repetition_penalty=1.1,
    )
    assert result.stdout == expected + "\n"


def test_generate_prints_stats_apart_from_the_text(folder):
    arguments = on_tiny(folder, "generate", "HelloHello", "--max-new-tokens", 20)
    result = invoke(*arguments, "--stats")
    assert result.stdout == invoke(*arguments).stdout
    assert "mean acceptance length" in " ".join(result.stderr.split())
    assert "smallest margin" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "--file", "no/such/file.txt"], "no/such/file.txt"),
        (["generate", "text", "--file", "other.txt"], "both"),
        (["generate", "  "], "empty"),
        (["generate", "text", "--top-p", "0.5"], "--temperature"),
        (["generate", "text", "--temperature", "0", "--top-k", "5"], "--temperature"),
        (["generate", "text", "--repetition-penalty", "0"], "repetition_penalty=0"),
        (["generate", "text", "--decoding-length", "0"], "decoding_length=0"),
        (["generate", "text", "--model", "./no-such-folder"], "./no-such-folder"),
        (["demo", "--model", "no-such.gguf"], "no-such.gguf"),
        (["demo", "--device", "toaster"], "device='toaster'"),
        (["bench", "no-such.jsonl"], "no-such.jsonl"),
        (["bench", "DATA", "--method", "magic"], "'magic' is unknown"),
        (["bench", "DATA", "--limit", "0"], "limit=0"),
        (["bench", "DATA", "--json", "no/such/folder/report.json"], "no/such/folder"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments, said, data, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([str(data) if argument == "DATA" else argument for argument in arguments])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert said in line
    assert "Traceback" not in captured.err


def test_a_malformed_line_is_named(data, capsys):
    data.write_text(data.read_text() + "\n{oops")
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(data)])
    assert ended.value.code == 2
    assert "rows.jsonl, line 6" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--draft-mode", "--dtype"])
def test_an_unknown_choice_is_refused_with_those_allowed(option):
    result = invoke("generate", "text", option, "sideways")
    assert result.exit_code == 2
    assert ("hierarchical" if option == "--draft-mode" else "bfloat16") in result.stderr


def test_a_prompt_longer_than_the_context_is_refused(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(part) for part in on_tiny(folder, "generate", "a" * (CONTEXT + 1))])
    assert ended.value.code == 2
    assert str(CONTEXT) in capsys.readouterr().err


def test_bench_reports_every_figure(folder, data, tmp_path):
    path = tmp_path / "report.json"
    arguments = on_tiny(folder, "bench", data, "--max-new-tokens", 12, "--limit", 3, "--json", path)
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "Speedup end to end, by category" in result.stdout
    report = json.loads(path.read_text())
    assert report["prompts"] == {"overall": 3, "by_category": {"rag": 1, "qa": 1, "mt_bench": 1}}
    assert set(report["speedup"]) == set(USUAL) - {"transformers"} | {"transformers-again"}
    assert set(report["speedup_over_prompt_lookup"]) == {"lookahead", "lookahead-plain"}
    assert report["identical"]["lookahead"] == report["prompts"]
    assert report["mean_acceptance_length"]["transformers"]["overall"] == 1.0
    assert report["mean_acceptance_length"]["lookahead-plain"]["overall"] == 1.0
    assert report["settings"]["max_new_tokens"] == 12
    assert report["environment"]["threads"] == 1
    assert [row["id"] for row in report["per_prompt"]] == [0, 2, 3]
    assert {"date", "command", "memory", "decode_speedup"} <= set(report)


def test_bench_measures_the_given_methods(folder, data, tmp_path):
    path = tmp_path / "report.json"
    chosen = ("--method", "lookahead", "--no-noise", "--max-new-tokens", 4, "--limit", 1, "--json", path)
    assert invoke(*on_tiny(folder, "bench", data, *chosen), "--threads", 2).exit_code == 0
    report = json.loads(path.read_text())
    assert list(report["tokens_per_second"]) == ["transformers", "lookahead"]
    assert report["settings"]["methods"] == ["transformers", "lookahead"]
    assert report["environment"]["threads"] == 2


def test_ctrl_c_reports_what_was_measured(folder, data, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    real = runner.run_benchmark

    def interrupted(*arguments, **more):
        benchmark = real(*arguments, **more)
        benchmark.interrupted = True
        return benchmark

    monkeypatch.setattr(runner, "run_benchmark", interrupted)
    result = invoke(*on_tiny(folder, "bench", data, "--max-new-tokens", 4, "--limit", 2, "--json", path))
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert "All 2 prompts" in result.stdout
    assert json.loads(path.read_text())["interrupted"]


def test_bench_warns_on_a_busy_machine(folder, data, monkeypatch):
    monkeypatch.setattr("lookahead.bench.run.environment.load_average", lambda: 17.5)
    arguments = on_tiny(folder, "bench", data, "--max-new-tokens", 4, "--limit", 1)
    assert "load average is 17.5" in " ".join(invoke(*arguments).stderr.split())
    monkeypatch.setattr("lookahead.bench.run.environment.load_average", lambda: 0.5)
    assert "load average" not in invoke(*arguments).stderr


def test_demo_answers_every_question_twice_and_compares(folder):
    result = invoke(*on_tiny(folder, "demo", "--max-new-tokens", 12))
    assert result.exit_code == 0
    assert result.stdout.count("12 tokens in") == 2 * len(QUESTIONS)
    assert all(question in result.stdout for _, question in QUESTIONS)
    assert f"{len(QUESTIONS)} of {len(QUESTIONS)}" in result.stdout
    assert "near ties" not in result.stdout


def test_check_prints_the_report_of_supports(folder, tmp_path):
    out = tmp_path / "check.json"
    arguments = ("--dtype", "float32", "--device", "cpu", "--threads", "1", "--json", out)
    result = invoke("check", folder, *arguments)
    assert result.exit_code == 0
    assert "tree: one forward pass verifies a draft tree" in result.stdout
    written = json.loads(out.read_text())
    assert set(written) >= {
        *("date", "command", "model", "architecture", "dtype", "mode", "reason", "reproducible"),
        *("worst_logit_difference", "logit_spread", "why_not_fused", "dependence_on_drafts"),
    }
    assert written["mode"] == "tree"
    assert written["reason"] == ""
    assert 0 <= written["worst_logit_difference"] < 1e-3
    assert "not the compiled CPU decoder: hidden size" in result.stdout
    assert "yes: " in result.stdout
    assert "fixed width: each forward pass has 16 tokens per row" in result.stdout
    model, _ = lookahead.hf.models.loading.load_model(folder, "float32", "cpu")
    shown, expected = (
        [line for line in text.splitlines() if "step time" not in line]
        for text in (result.stdout, str(lookahead.Lookahead.supports(model)))
    )
    assert shown == expected
    assert written["reproducible"]["way"] == "one shape"
    assert written["reproducible"]["tokens_a_forward"] == 16
    assert written["reproducible"]["step_times_that_of_1_token"] > 0


def test_check_prints_why_a_model_is_refused(monkeypatch, tmp_path):
    class OwnLoop(LlamaForCausalLM):
        def _sample(self, *_args, **_kwargs):
            return None

    model = tiny_models.tiny_model("llama")
    model.__class__ = OwnLoop
    monkeypatch.setattr(sys.modules["lookahead.cli.check"], "prepare_model", lambda *_args: (model, None))
    result = invoke("check", "some-model", "--json", tmp_path / "check.json")
    assert result.exit_code == 2
    assert "supported          no: OwnLoop decodes in a loop of its own" in result.stdout
    assert not (tmp_path / "check.json").exists()
