"""Warm a draft memory, use it in a tenant's namespace, save it and load it again."""

from pathlib import Path

import torch

from lookahead import DraftMemory, Lookahead, load_embedded

TEXT = "To reset the device, hold the power button for ten seconds, wait for the green light, and let go."

model, tokenizer = load_embedded(dtype=torch.float32)
chat = [{"role": "user", "content": f"Repeat word for word: {TEXT}"}]
inputs = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
)

memory = DraftMemory()
memory.warm([TEXT], tokenizer=tokenizer, namespace="public")
la = Lookahead(memory=memory)
tenant = la.for_namespace("tenant-a", reads=("public",))
ids = model.generate(**inputs, custom_generate=tenant, max_new_tokens=48, do_sample=False)
print(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
print(f"{la.stats.mean_acceptance_length:.2f} tokens per forward pass; remembered: {memory.namespaces}")

file = Path("memory.safetensors")
memory.save(file, tokenizer=tokenizer)
print(f"loaded: {DraftMemory.load(file, tokenizer=tokenizer).namespaces}")
