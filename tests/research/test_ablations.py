"""The ablated stores, and the methods and experiments that `python -m research.bench` adds."""

import json
import sys

import pytest
import torch

from helpers import tiny_models
from lookahead.bench.data.datasets import Row
from lookahead.bench.methods.registry import BASELINE, METHODS, Ingredients, make_methods
from lookahead.bench.plotting.pictures import PICTURES
from lookahead.bench.report.tables import TABLES
from lookahead.bench.run.experiments import EXPERIMENTS
from lookahead.bench.run.measuring import greedy, measure
from lookahead.bench.run.runner import Plan, run_benchmark
from lookahead.config import DraftMode, LookaheadConfig
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.store import Origin
from lookahead.drafting.tree import DraftTree
from lookahead.drafting.trie.token_trie import TokenTrie
from research import bench
from research.ablations import ABLATED_METHODS, ABLATIONS

GIVEN = Ingredients(config=LookaheadConfig(max_bytes=2**21, decoding_length=12))


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model("llama")


@pytest.fixture
def _registries_restored():
    registries = (METHODS, EXPERIMENTS, PICTURES)
    kept, tables = [registry.copy() for registry in registries], TABLES.copy()
    yield
    for registry, content in zip(registries, kept, strict=True):
        registry.clear()
        registry.update(content)
    TABLES[:] = tables


@pytest.mark.parametrize("name", ABLATED_METHODS)
def test_a_method_gives_the_text_of_generate(model, monkeypatch, name):
    rows = [Row(row_id=text, category="qa", prompt=text) for text in ("HelloHelloHello", "abcabcab")]
    monkeypatch.setitem(METHODS, name, ABLATED_METHODS[name])
    plan = Plan(rows=rows, methods=[name], given=GIVEN, settings=greedy(16))
    benchmark = run_benchmark(model, tiny_models.tiny_tokenizer(), plan)
    assert not benchmark.failed
    assert all(not result.differences for result in benchmark.results)
    assert all(result.runs[name].answers == result.runs[BASELINE].answers for result in benchmark.results)


@pytest.mark.parametrize("name", ABLATED_METHODS)
def test_what_a_method_says_of_batches_is_so(model, name):
    method = ABLATED_METHODS[name](GIVEN)
    inputs = {"input_ids": torch.cat([tiny_models.prompt(1), tiny_models.prompt(2)])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    run = measure(method, model, inputs, settings=greedy(8))
    plain = measure(METHODS[BASELINE](GIVEN), model, inputs, settings=greedy(8))
    assert method.batches
    assert run.answers == plain.answers
    assert len(run.answers) == 2
    assert (run.decode_tokens, run.decode_s, run.first_token_s) == (14, 0.0, None)
    assert run.steps <= plain.steps == 14


@pytest.mark.parametrize("experiment", bench.RESEARCH_EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_an_experiments_methods_exist(experiment, monkeypatch):
    for name, make in ABLATED_METHODS.items():
        monkeypatch.setitem(METHODS, name, make)
    assert len(make_methods(experiment.methods, GIVEN)) == 1 + len(experiment.methods)


@pytest.mark.usefixtures("_registries_restored")
def test_bench_has_the_grid_with_its_tables_and_pictures(folder, tmp_path, monkeypatch):
    data, out = tmp_path / "rows.jsonl", tmp_path / "report"
    data.write_text(json.dumps({"id": 1, "category": "qa", "turns": ["HelloHello"]}))
    on_tiny = ("--model", folder, "--dtype", "float32", "--device", "cpu", "--threads", 1)
    arguments = (data, *on_tiny, "--max-new-tokens", 8, "--no-noise", "--experiment", "grid", "--report", out)
    monkeypatch.setattr("sys.argv", ["research.bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 0
    assert sys.argv[1] == "bench"
    text = (out / "report.md").read_text()
    assert "**Speedup in decoding, by decoding length and branch length**" in text
    assert "**Mean acceptance length, by decoding length and branch length**" in text
    assert "![grid](grid.svg)" in text
    assert (out / "grid.svg").exists()
    assert set(ABLATED_METHODS) < set(METHODS)


def drafted(store, prompt, answer=(), *, earlier=(), tokens=6):
    if earlier:
        store.insert("earlier", earlier[0], Origin.PROMPT)
        store.insert("earlier", earlier[1], Origin.OUTPUT)
        store.forget("earlier")
    store.open("now")
    store.insert("now", prompt, Origin.PROMPT)
    if answer:
        store.insert("now", answer, Origin.OUTPUT)
    tree: DraftTree = store.propose(
        "now", decoding_length=tokens, branch_length=4, mode=DraftMode.HIERARCHICAL
    )
    store.forget("now")
    return set(tree.token_ids.tolist()[1:])


@pytest.mark.parametrize("make", [TokenLog, TokenTrie])
def test_each_ablation_takes_out_what_it_says(make):
    in_prompt = {"prompt": [5, 6, 7, 5, 6]}
    in_answer = {"prompt": [9], "answer": [5, 6, 7, *range(20, 30), 5, 6]}
    in_earlier = {"prompt": [5, 6], "answer": [5, 6], "earlier": ([1], [5, 6, 7, 8])}
    in_earlier_prompt = {"prompt": [9], "answer": [5, 6], "earlier": ([5, 6, 7, 8], [3])}
    finds = {
        None: (True, True, True, False),
        "without-prompts": (False, True, True, False),
        "without-earlier-answers": (True, True, False, False),
        "without-answers": (True, False, False, False),
        "without-elimination": (True, True, True, True),
    }
    assert set(finds) == {None, *ABLATIONS}
    for name, expected in finds.items():
        found = tuple(
            7 in drafted(make() if name is None else ABLATIONS[name](make), **case)
            for case in (in_prompt, in_answer, in_earlier, in_earlier_prompt)
        )
        assert found == expected, name
