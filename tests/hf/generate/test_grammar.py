"""A real grammar engine: answers are valid JSON, drafts are accepted, the text is that of `generate`."""

import json

import pytest
import torch
from transformers import LogitsProcessorList, PreTrainedTokenizerFast

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig

xgrammar = pytest.importorskip("xgrammar")
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from xgrammar.contrib.hf import LogitsProcessor  # noqa: E402

CHARACTERS = '{}[]":, truefalsn0123456789abcdghijkmopqvwxyz-_ABCDEFGHIJKLMN'
END = 63
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "seen": {"type": "boolean"},
        "counts": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    },
    "required": ["name", "seen", "counts"],
}


def json_tokenizer():
    """One token for each of 63 characters that JSON may need, and an end."""
    alphabet = {character: number for number, character in enumerate(dict.fromkeys(CHARACTERS))}
    alphabet |= {f"unused{number}": number for number in range(len(alphabet), END)}
    alphabet["<end>"] = END
    alphabet["Ġ"] = alphabet.pop(" ")
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


@pytest.fixture(scope="module")
def tokenizer():
    return json_tokenizer()


@pytest.fixture(scope="module")
def grammar(tokenizer):
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=64, stop_token_ids=[END])
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    return compiler.compile_json_schema(json.dumps(SCHEMA), any_whitespace=False)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("do_sample", [False, True])
def test_valid_json_and_the_text_of_generate(tokenizer, grammar, do_sample, rows):
    model = tiny_model("llama")
    token_ids = torch.cat([prompt(seed) for seed in range(rows)])
    lookahead = Lookahead(LookaheadConfig(decoding_length=16 * rows))
    settings = {"max_new_tokens": 150, "do_sample": do_sample, "eos_token_id": END, "pad_token_id": END}
    answers = []
    for mode in (None, lookahead, lookahead):
        torch.manual_seed(6)
        # A grammar's state belongs to one call: if it saw a rejected token it would refuse the next one.
        processors = LogitsProcessorList([LogitsProcessor(grammar)])
        answer = model.generate(token_ids, **settings, logits_processor=processors, custom_generate=mode)
        answers.append(answer.tolist())
    assert answers[1] == answers[2] == answers[0]
    for row in answers[0]:
        value = json.loads(tokenizer.decode(row[token_ids.shape[1] :], skip_special_tokens=True))
        assert set(value) == {"name", "seen", "counts"}
    assert lookahead.last_stats.mean_acceptance_length > (1.5 if rows == 1 else 1.2)
