"""Attach Lookahead to a model: existing code, such as a pipeline, runs unchanged."""

import torch
from transformers import pipeline

from lookahead import Lookahead, load_embedded

model, tokenizer = load_embedded(dtype=torch.float32)
questions = ["Count from one to twelve in words.", "Name the days of the week, then name them again."]
chats = [[{"role": "user", "content": question}] for question in questions]

la = Lookahead()
with la.attach(model):
    answer = pipeline("text-generation", model=model, tokenizer=tokenizer)
    for result in answer(chats, max_new_tokens=64, do_sample=False, batch_size=2):
        print(result[0]["generated_text"][-1]["content"], end="\n\n")

print(f"{la.stats.mean_acceptance_length:.2f} tokens per row and forward pass, {la.stats.requests} answers")
