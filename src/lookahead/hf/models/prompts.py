"""From a user's message to what `generate` takes."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, text: str, model: PreTrainedModel, *, raw: bool = False
) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, both [1, L], on the model's device.

    Args:
        tokenizer: the model's.
        text: one message of the user.
        model: where the tensors are to go.
        raw: take the text as it is; so too where the tokenizer has no chat template.
    """
    if raw or tokenizer.chat_template is None:
        encoded = tokenizer(text, return_tensors="pt")
    else:
        encoded = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
    return {name: encoded[name].to(model.device) for name in ("input_ids", "attention_mask")}
