"""Added tokens whose output rows copy those of other tokens: exact ties, in float32."""

import pytest
import torch

from helpers import tiny_models
from lookahead import Lookahead, LookaheadConfig

NEW_TOKENS = 40


def with_copies(family, added, dtype=torch.float32, pad=None):
    """A model with added tokens that copy the rows of its first ones, and its vocabulary before."""
    model = tiny_models.tiny_model(family, dtype)
    size = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(size + added, pad_to_multiple_of=pad, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[size : size + added] = layer.weight[:added]
    return model, size


def prompt(seed, vocabulary):
    piece = torch.randint(0, vocabulary, (1, 20), generator=torch.Generator().manual_seed(seed))
    return torch.cat([piece, piece[:, :12]], dim=1)


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "fused-llama"])
@pytest.mark.parametrize("added", [13, 40])
def test_a_padded_vocabulary_gives_the_text_of_generate_with_ties_too(family, added):
    # Unpadded, `generate` itself may give two equal rows different logits: see docs/concepts/losslessness.md.
    model, size = with_copies(family, added, pad=64)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ties = []
    for seed in range(3):
        inputs, la = prompt(seed, size), Lookahead()
        expected = model.generate(inputs, **settings)
        assert torch.equal(la.generate(model, inputs, **settings), expected)
        ties.append(la.stats.smallest_margin)
    assert min(ties) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decoding_length", [1, 16])
def test_equal_rows_have_equal_logits_in_the_compiled_decoder(dtype, decoding_length):
    added = 13  # 131 + 13 is no multiple of what a product takes at once
    model, size = with_copies("fused-llama", added, dtype)
    la = Lookahead(LookaheadConfig(decoding_length=decoding_length))
    answer = la.generate(
        model,
        prompt(0, size),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    for logits in answer.logits[1:]:  # the first is of the prompt, which the model's own code reads
        assert torch.equal(logits[0, size:], logits[0, :added])
