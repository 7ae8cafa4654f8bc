"""Generate with Lookahead: one object, one argument."""

import torch

from lookahead import Lookahead, LookaheadConfig, load_embedded

model, tokenizer = load_embedded(dtype=torch.float32)
chat = [{"role": "user", "content": "Write the numbers from one to twelve as words, then once more."}]
inputs = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
)

la = Lookahead(LookaheadConfig(decoding_length=16))
ids = model.generate(**inputs, custom_generate=la, max_new_tokens=96, do_sample=False)

print(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
print(f"{la.stats.mean_acceptance_length:.2f} tokens per forward pass")
