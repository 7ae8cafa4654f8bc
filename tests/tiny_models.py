"""Small random models and what to say to them; the models are those of `lookahead check --families`."""

import string
import warnings

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lookahead.hf.families import VOCABULARY, family_model

MAIN_FAMILIES = ["llama", "gemma3", "llama4_text", "bloom"]
"""One of each kind: full attention, windows, chunks, a bias by places. All products are theirs."""


def tiny_model(family: str, dtype: torch.dtype = torch.float32, **settings: object) -> PreTrainedModel:
    with warnings.catch_warnings():  # transformers 5.16 compiles GPT-BigCode with what torch has deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        return family_model(family, dtype, **settings)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of 64 characters."""
    characters = string.ascii_letters + string.digits + "!?"
    alphabet = {character: index for index, character in enumerate(characters)}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="a")


def prompt(seed: int, length: int = 12) -> torch.Tensor:
    """int64 [1, length], with repetition, so that there is something to draft."""
    generator = torch.Generator().manual_seed(seed)
    piece = torch.randint(3, VOCABULARY, (1, (length + 1) // 2), generator=generator)
    return torch.cat([piece, piece], dim=1)[:, :length]
