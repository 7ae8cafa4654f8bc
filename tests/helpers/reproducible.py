"""Answers that must be the same bits whatever is drafted."""

import torch

from helpers.memories import prepared
from lookahead import LookaheadConfig

DRAFTED = [("empty", 1), ("junk", 8), ("warm", 16)]


SAMPLING = {"do_sample": True, "temperature": 0.9, "top_p": 0.95}


WITH_LOGITS = {"return_dict_in_generate": True, "output_logits": True}


def config(decoding_length, **settings):
    return LookaheadConfig(
        decoding_length=decoding_length, compiled_cpu=False, **{"reproducible": True, **settings}
    )


def answers(model, token_ids, drafted=DRAFTED, *, settings=None, **generation):
    """Yield the answer, with its logits, and the Lookahead, for each memory and decoding length."""
    generation = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, **generation}
    for state, decoding_length in drafted:
        torch.manual_seed(11)
        made = config(decoding_length, **(settings or {}))
        lookahead = prepared(made, state, model, [token_ids], **generation)
        torch.manual_seed(11)
        yield lookahead.generate(model, token_ids, **WITH_LOGITS, **generation), lookahead
