"""The worker in a simulated engine: SGLang's own NGRAM worker, loaded alone, or one after the record."""

from types import SimpleNamespace

import pytest

from helpers.sglang_engine import END, Engine, Request
from helpers.sglang_modules import CONTRACT, sglang_modules
from lookahead.drafting.memory.draft_memory import DraftMemory
from lookahead.integrations.options import IntegrationOptions
from lookahead.integrations.sglang import worker as worker_module
from lookahead.integrations.sglang.corpus import LookaheadCorpus
from lookahead.integrations.sglang.follower import FollowerCorpus
from lookahead.integrations.sglang.worker import file_of_replica

NODES = 8
ANSWER = list(range(10, 50))


@pytest.fixture(params=["recorded", "installed"])
def modules(request):
    """Which SGLang."""
    return request.param


@pytest.fixture(params=[False, True], ids=["one after the other", "overlapping"])
def overlap(request):
    """Whether the engine processes results one step behind."""
    return request.param


@pytest.fixture
def engine(modules, overlap, monkeypatch):
    """An engine with a worker of ours, and the worker's memory."""
    monkeypatch.delenv("LOOKAHEAD_CONFIG", raising=False)
    spec = SimpleNamespace(
        speculative_num_draft_tokens=NODES,
        speculative_ngram_max_bfs_breadth=10,
        speculative_ngram_min_bfs_breadth=1,
        speculative_ngram_max_trie_depth=4,  # less than a step may add: the worker must widen it
        speculative_ngram_match_type="BFS",
        speculative_ngram_capacity=1000,
        speculative_ngram_external_sam_budget=0,
        speculative_ngram_external_corpus_max_tokens=1000,
        speculative_ngram_external_corpus_path=None,
        speculative_eagle_topk=10,
        speculative_num_steps=1,
    )
    parallel = SimpleNamespace(tp_group=SimpleNamespace(world_size=1), dp_rank=None)
    settings = SimpleNamespace(spec=spec, parallel=parallel, overlap=overlap, sample=None)
    runner = SimpleNamespace(
        model_config=SimpleNamespace(vocab_size=1000), max_running_requests=8, watermark_state=None
    )
    target = SimpleNamespace(
        model_runner=runner,
        tokenizer=None,
        get_memory_pool=lambda: (None, None),
        forward_batch_generation=lambda *_given, **_named: SimpleNamespace(
            logits_output=SimpleNamespace(next_token_logits=None), can_run_cuda_graph=False
        ),
    )
    with sglang_modules(modules, settings):
        worker = worker_module.worker_class()(SimpleNamespace(), 0, 0, target)
        worker.alloc_memory_pool()
        yield Engine(worker, settings)


def memory_of(engine) -> DraftMemory:
    return engine._worker.ngram_corpus.memory


def texts(engine, name="default"):
    """The texts of a namespace, sorted."""
    held = memory_of(engine).store.snapshot()
    owner = dict(zip(held["names"].tolist(), held["owners_named"].tolist(), strict=True)).get(name)
    found, text = [], []
    for token, whose in zip(held["tokens"].tolist(), held["owners"].tolist(), strict=True):
        if whose == owner and token >= 0:
            text.append(token)
        elif text:
            found.append(text)
            text = []
    return sorted([*found, text] if text else found)


def test_answers_are_as_the_model_says_and_each_is_remembered_once(engine):
    requests = [Request(f"r{row}", [3, 4, row + 5], ANSWER[row : row + 25]) for row in range(4)]
    for request in requests[:2]:
        engine.add(request)
    for _ in range(3):
        engine.step()
    engine.running.reverse()  # rows move
    for request in requests[2:]:
        engine.add(request)
    engine.run()
    for request in requests:
        assert request.output_ids_through_stop.tolist() == request.answer
    assert texts(engine) == sorted(request.answer for request in requests)


def test_a_known_answer_takes_few_steps(engine):
    engine.add(Request("first", [3, 4], ANSWER))
    engine.run()
    slow, engine.steps = engine.steps, 0
    again = Request("again", [3, 4], ANSWER)
    engine.add(again)
    engine.run()
    assert again.output_ids_through_stop.tolist() == again.answer
    assert slow == pytest.approx(len(ANSWER), abs=2)
    assert engine.steps <= 8
    assert texts(engine) == [again.answer, again.answer]


def test_what_the_model_says_behind_the_end_is_not_remembered(engine):
    memory_of(engine).warm([[10, 11, END, 2, 2, 2, 2, 2]])
    request = Request("r", [3], [10, 11])
    engine.add(request)
    engine.run()
    other = Request("other", [3], [20, 21, 22, 23, 24])
    engine.add(other)
    engine.run()
    assert texts(engine) == sorted([[10, 11, END], [10, 11, END, 2, 2, 2, 2, 2], other.answer])


def test_a_prompt_is_drafted_from_as_a_whole(engine):
    request = Request("r", [*ANSWER, 5, 6, 7], ANSWER)
    engine.add(request)
    engine.run()
    assert request.output_ids_through_stop.tolist() == request.answer
    assert engine.steps <= 10


def test_tenants_draft_from_their_own_answers(engine):
    asked = {
        "salt": {"salt": "a"},
        "same salt": {"salt": "a"},
        "key": {"key": "a"},
        "salt and key": {"salt": "a", "key": "a"},
        "none": {},
        "name": {"custom": {"lookahead_namespace": "a"}, "salt": "a"},
        "reader": {
            "custom": {"lookahead_namespace": "b", "lookahead_reads": "a", "lookahead_remember": False}
        },
        "not allowed": {"custom": {"lookahead_namespace": "corpus:a"}},
        "no name": {"custom": {"lookahead_namespace": 7, "lookahead_reads": 7}},
    }
    quick = set()
    for rid, said in asked.items():
        engine.steps = 0
        engine.add(Request(rid, [3, 4], ANSWER, **said))
        engine.run()
        if engine.steps < 10:
            quick.add(rid)
    assert quick == {"same salt", "reader"}
    held = memory_of(engine).namespaces
    both = next(name for name in held if len(name) > 64)
    assert held == {"cache_salt:a": 82, "extra_key:a": 41, both: 41, "default": 41, "a": 41}


@pytest.mark.parametrize("others", [0, 1])
def test_a_preempted_request_is_remembered_once(engine, others):
    request, other = Request("r", [3, 4], ANSWER), Request("other", [3, 5], ANSWER[::-1] * 3)
    engine.add(request)
    if others:
        engine.add(other)
    for _ in range(6):
        engine.step()
    engine.preempt(request)
    for _ in range(3):
        engine.step()
    assert texts(engine) == []
    engine.add(request)
    engine.run()
    assert request.output_ids_through_stop.tolist() == request.answer
    assert texts(engine) == sorted([request.answer, *([other.answer] if others else [])])


def test_a_corpus_serves_all_tenants(engine):
    worker = engine._worker
    worker.commit_corpus_load("manual", worker.add_external_corpus("manual", [[9, *ANSWER]]))
    engine.add(Request("r", [9], ANSWER, salt="tenant"))
    engine.run()
    assert engine.steps <= 8
    worker.clear_cache_pool()
    assert memory_of(engine).namespaces == {"corpus:manual": 41, "cache_salt:tenant": 41}


def test_the_worker_reads_nothing_else_of_requests():
    request = Request("r", [3], [10])
    assert {"rid", "origin_input_ids_unpadded", "output_ids"} == set(CONTRACT["worker_reads_of_requests"])
    assert all(hasattr(request, name) for name in CONTRACT["worker_reads_of_requests"])


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_of_a_tensor_parallel_group_holds_the_memory(monkeypatch, rank):
    monkeypatch.setenv("LOOKAHEAD_CONFIG", '{"max_bytes": 1048576, "remember": false}')
    group = SimpleNamespace(world_size=2, rank_in_group=rank, ranks=[0, 1], cpu_group=None)
    spec = SimpleNamespace(
        speculative_num_draft_tokens=NODES,
        speculative_ngram_max_bfs_breadth=1,
        speculative_ngram_max_trie_depth=18,
    )
    settings = SimpleNamespace(
        spec=spec, parallel=SimpleNamespace(tp_group=group, dp_rank=None), overlap=False, sample=None
    )
    sent = []
    monkeypatch.setattr(
        "torch.distributed.broadcast", lambda tensor, src, group: sent.append((tensor, src, group))
    )
    target = SimpleNamespace(
        model_runner=SimpleNamespace(model_config=SimpleNamespace(vocab_size=1000)), tokenizer=None
    )
    with sglang_modules("recorded", settings):
        corpus = worker_module.worker_class()(SimpleNamespace(), 0, 0, target).ngram_corpus
    assert isinstance(corpus, LookaheadCorpus if rank == 0 else FollowerCorpus)
    assert corpus.draft_token_num == NODES
    corpus.batch_get(["a"], [[5, 6]], [2])
    ((tensor, source, _),) = sent
    assert (tuple(tensor.shape), source) == ((2, 1, NODES), 0)
    if rank == 0:
        assert corpus.memory.store.max_bytes == 2**20
        assert corpus.memory.vocabulary_size == 1000


def test_each_replica_saves_to_a_file_of_its_own(tmp_path):
    options = IntegrationOptions(memory_file=str(tmp_path / "answers.lookahead"))
    assert file_of_replica(options, None) == file_of_replica(options, 0) == options
    assert file_of_replica(options, 3).memory_file == str(tmp_path / "answers.dp3.lookahead")
    assert file_of_replica(IntegrationOptions(), 3) == IntegrationOptions()
