"""The top-k next tokens of the whole vocabulary, compared with those of one token at a time."""

import pytest
import torch

from helpers.tiny_models import prompt, tiny_model, tiny_tokenizer
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import UnsupportedModelError
from lookahead.hf.vocabulary import vocabulary_successors

GREEDY = {"max_new_tokens": 30, "do_sample": False}


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("context", [[5, 9], [7]])
def test_the_whole_vocabulary_is_read_as_token_by_token(family, context):
    model = tiny_model(family)
    progress = []
    successors = vocabulary_successors(model, context, on_progress=lambda *done: progress.append(done))
    assert successors.shape == (64, 8)
    assert progress == [(64, 64)]
    before = context if len(context) > 1 else context * 2
    for token in (0, 1, 31, 63):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*before, token]])).logits[0, -1]
        assert successors[token].tolist() == logits.topk(8).indices.tolist()


def test_a_limit_reads_only_the_first_tokens():
    assert vocabulary_successors(tiny_model("llama"), [5, 9], 10).shape == (10, 8)


def test_the_text_is_the_same_and_the_first_draft_is_not_empty():
    model = tiny_model("llama")
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    lookahead.warm_vocabulary(model, tiny_tokenizer())
    expected = model.generate(prompt(0), **GREEDY)
    assert lookahead.generate(model, prompt(0), **GREEDY).tolist() == expected.tolist()
    assert lookahead.stats.draft_tokens == 15 * lookahead.stats.row_steps or lookahead.stats.row_steps < 29


def test_a_model_that_cannot_branch_is_refused():
    with pytest.raises(
        UnsupportedModelError, match="JambaForCausalLM cannot read its vocabulary as the branches of a tree"
    ):
        vocabulary_successors(tiny_model("jamba"), [5, 9])
