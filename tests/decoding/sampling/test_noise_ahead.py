"""The noise of coming draws: that of the very draws that torch makes, and the generator is not touched."""

import numpy as np
import pytest
import torch

from lookahead.decoding.sampling import noise_ahead
from lookahead.decoding.sampling.choice import Sampler, StepNoise
from lookahead.decoding.sampling.choice import noise_ahead as noise_ahead_of
from lookahead.decoding.sampling.noise_ahead import LEVELS, NoiseAhead, is_noise_known
from lookahead.drafting.noise import write_noise

VOCABULARY = 700  # two draws use up a state of 624 words


def levels_of(noise):
    """E of all tokens of each draw that is known."""
    levels = np.empty((noise.known, noise.words.shape[1] // 2), np.float32)
    for draw, level in enumerate(levels):
        write_noise(noise.words[(noise.first + draw) % len(noise.words)], level)
    return torch.from_numpy(levels)


def scores_of(row, step):
    return torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(100 * row + step))


def test_torch_draws_its_noise_as_it_is_computed_here():
    """If it does not, nothing is drafted by it; then this says which release of torch began to differ."""
    assert is_noise_known()


@pytest.mark.parametrize("rows", [1, 3])
def test_each_token_is_the_argmax_of_the_noise_that_was_foreseen(rows):
    sampler, generator = Sampler(), torch.default_generator
    torch.manual_seed(5)
    sampler(torch.cat([scores_of(row, 0) for row in range(rows)]))
    for step in range(1, 20):
        scores = torch.cat([scores_of(row, step) for row in range(rows)])
        before = generator.get_state()
        foreseen = [levels_of(sampler.foresee(row)) for row in range(rows)]
        assert torch.equal(generator.get_state(), before)
        assert all(len(levels) == LEVELS for levels in foreseen)
        expected = (scores.softmax(-1) / torch.stack([levels[0] for levels in foreseen])).argmax(-1)
        assert torch.equal(sampler(scores), expected)


def test_several_draws_between_two_looks_and_what_follows_them():
    sampler = Sampler(torch.Generator().manual_seed(9))
    sampler(scores_of(0, 0))
    for step in range(1, 60, 4):
        levels = levels_of(sampler.foresee(0))
        for ahead in range(1 + step % 4):  # 4 are more than were known
            token = sampler(scores_of(0, step + ahead))
            if ahead < LEVELS:
                assert token == (scores_of(0, step + ahead).softmax(-1) / levels[ahead]).argmax(-1)


def test_a_seed_or_another_draw_between_two_looks_is_noticed():
    sampler = Sampler()
    torch.manual_seed(1)
    for step in range(8):
        sampler(scores_of(0, step))
        sampler.foresee(0)
        (torch.manual_seed(step) if step % 2 else torch.rand(3))
        expected = (scores_of(0, 50).softmax(-1) / levels_of(sampler.foresee(0))[0]).argmax(-1)
        assert sampler(scores_of(0, 50)) == expected


def test_a_generator_that_others_draw_from_is_followed_no_more():
    generator = torch.Generator().manual_seed(1)
    ahead = NoiseAhead(generator, rows=1, vocabulary_size=VOCABULARY)
    found = []
    for _ in range(40):
        torch.rand(1, generator=generator)
        found.append(ahead.of_row(0) is not None)
    assert found[0]
    assert not found[-1]


def test_rows_at_their_own_pace_know_the_noise_that_waits_for_them():
    torch.manual_seed(7)
    noise, rows = StepNoise(3), 3
    choices = [noise.choice_of_row(row) for row in range(rows)]
    steps = [0] * rows
    known = 0
    for row in [0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1, 2, 2, 2]:
        scores = scores_of(row, steps[row])
        foreseen = noise.foresee(row)
        token = choices[row](scores)
        steps[row] += 1
        if foreseen is not None:
            known += 1
            assert token == (scores.softmax(-1) / levels_of(foreseen)[0]).argmax(-1)
    assert known >= 12  # not the first draw, and none that has waited long
    assert not torch.equal(torch.rand(1), torch.zeros(1))


@pytest.mark.parametrize(
    "scores", [torch.zeros(1, 9, dtype=torch.float64), torch.zeros(1, 9, device="meta", dtype=torch.float32)]
)
def test_other_dtypes_and_devices_are_not_followed(scores):
    assert noise_ahead_of(scores) is None


def test_before_the_first_draw_and_where_torch_draws_otherwise_nothing_is_known(monkeypatch):
    sampler = Sampler()
    assert sampler.foresee(0) is None
    assert StepNoise(2).foresee(0) is None
    sampler(scores_of(0, 0))
    assert sampler.foresee(0) is not None
    monkeypatch.setattr(noise_ahead, "is_noise_known", lambda: False)
    assert sampler.foresee(0) is None
