"""Batches: left-padded prompts, rows that accept different lengths and end at different times.

`make test` takes a family of each kind and a third of the product of families and sizes, `make verify` all.
"""

from itertools import product

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from helpers.samples import sampled
from helpers.tiny_models import KINDS, prompt, tiny_model, tiny_tokenizer
from lookahead import DraftMemory, DraftMode, Lookahead, LookaheadConfig
from lookahead.decoding.sampling.choice import StepNoise
from lookahead.errors import ConfigError
from research.families.families import FAMILIES, is_installed

ENDS = [11, 20, 33, 34, 50]
PADDINGS = [0, 3, 5, 1]


def padded_batch(rows=4, length=12):
    """int64 [rows, length] and its mask: prompts of different lengths, padded on the left."""
    token_ids = torch.cat([prompt(seed, length) for seed in range(rows)])
    columns = torch.arange(length)[None]
    mask = (columns >= torch.tensor(PADDINGS * 4)[:rows, None]).long()
    return token_ids * mask, mask


def assert_same_batch(model, lookahead, token_ids, mask, **settings):
    generation = {"max_new_tokens": 24, "pad_token_id": 0, "attention_mask": mask, **settings}
    torch.manual_seed(5)
    expected = model.generate(token_ids, **generation)
    random_after = torch.rand(1)
    torch.manual_seed(5)
    actual = lookahead.generate(model, token_ids, **generation)
    assert actual.tolist() == expected.tolist()
    assert torch.equal(torch.rand(1), random_after)
    return expected


SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1}


IN_BATCHES = ["llama", "gemma3", "llama4_text", "opt"]
SIZES = [2, 4, 7]


@pytest.mark.matrix
@pytest.mark.parametrize("sampling", [{"do_sample": False}, SAMPLING], ids=["greedy", "sampling"])
@pytest.mark.parametrize("ends", [None, ENDS], ids=["all to the limit", "rows end"])
@pytest.mark.parametrize(
    ("family", "rows"),
    sampled(product(IN_BATCHES, SIZES), list(zip(IN_BATCHES, [4, 7, 2, 4], strict=True))),
)
def test_the_text_of_generate(family, rows, ends, sampling):
    """The sample has each family and each number of rows, each with all endings and ways of choosing."""
    model = tiny_model(family)
    token_ids, mask = padded_batch(rows)
    lookahead = Lookahead(LookaheadConfig(decoding_length=6 * rows))
    for _ in ("cold", "warm"):
        assert_same_batch(model, lookahead, token_ids, mask, eos_token_id=ends, **sampling)
    assert lookahead.stats.requests == 2 * rows
    assert lookahead.last_stats.mean_acceptance_length > 1.2
    assert lookahead.last_stats.forwards < lookahead.last_stats.row_steps


@pytest.mark.parametrize("mode", list(DraftMode))
def test_every_draft_mode_and_a_trie(mode):
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    for memory in (None, DraftMemory(store="trie")):
        lookahead = Lookahead(LookaheadConfig(decoding_length=64, draft_mode=mode), memory=memory)
        for ends in (None, ENDS):
            for settings in ({"do_sample": False}, SAMPLING):
                assert_same_batch(model, lookahead, token_ids, mask, eos_token_id=ends, **settings)
        assert lookahead.stats.mean_acceptance_length > 1.1


def test_the_auto_budget():
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    lookahead = Lookahead()
    for settings in ({"do_sample": False}, SAMPLING):
        assert_same_batch(model, lookahead, token_ids, mask, eos_token_id=ENDS, **settings)
    assert lookahead.stats.mean_acceptance_length > 1


def test_the_attention_mask_may_be_missing():
    model = tiny_model("llama")
    token_ids = torch.cat([prompt(seed) for seed in range(3)])
    lookahead = Lookahead(LookaheadConfig(decoding_length=48))
    for _ in ("cold", "warm"):
        assert_same_batch(model, lookahead, token_ids, None, do_sample=False, eos_token_id=ENDS)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_either_attention(implementation):
    model = tiny_model("llama")  # in float64 the library's own eager attention fails behind padding
    model.set_attn_implementation(implementation)
    token_ids, mask = padded_batch()
    lookahead = Lookahead(LookaheadConfig(decoding_length=64))
    assert_same_batch(model, lookahead, token_ids, mask, eos_token_id=ENDS, **SAMPLING)


def test_several_sequences_of_each_prompt():
    model = tiny_model("llama")
    token_ids, mask = padded_batch(2)
    lookahead = Lookahead(LookaheadConfig(decoding_length=64))
    text = assert_same_batch(
        model, lookahead, token_ids, mask, num_return_sequences=3, eos_token_id=ENDS, **SAMPLING
    )
    assert len(text) == 6


class SeesAll(LogitsProcessor, StoppingCriteria, BaseStreamer):
    """A processor, criterion and streamer that remembers what it was shown, of all rows at once."""

    def __init__(self):
        self.events = []
        self.scores = []

    def __call__(self, input_ids, scores):
        if isinstance(scores, torch.Tensor):
            self.events.append(("process", input_ids.tolist()))
            self.scores.append(scores.clone())
            # What one row says changes what all rows do: no row may be a step ahead.
            return scores + 0.5 * scores.roll(1, dims=0)
        self.events.append(("judge", input_ids.tolist()))
        return input_ids[:, -1] == 40

    def put(self, value):
        self.events.append(("put", value.tolist()))

    def end(self):
        self.events.append(("end",))


@pytest.mark.parametrize("ends", [None, ENDS], ids=["criterion alone", "tokens end rows"])
@pytest.mark.parametrize("do_sample", [False, True])
def test_callbacks_of_the_callers_own_see_all_rows_at_once(do_sample, ends):
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    lookahead = Lookahead(LookaheadConfig(decoding_length=64))
    lookahead.generate(model, token_ids, attention_mask=mask, max_new_tokens=40, pad_token_id=0)
    seen = []
    for generate in (model.generate, lambda *args, **kwargs: lookahead.generate(model, *args, **kwargs)):
        recorder = SeesAll()
        torch.manual_seed(3)
        generate(
            token_ids,
            attention_mask=mask,
            max_new_tokens=30,
            do_sample=do_sample,
            eos_token_id=ends,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([recorder]),
            stopping_criteria=StoppingCriteriaList([recorder]),
            streamer=recorder,
        )
        seen.append(recorder)
    expected, actual = seen
    assert actual.events == expected.events
    torch.testing.assert_close(torch.cat(actual.scores), torch.cat(expected.scores), rtol=1e-3, atol=1e-4)


class Counting(TemperatureLogitsWarper):
    """Not the library's own, though it looks like it."""

    def __init__(self):
        super().__init__(0.7)
        self.shapes = set()

    def __call__(self, input_ids, scores):
        self.shapes.add(tuple(scores.shape))
        return super().__call__(input_ids, scores)


def _nine_of_each_row(row, token_ids):
    return [(int(token_ids[-1]) * 7 + row * step) % 64 for step in range(9)]


@pytest.mark.parametrize(
    "settings",
    [
        {"stop_strings": ["a", "bc"], "tokenizer": tiny_tokenizer()},
        {"stop_strings": ["a", "bc"], "tokenizer": tiny_tokenizer(), "eos_token_id": None},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[5], [7, 8]]},
        {"min_new_tokens": 9},
        {"sequence_bias": [[[3], 2.0]], "exponential_decay_length_penalty": (5, 1.2)},
        {"encoder_repetition_penalty": 1.3},
        {"prefix_allowed_tokens_fn": _nine_of_each_row},
        {"do_sample": True, "top_k": 5, "min_p": 0.05, "typical_p": 0.9},
        {"do_sample": True, "epsilon_cutoff": 0.01, "eta_cutoff": 0.01},
        {"do_sample": True, "top_h": 0.5},
        {"forced_eos_token_id": 9},
        {"suppress_tokens": [4, 5, 6], "begin_suppress_tokens": [7]},
        {"remove_invalid_values": True, "renormalize_logits": True},
        {"max_time": 60.0},
        {"prefill_chunk_size": 4},
        {"guidance_scale": 1.4},
    ],
    ids="-".join,
)
def test_generation_settings(settings):
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    lookahead = Lookahead(LookaheadConfig(decoding_length=64))
    for _ in ("cold", "warm"):
        given = {"do_sample": False, "eos_token_id": ENDS, **settings}
        assert_same_batch(model, lookahead, token_ids, mask, **given)


class Flattens(LogitsProcessor):
    """Takes the tokens as one piece of memory, as they are in `generate`."""

    def __call__(self, input_ids, scores):
        assert input_ids.view(-1).shape[0] == input_ids.numel()
        return scores


def test_callbacks_are_given_tokens_in_one_piece():
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    settings = {"logits_processor": LogitsProcessorList([Flattens()]), "do_sample": False}
    assert_same_batch(model, Lookahead(LookaheadConfig(decoding_length=64)), token_ids, mask, **settings)


def test_rows_are_ahead_of_others_no_further_than_there_is_room_for_noise(monkeypatch):
    monkeypatch.setattr("lookahead.hf.generate.row_groups._MAX_NOISE_BYTES", 4 * 4 * 64 * 3)  # of three steps
    waiting = []
    taken = StepNoise.next_noise

    def watched(self, *args):
        noise = taken(self, *args)
        waiting.append(len({step for _, step in self._waiting}))
        return noise

    monkeypatch.setattr(StepNoise, "next_noise", watched)
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    lookahead = Lookahead(LookaheadConfig(decoding_length=64))
    for _ in ("cold", "warm"):
        assert_same_batch(model, lookahead, token_ids, mask, **SAMPLING)
    assert 1 < max(waiting) <= 3 + 1


def test_a_subclass_of_a_known_processor_sees_all_rows():
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    processor = Counting()
    settings = {"logits_processor": LogitsProcessorList([processor]), "do_sample": True}
    assert_same_batch(model, Lookahead(LookaheadConfig(decoding_length=64)), token_ids, mask, **settings)
    assert processor.shapes == {(4, 64)}


@pytest.mark.parametrize("ends", [None, ENDS])
def test_scores_logits_cache_and_stats_are_returned_when_asked_for(ends):
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    lookahead = Lookahead(LookaheadConfig(decoding_length=64))
    wanted = {
        "attention_mask": mask,
        "max_new_tokens": 30,
        "do_sample": False,
        "eos_token_id": ends,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    expected = model.generate(token_ids, **wanted)
    for _ in ("cold", "warm"):
        actual = model.generate(token_ids, custom_generate=lookahead, **wanted)
        assert type(actual) is type(expected)
        assert actual.keys() == expected.keys()
        assert actual.sequences.tolist() == expected.sequences.tolist()
        for name in ("scores", "logits"):
            torch.testing.assert_close(
                torch.stack(actual[name]), torch.stack(expected[name]), rtol=1e-4, atol=1e-4
            )
        for layer, expected_layer in zip(
            actual.past_key_values.layers, expected.past_key_values.layers, strict=True
        ):
            torch.testing.assert_close(layer.keys, expected_layer.keys, rtol=1e-3, atol=1e-4)
        assert actual.lookahead_stats == lookahead.last_stats
        assert actual.lookahead_stats.mean_acceptance_length >= 1


def test_each_row_has_a_namespace_of_its_own():
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    lookahead = Lookahead(LookaheadConfig(decoding_length=64))
    generation = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    lookahead.generate(model, token_ids, namespace=["a", "b", "a", "c"], **generation)
    assert lookahead.memory.namespaces == {"a": 40, "b": 20, "c": 20}
    sampling = {**generation, "do_sample": True, "num_return_sequences": 2}
    lookahead.generate(model, token_ids[:2], **{**sampling, "attention_mask": mask[:2]}, namespace=["a", "d"])
    assert lookahead.memory.namespaces == {"a": 80, "b": 20, "c": 20, "d": 40}


@pytest.mark.parametrize("names", [[], ["a", "b", "c"], ["a", ""], ["a"] * 8])
def test_as_many_names_as_prompts(names):
    model = tiny_model("llama")
    token_ids, mask = padded_batch()
    with pytest.raises(ConfigError, match="namespace"):
        Lookahead().generate(model, token_ids, attention_mask=mask, namespace=names, max_new_tokens=2)


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:.* is decoded in")
@pytest.mark.parametrize("family", sampled(FAMILIES, KINDS[::2]))
def test_every_family(family):
    if not is_installed(family):
        pytest.skip(f"this transformers has no {family}")
    model = tiny_model(family)
    token_ids, mask = padded_batch()
    lookahead = Lookahead(LookaheadConfig(decoding_length=32))
    short = {"max_new_tokens": 22, "eos_token_id": ENDS[:2]}
    lookahead.generate(model, token_ids, **short, do_sample=False, attention_mask=mask, pad_token_id=0)
    assert_same_batch(model, lookahead, token_ids, mask, do_sample=False, **short)
    assert_same_batch(model, lookahead, token_ids, mask, **SAMPLING, **short)


@pytest.mark.parametrize("family", ["bloom", "mpt", "falcon-alibi", "gpt_neo"])
def test_models_that_read_positions_off_slots_are_verified_in_chains(family):
    model = tiny_model(family)
    token_ids, mask = padded_batch()
    lookahead = Lookahead(LookaheadConfig(decoding_length=64))
    for _ in ("cold", "warm"):
        assert_same_batch(model, lookahead, token_ids, mask, do_sample=False)
    assert lookahead.last_stats.mean_acceptance_length > 1.5
    assert lookahead.last_stats.draft_tokens > 0


def test_a_model_that_cannot_branch_serves_batches_in_plain_steps():
    model = tiny_model("jamba")
    token_ids, mask = padded_batch()
    lookahead = Lookahead()
    with pytest.warns(UserWarning, match="plain steps"):
        assert_same_batch(model, lookahead, token_ids, mask, do_sample=False, eos_token_id=ENDS)
    assert_same_batch(model, lookahead, token_ids, mask, eos_token_id=ENDS, **SAMPLING)
    assert lookahead.stats.mean_acceptance_length == 1.0
