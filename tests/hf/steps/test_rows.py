"""Rows join and leave a running loop at random steps, and each text is the text of `generate` alone.

A few requests are tried with all tests; `make soak` tries hundreds.
"""

import os
import random

import pytest
import torch
from transformers import DynamicCache

from helpers.samples import thinned
from helpers.tiny_models import prompt, tiny_model
from lookahead.backends.cuda.capture import NoCapture
from lookahead.decoding.loop import emit_first_tokens, step
from lookahead.decoding.sampling.choice import Sampler, argmax
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.budget.controller import BudgetController
from lookahead.drafting.drafter import BatchDrafter, RequestDrafter
from lookahead.drafting.log.token_log import TokenLog
from lookahead.drafting.tree import DraftTree
from lookahead.errors import UnsupportedModelError
from lookahead.hf.compat.config import text_config
from lookahead.hf.compat.layout import attention_layout
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps import cuda_graphs
from lookahead.hf.steps.compiled_cpu import unsupported_reason
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.verification import CHAIN, COMPILED, TREE, of_fixed_width
from lookahead.stats import GenerationStats

NEW_TOKENS, MAX_ROWS = 16, 4
REQUESTS = int(os.environ.get("LOOKAHEAD_SOAK_REQUESTS") or 9)
WAYS = {"own code": TREE, "fixed width": of_fixed_width(12), "compiled": COMPILED, "graphs": TREE}
CASES = [
    *(("llama", way) for way in ("own code", "fixed width", "graphs")),
    *(("gemma3", way) for way in ("own code", "fixed width", "graphs")),
    ("mistral", "own code"),
    ("gpt2", "own code"),
    ("fused-llama", "compiled"),
    ("fused-qwen3", "compiled"),
]


def alone(model, tokens, seed, *, sampling):
    """The new tokens of `generate` for one prompt, sampled with the seed."""
    torch.manual_seed(seed)
    settings = {"do_sample": True, "top_k": 0} if sampling else {"do_sample": False}
    settings |= {"max_new_tokens": NEW_TOKENS, "pad_token_id": 0}
    return model.generate(torch.tensor([tokens]), **settings)[0, len(tokens) :].tolist()


def step_model_of(model, verification, *, max_rows=MAX_ROWS, graphs=None):
    layout = attention_layout(model, DynamicCache(config=text_config(model)))
    return TransformersStepModel(
        model,
        ModelTraits.of(model),
        layout,
        verification=verification,
        max_nodes=12,
        max_rows=max_rows,
        graphs=graphs,
    )


class Server:
    """Serves requests in a running loop: at each step some join, and those that are done leave.

    Args:
        model: A transformers model.
        step_model: Its step model.
        sampling: Whether each request draws its tokens, with a generator of its own.
    """

    def __init__(self, model, step_model, *, sampling):
        self.model, self.step_model, self.sampling = model, step_model, sampling
        self.memory = TokenLog()
        self.drafter = BatchDrafter(BudgetController(lambda _rows: 12), recycles=True)
        self.states: dict[int, GenerationState] = {}
        self.stats = GenerationStats()

    def join(self, row, tokens, seed, chunk):
        sampler = Sampler(torch.Generator().manual_seed(seed)) if self.sampling else None
        state = self.states[row] = GenerationState(
            torch.tensor([tokens]),
            rows=(row,),
            max_length=len(tokens) + NEW_TOKENS,
            process=lambda _ids, scores: scores,
            is_finished=lambda ids, _scores: torch.zeros(len(ids), dtype=torch.bool),
            choose=sampler or argmax,
            foresee=None if sampler is None else sampler.foresee,
        )
        logits = self.step_model.add(row, tokens, chunk=chunk)
        self.drafter.add(row, RequestDrafter(self.memory, branch_length=12), tokens)
        emit_first_tokens(self.drafter, [state], logits[None], self.stats)

    def leave(self, row):
        self.step_model.remove(row)
        self.drafter.remove(row)
        return self.states.pop(row).token_ids[0, -NEW_TOKENS:].tolist()


@torch.no_grad()
def served(model, step_model, prompts, *, sampling, seed):
    """The new tokens of each prompt, in a loop that they join and leave at random steps."""
    chance, server, texts = random.Random(seed), Server(model, step_model, sampling=sampling), {}
    waiting = list(enumerate(prompts))
    while waiting or server.states:
        while waiting and len(server.states) < MAX_ROWS and chance.random() < 0.4:
            row, tokens = waiting.pop(0)
            server.join(row, tokens, row, chunk=chance.choice([1, 3, 64]))
        going = [
            state for row, state in server.states.items() if not state.finished and chance.random() < 0.8
        ]
        step(step_model, server.drafter, going, server.stats)
        for row in [row for row, state in server.states.items() if state.finished]:
            texts[row] = server.leave(row)
    assert server.memory._requests == {}
    return [texts[row] for row in range(len(prompts))], server.stats


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("family", "way", "sampling"),
    thinned([(*case, is_sampled) for case in CASES for is_sampled in (False, True)], 3),
)
def test_every_text_is_that_of_generate(family, way, sampling, monkeypatch):
    model, graphs = tiny_model(family), None
    if way == "compiled" and unsupported_reason(model):
        pytest.skip(f"no compiled decoder here: {unsupported_reason(model)}")
    if way == "graphs":
        monkeypatch.setattr(cuda_graphs, "capture_for", lambda *_: NoCapture())
        graphs = cuda_graphs.CapturedModels()
    prompts = [prompt(seed)[0, : 3 + 2 * (seed % 5)].tolist() for seed in range(REQUESTS)]
    prompts[-1] = prompts[0]  # asked again: accepted almost whole, unless it is sampled otherwise
    expected = [alone(model, tokens, row, sampling=sampling) for row, tokens in enumerate(prompts)]
    step_model = step_model_of(model, WAYS[way], graphs=graphs)
    texts, stats = served(model, step_model, prompts, sampling=sampling, seed=len(family))
    assert texts == expected
    assert stats.mean_acceptance_length > 1.1
    assert stats.forwards < stats.row_steps


def test_a_row_that_is_not_in_a_step_stays_as_it_is():
    model = tiny_model("llama")
    step_model = step_model_of(model, TREE)
    with torch.no_grad():
        for row in (5, 6):
            step_model.add(row, prompt(row)[0].tolist())
        before = [part.clone() for part in step_model.cache.arena.memory(0)]
        slot, length = step_model._rows[5].slot, 12
        step_model.forward({6: DraftTree.chain([3, 4, 5])})
        step_model.keep({6: [0, 1]})
    for part, was in zip(step_model.cache.arena.memory(0), before, strict=True):
        assert torch.equal(part[slot, :, :length], was[slot, :, :length])
    assert step_model.cache.arena.lengths[slot] == length


def test_a_prompt_in_chunks_gives_the_logits_of_the_whole_prompt():
    model, tokens = tiny_model("gemma3"), prompt(0, 30)[0].tolist()
    with torch.no_grad():
        whole = model(torch.tensor([tokens])).logits[0, -2:]
        for chunk in (2, 7, 30, 64):
            logits = step_model_of(model, TREE).add(0, tokens, chunk=chunk, max_logits=2)
            torch.testing.assert_close(logits, whole[-len(logits) :], rtol=1e-4, atol=1e-5)


def test_rows_are_refused_by_name_where_they_cannot_be_served():
    step_model = step_model_of(tiny_model("llama"), TREE, max_rows=1)
    with torch.no_grad():
        step_model.add(0, [1, 2])
        with pytest.raises(ValueError, match="row 0 with a prompt of 2 tokens: give a new row"):
            step_model.add(0, [1, 2])
        with pytest.raises(ValueError, match="at least one token"):
            step_model.add(1, [])
        with pytest.raises(IndexError, match="all 1 row slots are taken; remove a row first"):
            step_model.add(1, [1])
        step_model.remove(0)
        step_model.add(1, [1])
        chains = step_model_of(tiny_model("llama"), CHAIN)
        chains.add(0, [1, 2])
        with pytest.raises(UnsupportedModelError, match="one at a time"):
            chains.add(1, [1, 2])


def test_rows_that_leave_let_the_others_stay_neighbours_and_memory_shrink():
    model, tokens = tiny_model("llama", max_position_embeddings=2048), prompt(0)[0].tolist()
    step_model = step_model_of(model, TREE, max_rows=8)
    for row in range(8):
        step_model.add(row, tokens)
    arena = step_model.cache.arena
    assert arena.memory(0)[0].shape[0] == 8
    for row in (0, 2, 3, 4, 5, 6):
        step_model.remove(row)
    expected = model(torch.tensor([[*tokens, 3]])).logits[0, -1]
    for row, logits in step_model.forward({1: DraftTree.root_only(3), 7: DraftTree.root_only(3)}).items():
        torch.testing.assert_close(logits[0], expected, rtol=1e-4, atol=1e-5, msg=f"row {row}")
    assert sorted(row.slot for row in step_model._rows.values()) == [0, 1]
    step_model.keep({1: [0], 7: [0]})
    while arena.capacity == step_model.cache.arena.room and arena.lengths[0] < 700:
        step_model.forward({7: DraftTree.chain([3] * 12)})
        step_model.keep({7: list(range(12))})
    assert arena.memory(0)[0].shape[0] == 2


def test_the_compiled_decoder_moves_no_row_before_the_arena_grows():
    model = tiny_model("fused-llama")
    if unsupported_reason(model):
        pytest.skip(f"no compiled decoder here: {unsupported_reason(model)}")
    step_model = step_model_of(model, COMPILED)
    for row in range(3):
        step_model.add(row, [1, 2, 3])
    step_model.remove(0)
    step_model.forward({1: DraftTree.root_only(3), 2: DraftTree.root_only(3)})
    assert [row.slot for row in step_model._rows.values()] == [1, 2]


def test_outside_generate_no_graph_of_gradients_is_built():
    step_model = step_model_of(tiny_model("llama"), TREE)
    assert not step_model.add(0, [1, 2, 3]).requires_grad
    assert not step_model.forward({0: DraftTree.chain([3, 4])})[0].requires_grad
    assert not step_model.cache.arena.memory(0)[0].requires_grad


def test_a_prompt_that_cannot_be_read_leaves_no_row_behind():
    step_model = step_model_of(tiny_model("llama"), TREE, max_rows=1)
    with pytest.raises(IndexError):
        step_model.add(0, [1, 2, 10**6])
    assert step_model.rows == []
    step_model.add(0, [1, 2])


@pytest.mark.parametrize("family", ["llama-dynamic-rope", "llama-longrope"])
def test_models_whose_frequencies_follow_the_longest_row_are_left_to_generate(family):
    with pytest.raises(UnsupportedModelError, match="rotary frequencies change"):
        step_model_of(tiny_model(family), TREE).add(0, [1, 2])


def test_a_second_row_of_a_model_that_reads_positions_off_slots_is_refused():
    step_model = step_model_of(tiny_model("bloom"), TREE)
    step_model.add(0, [1, 2])
    with pytest.raises(UnsupportedModelError, match="one at a time"):
        step_model.add(1, [1, 2, 3])
