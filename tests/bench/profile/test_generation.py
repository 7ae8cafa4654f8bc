"""Short generations: their parts, their first token, their memory."""

import pytest

from helpers.tiny_models import prompt, tiny_model
from lookahead.bench.profile.generation import (
    PARTS,
    decoding_shares,
    known_pieces,
    never_ending,
    profile_decoding,
    profile_first_token,
    profile_memory,
)
from lookahead.stats import GenerationStats

PROMPT = prompt(0, 24)[0].tolist()


def test_parts_are_seconds_a_forward_and_shares_of_all_decoding():
    stats = GenerationStats(
        requests=1,
        tokens=9,
        row_steps=4,
        forwards=4,
        draft_tokens=12,
        model_s=6.0,
        verify_s=1.0,
        cache_s=0.4,
        recycle_s=0.2,
        draft_s=0.4,
        prefill_s=100.0,
    )
    parts = decoding_shares(stats)
    assert parts["seconds_per_forward"] == pytest.approx(
        {"model_s": 1.5, "verify_s": 0.25, "cache_s": 0.1, "recycle_s": 0.05, "draft_s": 0.1}
    )
    assert parts["shares"]["model_s"] == pytest.approx(0.75)
    assert sum(parts["shares"].values()) == pytest.approx(1.0)
    assert parts["nodes_per_forward"] == 4.0
    assert parts["mean_acceptance_length"] == 2.0


def test_the_parts_are_all_of_decoding():
    assert sum(getattr(GenerationStats(**dict.fromkeys(PARTS, 1.0)), part) for part in PARTS) == (
        GenerationStats(**dict.fromkeys(PARTS, 1.0)).decode_s
    )


def test_a_real_decoding_has_every_part_and_does_not_end_before_it_is_asked_to():
    model = tiny_model("llama")
    every_token = list(range(64))
    model.generation_config.eos_token_id = every_token
    with never_ending(model):
        parts = profile_decoding(model, PROMPT, new_tokens=40)
    assert parts["tokens"] == 40
    assert parts["nodes_per_forward"] > 8  # drafts are full ones, up to 16 but for the last
    assert 1.5 < parts["mean_acceptance_length"] < 8
    assert all(seconds > 0 for seconds in parts["seconds_per_forward"].values())
    assert model.generation_config.eos_token_id == every_token


def test_an_answer_is_known_in_pieces_that_go_wrong():
    pieces = known_pieces([10, 11, 12, 13, 14], vocabulary=10)
    assert [piece[:-16] for piece in pieces] == [[10, 11, 12, 13], [13, 14]]
    assert all(len(piece) > 16 and max(piece[-16:]) < 10 for piece in pieces)
    assert pieces == known_pieces([10, 11, 12, 13, 14], vocabulary=10)


def test_both_ways_to_the_first_token_take_turns():
    readings = iter(range(100, 200))
    found = profile_first_token(tiny_model("llama"), PROMPT, repeats=2, clock=lambda: next(readings))
    assert found == {"generate_s": 1, "lookahead_s": 1, "over_generate": 1.0}


def test_memory_is_reported_with_and_without_the_weights():
    model = tiny_model("llama")
    found = profile_memory(model, PROMPT, new_tokens=4)
    for name in ("generate", "lookahead"):
        assert found[f"{name}_working_bytes"] > 0
        assert found[f"{name}_peak_bytes"] == found[f"{name}_working_bytes"] + model.get_memory_footprint()
    assert found["over_generate"] == found["lookahead_peak_bytes"] / found["generate_peak_bytes"]
