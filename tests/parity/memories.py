"""Draft memories to decode with: none of them may change the text."""

import torch

from lookahead import Lookahead, LookaheadConfig
from lookahead.drafting.store import Origin

STATES = ["empty", "warm", "junk"]


def prepared(config: LookaheadConfig, state: str, model, prompts, **generation) -> Lookahead:
    """A Lookahead whose memory is empty, has learned these very answers, or is full of noise."""
    if state == "junk":
        config = LookaheadConfig(
            decoding_length=config.decoding_length,
            branch_length=config.branch_length,
            mode=config.mode,
            memory_bytes=2**20,
        )
    lookahead = Lookahead(config)
    if state == "warm":
        for token_ids in prompts:
            lookahead.generate(model, token_ids, **generation)
        lookahead.reset_stats()
    if state == "junk":
        generator = torch.Generator().manual_seed(1)
        vocabulary = model.config.get_text_config().vocab_size
        for answer in torch.randint(0, vocabulary, (40, 100), generator=generator).tolist():
            lookahead.memory.insert("junk", answer, Origin.OUTPUT)
            lookahead.memory.forget("junk")
        assert lookahead.memory.tokens_in("default") > 2000
    return lookahead
