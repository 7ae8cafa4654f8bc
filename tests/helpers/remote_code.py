"""A model that ships its own code, as Baichuan, ChatGLM and InternLM did, in a folder as the hub has them."""

import json

CONFIGURATION = """
from transformers import PreTrainedConfig


class TinyRemoteConfig(PreTrainedConfig):
    model_type = "tiny_remote"

    def __init__(self, vocab_size=64, hidden_size=32, num_heads=4, seq_length=256, sees_tree=True, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.num_hidden_layers = 2
        self.seq_length = seq_length
        self.sees_tree = sees_tree
        super().__init__(**kwargs)
"""

MODELING = """
import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_tiny_remote import TinyRemoteConfig


class TinyRemoteAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.heads, self.layer = config.num_heads, layer
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden, mask, cache):
        batch, length, width = hidden.shape
        query, key, value = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.qkv(hidden).chunk(3, -1)
        )
        key, value = cache.update(key, value, self.layer)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(attended.transpose(1, 2).reshape(batch, length, width))


class TinyRemoteForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = TinyRemoteConfig

    def __init__(self, config):
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.places = nn.Embedding(config.seq_length, config.hidden_size)
        self.layers = nn.ModuleList([TinyRemoteAttention(config, layer) for layer in range(2)])
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.tokens

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(std=0.3)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        return_dict=None,
        logits_to_keep=0,
    ):
        past, length = past_key_values.get_seq_length(), input_ids.shape[1]
        if position_ids is None or not self.config.sees_tree:
            position_ids = torch.arange(past, past + length, device=input_ids.device)[None]
        if self.config.sees_tree and attention_mask is not None and attention_mask.ndim == 4:
            mask = attention_mask
        else:
            seen = torch.ones(length, past + length, dtype=torch.bool, device=input_ids.device).tril(past)
            mask = seen[None, None]
        hidden = self.tokens(input_ids) + self.places(position_ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden, mask, past_key_values)
        logits = self.head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)
"""


def write_remote_model(folder, **settings):
    """Write config.json and the code; weights are the caller's to make."""
    (folder / "configuration_tiny_remote.py").write_text(CONFIGURATION)
    (folder / "modeling_tiny_remote.py").write_text(MODELING)
    config = {
        "model_type": "tiny_remote",
        "architectures": ["TinyRemoteForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_tiny_remote.TinyRemoteConfig",
            "AutoModelForCausalLM": "modeling_tiny_remote.TinyRemoteForCausalLM",
        },
        **settings,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
