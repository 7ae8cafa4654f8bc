"""Steps of a model's own code whose rows have each their own number of nodes."""

import pytest
import torch

from helpers.random_trees import random_tree
from helpers.samples import sampled
from helpers.tiny_models import prompt, tiny_model
from lookahead import LookaheadConfig
from lookahead.decoding.loop import PromptPart
from lookahead.drafting.tree import DraftTree
from lookahead.hf.attention import flat_rows
from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps.eager import EagerRunner, FlatRunner
from lookahead.hf.steps.runner import Row, StepBatch
from lookahead.hf.steps.step_model import TransformersStepModel
from lookahead.hf.steps.verification import CHAIN, TREE, TREE_UNGROUPED
from lookahead.hf.support.flat_trial import why_not_flat
from lookahead.hf.support.model_profile import ModelProfiles

FLAT = ["llama", "gpt2", "opt", "ctrl", "mixtral", "gpt_oss", "deepseek_v3", "longcat_flash", "mistral"]
FLAT += ["gemma2", "gemma3", "gemma3n", "modernbert-decoder"]
"""Positions of every kind, windows, soft caps and sinks (eager), latent and shared keys, experts."""
NOT_FLAT = {
    "llama4_text": "its rows have to be equally long",
    "doge": "its rows have to be equally long",
    "bloom": "its drafts are not verified as trees",
}


def layout_of(model):
    return attention_layout(model, fresh_cache(model))


def found_for(model, rows=8):
    profiles = ModelProfiles(LookaheadConfig(compiled_cpu=False))
    return profiles.verification(model, layout_of(model), rows)


def step_model_of(model, verification, *, max_rows=8):
    return TransformersStepModel(
        model,
        ModelTraits.of(model),
        layout_of(model),
        verification=verification,
        max_nodes=16,
        max_rows=max_rows,
    )


class Widths:
    """Notes the shapes of the tokens that a model computes."""

    def __init__(self, model, monkeypatch):
        self.shapes = []
        own = type(model).forward

        def forward(this, input_ids=None, **kwargs):
            self.shapes.append(tuple(input_ids.shape))
            return own(this, input_ids=input_ids, **kwargs)

        monkeypatch.setattr(type(model), "forward", forward)


def read_rows(model, verification, lengths):
    step_model = step_model_of(model, verification)
    for row, length in enumerate(lengths):
        step_model.add(row, prompt(row, length)[0].tolist())
    return step_model


@pytest.mark.matrix
@pytest.mark.parametrize("family", sampled(FLAT, ["gpt2", "gpt_oss", "gemma3n", "deepseek_v3"]))
def test_logits_are_those_of_each_row_alone(family):
    """The sample has learned positions, an eager attention with sinks, shared keys and latent ones."""
    model = tiny_model(family)
    verification = found_for(model)
    assert verification.is_flat
    lengths, sizes = [5, 9, 12, 30, 7], [1, 1, 16, 3, 1]
    step_model, alone = (read_rows(model, verification, lengths) for _ in range(2))
    for step in range(3):  # what is kept of a step is read by the next
        drafts = {row: random_tree(size, 7 * step + row) for row, size in enumerate(sizes)}
        found = step_model.forward(drafts)
        for row, draft in drafts.items():
            expected = alone.forward({row: draft})[row]
            torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)
            alone.keep({row: [0]})
        step_model.keep({row: [0] for row in drafts})


@pytest.mark.parametrize(("family", "reason"), NOT_FLAT.items())
def test_models_whose_rows_cannot_lie_one_after_the_other_say_why(family, reason):
    model = tiny_model(family)
    verification = found_for(model)
    assert not verification.is_flat
    assert why_not_flat(model, layout_of(model), verification) == reason


def test_one_draft_of_16_among_8_rows_costs_23_tokens(monkeypatch):
    model = tiny_model("llama")
    step_model = read_rows(model, found_for(model), [12] * 8)
    widths = Widths(model, monkeypatch)
    drafts = {row: DraftTree.root_only(3) for row in range(8)}
    step_model.forward(drafts | {5: random_tree(16, 0)})
    step_model.keep({row: [0] for row in drafts})
    step_model.forward(drafts)
    step_model.keep({row: [0] for row in drafts})
    step_model.forward({row: random_tree(2 + row % 2, row) for row in range(8)})
    assert widths.shapes == [(1, 23), (8, 1), (8, 3)]


def test_parts_of_prompts_are_read_beside_drafts(monkeypatch):
    model, tokens = tiny_model("gemma3"), prompt(9, 40)[0].tolist()
    step_model = read_rows(model, found_for(model), [12, 7, 9])
    for row in (3, 4):
        step_model.begin(row, tokens)
    draft = random_tree(6, 1)
    expected = step_model.forward({0: draft})[0]
    step_model.keep({0: []})
    widths = Widths(model, monkeypatch)
    parts = {3: PromptPart(tokens[:25]), 4: PromptPart(tokens, max_logits=2)}
    found = step_model.forward_with_parts({0: draft, 1: DraftTree.root_only(3)}, parts)
    assert widths.shapes == [(1, 6 + 1 + 25 + 40)]
    assert [len(found[row]) for row in (0, 1, 3, 4)] == [6, 1, 0, 2]
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    whole = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(found[4], whole[-2:], rtol=1e-4, atol=1e-4)
    assert (step_model.length_of(3), step_model.length_of(4)) == (25, 40)
    step_model.keep({0: [0], 1: [0]})
    rest = step_model.read({3: tokens[25:]})[3]
    torch.testing.assert_close(rest[0], whole[-1], rtol=1e-4, atol=1e-4)


def test_a_forward_pass_that_raises_is_done_in_a_rectangle(monkeypatch):
    model = tiny_model("llama")
    step_model = read_rows(model, found_for(model), [12] * 8)
    drafts = {row: DraftTree.root_only(3) for row in range(7)} | {7: random_tree(16, 0)}
    expected = step_model.forward(drafts)
    step_model.keep({row: [] for row in drafts})
    calls = []

    def failing(*_args, **_kwargs):
        calls.append(1)
        message = "no"
        raise RuntimeError(message)

    monkeypatch.setattr(flat_rows, "_attend", failing)
    widths = Widths(model, monkeypatch)
    for _ in range(5):
        found = step_model.forward(drafts)
        step_model.keep({row: [] for row in drafts})
    assert len(calls) == 3  # then it is no longer tried
    assert widths.shapes == [(1, 23), (8, 16)] * 3 + [(8, 16)] * 2
    for row in drafts:
        torch.testing.assert_close(found[row], expected[row], rtol=1e-4, atol=1e-4)
    assert model.config._attn_implementation == "sdpa"
    assert all(layer.flat_rows is None for layer in step_model.cache.layers)


@pytest.mark.parametrize(
    "other", [{"types": {"token_type_ids": torch.zeros(1, 1)}}, {"shift": torch.zeros(3)}]
)
def test_rows_that_differ_in_more_than_tokens_are_left_to_a_rectangle(other):
    model = tiny_model("llama")
    cache = ArenaCache([None] * model.config.num_hidden_layers, 64, max_rows=2)
    rows = [Row(cache.arena.add_row(), **other), Row(cache.arena.add_row())]
    runner = FlatRunner(EagerRunner(model, ModelTraits.of(model), layout_of(model), TREE))
    cache.arena.set_active_rows([0, 1])
    assert runner.run(StepBatch(rows, [random_tree(9, 0), DraftTree.root_only(3)], cache)) is None
    assert runner._failures == 0


def test_a_cache_without_layers_is_left_to_a_rectangle():
    model = tiny_model("llama")
    cache = ArenaCache([None] * model.config.num_hidden_layers, 64, max_rows=2)
    rows = [Row(cache.arena.add_row()) for _ in range(2)]
    runner = FlatRunner(EagerRunner(model, ModelTraits.of(model), layout_of(model), TREE))
    cache.arena.set_active_rows([0, 1])
    batch = StepBatch(rows, [DraftTree.chain([1, 2, 3]), DraftTree.root_only(3)], cache)
    assert runner.read(batch, [1, 1]) is None
    assert runner._failures == 0


@pytest.mark.parametrize("verification", [CHAIN, TREE_UNGROUPED], ids=["chain", "ungrouped"])
def test_only_trees_lie_one_after_the_other(verification):
    model = tiny_model("llama")
    reason = why_not_flat(model, layout_of(model), verification)
    assert reason == ("its drafts are not verified as trees" if verification is CHAIN else "")


def test_a_model_whose_rows_disagree_is_left_to_rectangles(monkeypatch):
    """As one that adds up what its rows see."""
    own = flat_rows._attend

    def mixed(*args, **kwargs):
        attended, weights = own(*args, **kwargs)
        return attended + attended.mean(dim=1, keepdim=True), weights

    model = tiny_model("llama")
    monkeypatch.setattr(flat_rows, "_attend", mixed)
    assert "differ by" in why_not_flat(model, layout_of(model), TREE)
    monkeypatch.setattr(flat_rows, "_attend", None)
    assert "raised TypeError" in why_not_flat(model, layout_of(model), TREE)


def test_a_single_row_is_not_tried():
    assert not found_for(tiny_model("llama"), rows=1).is_flat
