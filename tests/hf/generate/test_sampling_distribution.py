"""Sampling is exact: a seed gives the text of `generate`, and many seeds give the model's distribution.

The second test asks nothing of `generate`: it counts the answers of a model whose vocabulary is so small that
the probability of every answer can be computed from the model itself, and compares the counts by chi-square.
`make test` draws a fifth of what `make verify` draws, and tells only larger faults apart.
"""

from itertools import product

import pytest
import torch

from helpers.samples import IS_WHOLE, examples
from helpers.tiny_models import tiny_model
from lookahead import Lookahead, LookaheadConfig

VOCABULARY = 8
NEW_TOKENS = 3  # the first comes of the prompt, the others of a draft tree and what it was refused for
PROMPT = torch.tensor([[2, 5, 3, 2, 5, 3, 2, 5]])
TEMPERATURE = 1.4
SAMPLING = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "max_new_tokens": NEW_TOKENS}
MIN_EXPECTED = 5.0
"""Rarer answers are counted as one: chi-square is an approximation that fails for few."""


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", vocab_size=VOCABULARY, num_hidden_layers=1)


def drawn_answers(model, lookahead, draws, rows):
    """int64 [draws, NEW_TOKENS], in batches of so many rows."""
    batches = [
        model.generate(PROMPT, custom_generate=lookahead, num_return_sequences=rows, **SAMPLING)
        for _ in range(draws // rows)
    ]
    return torch.cat(batches)[:, PROMPT.shape[1] :]


def probabilities(model, temperature):
    """float64 [VOCABULARY ** NEW_TOKENS]: of every answer, in the order of its digits."""
    answers = torch.tensor(list(product(range(VOCABULARY), repeat=NEW_TOKENS)))
    with torch.no_grad():
        logits = model(torch.cat([PROMPT.expand(len(answers), -1), answers], dim=1)).logits
    before = logits[:, PROMPT.shape[1] - 1 : -1].double() / temperature
    return before.log_softmax(dim=-1).gather(2, answers[..., None]).sum(dim=(1, 2)).exp()


def chi_square_p_value(answers, expected_shares):
    """How probable counts at least as far from the expected ones are."""
    places = VOCABULARY ** torch.arange(NEW_TOKENS - 1, -1, -1)
    counts = torch.bincount((answers * places).sum(dim=1), minlength=VOCABULARY**NEW_TOKENS).double()
    expected = expected_shares * len(answers)
    is_rare = expected < MIN_EXPECTED
    counts = torch.cat([counts[~is_rare], counts[is_rare].sum()[None]])
    expected = torch.cat([expected[~is_rare], expected[is_rare].sum()[None]])
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor(len(counts) - 1.0, dtype=torch.float64)
    return torch.special.gammaincc(freedom / 2, chi_square / 2).item()


@pytest.mark.matrix
@pytest.mark.parametrize(("draws", "rows"), [(examples(20_000, 10), 500), (examples(2_000, 8), 1)])
def test_many_draws_follow_the_models_own_distribution(model, draws, rows):
    lookahead = Lookahead(LookaheadConfig(decoding_length=8 * rows))
    answers = drawn_answers(model, lookahead, draws, rows)
    assert lookahead.stats.mean_acceptance_length > 1.3  # drafts were accepted, and others refused
    assert lookahead.stats.accepted_tokens < 0.9 * lookahead.stats.draft_tokens
    exact = probabilities(model, TEMPERATURE)
    assert exact.sum().item() == pytest.approx(1.0)
    assert chi_square_p_value(answers, exact) > 1e-4
    if rows > 1:  # the test can fail: it tells a temperature from one a little higher
        higher = (1.1 if IS_WHOLE else 1.25) * TEMPERATURE
        assert chi_square_p_value(answers, probabilities(model, higher)) < 1e-9


@pytest.mark.parametrize("rows", [1, 4])
def test_the_same_seed_gives_the_same_text(model, rows):
    lookahead = Lookahead(LookaheadConfig(decoding_length=8 * rows))
    for seed in range(20):
        texts = []
        for mode in (None, lookahead):
            torch.manual_seed(seed)
            settings = {**SAMPLING, "num_return_sequences": rows, "max_new_tokens": 12}
            texts.append((model.generate(PROMPT, custom_generate=mode, **settings), torch.rand(1)))
        (expected, random_after), (actual, random_after_ours) = texts
        assert actual.tolist() == expected.tolist()
        assert torch.equal(random_after_ours, random_after)
    assert lookahead.stats.mean_acceptance_length > 1.3
