"""Samples that the device chooses: those of `generate`, and torch's random state after them, too."""

import pytest
import torch

from device.emulation.device import Kind
from helpers.samples import sampled
from helpers.tiny_models import prompt
from lookahead import Lookahead, LookaheadConfig
from lookahead.decoding.sampling import device_walk
from lookahead.decoding.sampling.choice import DefaultNoise
from lookahead.decoding.sampling.device_walk import sample_down
from lookahead.decoding.sampling.state import GenerationState
from lookahead.drafting.tree import DraftTree

PROCESSORS = {
    "none": {},
    "temperature": {"temperature": 0.7},
    "top k and p": {"top_k": 12, "top_p": 0.9},
    "repetition": {"repetition_penalty": 1.3, "min_p": 0.02},
    "length": {"min_new_tokens": 8, "exponential_decay_length_penalty": (6, 1.2)},
    "n-grams, which wait": {"no_repeat_ngram_size": 3},
}


def text_and_next_number(generate, token_ids, **generation):
    torch.manual_seed(9)
    text = generate(token_ids, **generation).tolist()
    return text, torch.rand(1).item()


CASES = [(processors, rows, "hierarchical") for processors in PROCESSORS for rows in (1, 3)]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("processors", "rows", "mode"),
    sampled([*CASES, ("none", 1, "parallel")], [*CASES[2:6], ("none", 1, "parallel")]),
)
def test_the_text_and_the_random_state_are_those_of_generate(processors, rows, mode, on_device, monkeypatch):
    walked, own = [], device_walk.sample_down
    monkeypatch.setattr(
        "lookahead.decoding.acceptance.sample_down", lambda *given: walked.append(1) or own(*given)
    )
    model = on_device("llama")
    token_ids = torch.cat([prompt(seed) for seed in range(rows)]).to("cuda")
    generation = {"max_new_tokens": 24, "do_sample": True, "eos_token_id": [11, 20, 33], "pad_token_id": 0}
    generation |= PROCESSORS[processors]
    lookahead = Lookahead(LookaheadConfig(decoding_length=12, draft_mode=mode))
    for _ in range(2):
        expected = text_and_next_number(model.generate, token_ids, **generation)
        found = text_and_next_number(
            lambda ids, **given: lookahead.generate(model, ids, **given), token_ids, **generation
        )
        assert found == expected
    assert bool(walked) is ("wait" not in processors)


@pytest.mark.parametrize("node", [0, 1, 2])
def test_scores_that_are_no_numbers_raise_where_the_walk_comes_by(node):
    answer = GenerationState(
        torch.tensor([[1]]),
        max_length=9,
        process=lambda _ids, scores: scores,
        is_finished=None,
        choose=None,
        sampled_ends=(),
        noise=DefaultNoise(),
    )
    logits = torch.full((3, 5), -100.0)
    logits[[0, 1, 2], [3, 4, 0]] = 100.0  # 3 after node 0, 4 after node 1, which carries 3
    logits[node] = torch.nan
    tree = DraftTree.chain([1, 3, 2])  # left after node 1: node 2's logits are not read
    samples = iter(sample_down({0: tree}, {0: logits}, [answer])[0])
    assert [next(samples) for _ in range(node)] == [3, 4][:node]
    if node < 2:
        with pytest.raises(RuntimeError, match="probability tensor contains"):
            next(samples)
    assert answer.length == 1


def test_a_streamer_sees_each_token(on_device, device):
    seen = []

    class Streamer:
        def put(self, tokens):
            seen.extend(tokens.flatten().tolist())

        def end(self):
            pass

    model, token_ids = on_device("llama"), prompt(0).to("cuda")
    lookahead = Lookahead(LookaheadConfig(decoding_length=12))
    found = lookahead.generate(model, token_ids, max_new_tokens=20, do_sample=True, streamer=Streamer())
    assert seen == found[0].tolist()
    assert device.count(Kind.WAIT)
