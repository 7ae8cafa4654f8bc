"""`python -m research.replay`: other systems, costs, calibration, experiments."""

import gzip
import json

import pytest

from research.replay.__main__ import main

GOOD = json.dumps({"id": 1, "category": "coding", "prompt_ids": [1, 2], "output_ids": [1, 2, 1, 2, 1]})


@pytest.fixture
def traces(tmp_path):
    path = tmp_path / "traces.jsonl"
    lines = [
        {
            "id": place,
            "category": "qa" if place % 2 else "rag",
            "prompt_ids": [1, 2, place],
            "output_ids": [3, 4, 5] * 4,
        }
        for place in range(50)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def written(tmp_path, *lines):
    path = tmp_path / "traces.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return ended.value.code


def test_a_row_for_each_system_and_size(tmp_path):
    path, report = written(tmp_path, GOOD, GOOD), tmp_path / "report.json"
    arguments = ("--store", "trie", "--store", "prompt-lookup", "--draft-tokens", "2,4")
    assert run(path, *arguments, "--memory-tokens", 2000, "--json", report) == 0
    results = json.loads(report.read_text())["results"]
    assert [(row["store"], row["draft_tokens"]) for row in results] == [
        ("trie", 2),
        ("trie", 4),
        ("prompt-lookup", 2),
        ("prompt-lookup", 4),
    ]
    assert all(row["mean_acceptance_length"] > 1 for row in results)
    assert [row["bytes_per_token"] is not None for row in results] == [True, True, False, False]


def test_peers_that_are_not_installed_are_left_out_with_one_notice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("research.peers.arctic.find_spec", lambda _: None)
    report = tmp_path / "report.json"
    path = written(tmp_path, GOOD)
    assert run(path, "--store", "log", "--peers", "--draft-tokens", 4, "--json", report) == 0
    stores = [row["store"] for row in json.loads(report.read_text())["results"]]
    assert stores == ["log", "prompt-lookup", "llma", "published-trie"]
    assert capsys.readouterr().err.count("arctic-inference is not installed") == 1
    assert run(path, "--store", "arctic") == 2
    assert "pip install --no-deps arctic-inference" in capsys.readouterr().err


def test_costs_and_calibration_are_told(tmp_path, capsys):
    lines = [
        json.dumps({"id": i, "category": "qa", "prompt_ids": [1, 2], "output_ids": [1, 2, 3, 4] * 4})
        for i in range(2)
    ]
    report, picture = tmp_path / "report.json", tmp_path / "calibration.svg"
    options = ["--store", "log", "--draft-tokens", "2,4", "--costs", "--memory-tokens", 5000]
    assert run(written(tmp_path, *lines), *options, "--json", report, "--calibration", picture) == 0
    told = json.loads(report.read_text())
    assert told["memory_tokens"] == 5000
    assert told["command"].startswith("python -m research.replay")
    assert told["environment"]["logical_cores"] > 0
    assert [(row["store"], row["draft_tokens"]) for row in told["costs"]] == [("log", 2), ("log", 4)]
    assert all(row["calibration"]["bins"] for row in told["results"])
    assert "5,000 tokens in memory" in capsys.readouterr().out
    assert "<!-- log -->" in picture.read_text()


def test_a_picture_of_no_known_format_is_refused_before_anything_is_measured(tmp_path, capsys):
    assert run(written(tmp_path, GOOD), "--calibration", tmp_path / "picture.doc") == 2
    assert ".svg, .png, .pdf" in capsys.readouterr().err


def test_costs_of_what_has_none_are_refused(tmp_path, capsys):
    assert run(written(tmp_path, GOOD), "--store", "llma", "--costs") == 2
    assert "none of which is in llma" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["grid", "capacity", "ablation", "warm-up"])
def test_a_replayed_experiment_writes_its_report(traces, tmp_path, name):
    out = tmp_path / "report"
    assert run(traces, "--experiment", name, "--report", out) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["report.json", "report.md", f"{name}.png", f"{name}.svg"]
    )
    report = json.loads((out / "report.json").read_text())
    assert report["experiment"] == name
    acceptance = {row["store"]: row["mean_acceptance_length"] for row in report["results"]}
    if name == "grid":
        assert acceptance["64 by 32"] > acceptance["4 by 2"] > 1
    elif name == "capacity":
        assert acceptance["log, 8192 KiB"] > 1
    elif name == "ablation":
        assert acceptance["log"] > acceptance["log without answers"]
    else:
        assert acceptance["memory grows"] > acceptance["memory emptied"]


def test_replay_refuses_an_unknown_experiment_and_a_report_of_none(traces, tmp_path, capsys):
    for arguments, said in (
        (["--experiment", "magic"], "'magic' is unknown; choose from grid"),
        (["--report", str(tmp_path)], "--report is of an experiment"),
    ):
        assert run(traces, *arguments) == 2
        assert said in " ".join(capsys.readouterr().err.split())
