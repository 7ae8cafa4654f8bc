"""Draft memories to decode with: none of them may change the text."""

from dataclasses import replace

import torch

from lookahead import Lookahead, LookaheadConfig

STATES = ["empty", "warm", "junk"]


def prepared(config: LookaheadConfig, state: str, model, prompts, **generation) -> Lookahead:
    """A Lookahead whose memory is empty, has learned these very answers, or is full of noise."""
    if state == "junk":
        config = replace(config, max_bytes=2**18)
    lookahead = Lookahead(config)
    if state == "warm":
        for token_ids in prompts:
            lookahead.generate(model, token_ids, **generation)
        lookahead.reset_stats()
    if state == "junk":
        generator = torch.Generator().manual_seed(1)
        vocabulary = model.config.get_text_config().vocab_size
        lookahead.memory.warm(torch.randint(0, vocabulary, (40, 100), generator=generator).tolist())
        assert sum(lookahead.memory.namespaces.values()) > 2000
    return lookahead
