"""What a CPU user would take instead, side by side: llama.cpp, OpenVINO GenAI, vLLM, transformers.

- `environments`: each system in a virtual environment of its own.
- `files`: what each of them reads, made from one GGUF file.
- `workers`: the programs that run in these environments and answer prompts.
- `settings`: which system is measured with which file and which drafts.
- `measure`: prompts one after the other, all settings in turns.

`python -m research.peers.engines ROWS.jsonl --model MODEL.gguf` does it all.
"""
