"""The examples of `examples/serving`, each run as a script against a live server."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.model

FOLDER = Path(__file__).parents[2] / "examples" / "serving"
BIKES = """\
Bicycles: The town lends bicycles at the station. A day costs four pounds and a week costs twenty pounds.
The office gives out keys from eight in the morning until six in the evening, and takes them back until eight.
A lost key costs nine pounds. Helmets are free of charge, and so are maps of the cycle paths along the river.
"""
BOATS = """\
Boats: The ferry to the island leaves every hour, from seven in the morning until nine in the evening.
A ticket costs three pounds, and dogs travel free of charge.
"""


@pytest.fixture
def run(monkeypatch, capsys, server_url):
    """Run an example as a script and return the lines that it prints."""

    def run_example(name, *arguments):
        path = FOLDER / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *arguments, "--base-url", f"{server_url}/v1"])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run_example


def test_openai_client(run):
    chat, stream, predicted, accepted = run("openai_client")
    assert chat == "chat: The capital of France is Paris."
    assert stream.startswith("stream: The answer to this classic question is 4.")
    assert stream.endswith("(16 tokens)")
    assert predicted.startswith("predicted: The library is open from nine to five on Monday, Tuesday")
    assert 5 <= int(accepted.split()[0]) < int(accepted.split()[2])


def test_langchain_chat(run):
    pytest.importorskip("langchain_openai")
    invoke, usage, stream = run("langchain_chat")
    assert invoke.startswith("invoke: The answer to this classic question is 4.")
    assert ast.literal_eval(usage)["output_tokens"] == 16
    assert stream.startswith("stream: The opposite of hot is cold.")


def test_tools(run):
    pytest.importorskip("xgrammar")
    assert run("tools") == [
        "the model calls weather with {'city': 'Paris'}",
        "the function returns '14 degrees, rain'",
        "the model answers: The weather in Paris is indeed 14 degrees, rain.",
    ]


def test_structured_output(run):
    pytest.importorskip("xgrammar")
    assert run("structured_output") == ["name: Anna", "device: printer", "urgency: high"]


def test_rag_folder(run, tmp_path):
    (tmp_path / "bikes.txt").write_text(BIKES)
    (tmp_path / "boats.md").write_text(BOATS)
    (tmp_path / "picture.png").write_bytes(b"\xff")
    questions = ["What does a lost key cost?", "When is the ferry?", "Which maps are free of charge?"]
    lines = run("rag_folder", str(tmp_path), *questions, "--max-tokens", "12")
    answers = [line for line in lines if line.startswith("answer from ")]
    assert [line.split(":")[0].split()[-1] for line in answers] == ["bikes.txt", "boats.md", "bikes.txt"]
    assert "nine pounds" in answers[0]
    cached = [int(line.split()[0]) for line in lines if line.endswith("in the prefix cache")]
    assert cached == [0, 0, 64]


def test_rag_folder_without_texts(run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("rag_folder", str(tmp_path), "What?")
    assert "has no .md or .txt files" in capsys.readouterr().err
