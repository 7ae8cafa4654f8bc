"""Drafts that know the noise of coming draws: more is accepted, and neither text nor generator differ."""

from itertools import product

import pytest
import torch

from helpers.samples import sampled
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.decoding.sampling import choice, noise_ahead
from lookahead.decoding.sampling.noise_ahead import NoiseAhead

SAMPLING = {"max_new_tokens": 40, "do_sample": True, "temperature": 0.9, "top_k": 0, "pad_token_id": 0}


def answers(generate, token_ids, **settings):
    """The texts of some seeds, and the number that the generator would give after each."""
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        text = generate(token_ids, **SAMPLING, **settings).tolist()
        found.append((text, torch.rand(1).item()))
    return found


def another_generators(monkeypatch):
    """Guess a wrong generator, whose noise has nothing to do with what is drawn."""

    def of_another(_generator, **shape):
        return NoiseAhead(torch.Generator().manual_seed(77), **shape)

    monkeypatch.setattr(choice, "NoiseAhead", of_another)


def unknown(monkeypatch):
    """Know nothing."""
    monkeypatch.setattr(noise_ahead, "is_noise_known", lambda: False)


def known(_monkeypatch):
    """Know the noise."""


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("family", "rows"),
    sampled(product(["llama", "gemma3", "bloom"], [1, 3]), [("llama", 3), ("gemma3", 1), ("bloom", 1)]),
)
def test_whatever_is_known_of_the_noise_text_and_generator_are_those_of_generate(family, rows, monkeypatch):
    model = tiny_model(family)
    token_ids = torch.cat([prompt(seed) for seed in range(rows)])
    expected = answers(model.generate, token_ids)
    accepted = {}
    for knowledge in (known, another_generators, unknown):
        with monkeypatch.context() as patch:
            knowledge(patch)
            lookahead = Lookahead(LookaheadConfig(decoding_length=16))

            def generate(token_ids, *, lookahead=lookahead, **settings):
                return lookahead.generate(model, token_ids, **settings)

            assert answers(generate, token_ids) == expected
            accepted[knowledge] = lookahead.stats.mean_acceptance_length
    assert accepted[known] > 1.05 * accepted[unknown]
    assert accepted[another_generators] < 1.1 * accepted[unknown]


def test_a_processor_that_draws_makes_guesses_wrong_and_no_text():
    model, token_ids = tiny_model("llama"), prompt(0)

    def draws(_ids, scores):
        return scores + 0.1 * torch.rand(1)

    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    expected = answers(model.generate, token_ids, logits_processor=[draws])

    def generate(token_ids, **settings):
        return lookahead.generate(model, token_ids, **settings)

    assert answers(generate, token_ids, logits_processor=[draws]) == expected
