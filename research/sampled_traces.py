"""Record sampled answers of the embedded model, to replay drafts that know the noise.

    python -m research.sampled_traces TRACES.jsonl.gz OUT.jsonl.gz --temperature 0.7

Takes every sixth trace whose prompt is short, draws an answer in float32 with a seed of its own, and writes
what `lookahead replay` reads: prompt, answer, the model's most probable tokens, the seed and the vocabulary.
"""

import gzip
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import PreTrainedModel

from lookahead import Lookahead, LookaheadConfig
from lookahead.bench.data.traces import Trace, read_traces
from lookahead.cli.setup import check_can_write, notices
from lookahead.files import atomic_write
from lookahead.hf.models.embedded import load_embedded
from research.command import run_command

EVERY, MAX_PROMPT_TOKENS, NEW_TOKENS, SUCCESSORS = 6, 900, 96, 8

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def sampled_answer(
    model: PreTrainedModel, lookahead: Lookahead, trace: Trace, *, temperature: float, seed: int
) -> dict[str, Any]:
    """Return the record of one sampled answer."""
    prompt = torch.from_numpy(trace.prompt_ids).long()[None]
    torch.manual_seed(seed)
    output = lookahead.generate(
        model,
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        max_new_tokens=NEW_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = torch.cat(output.logits)
    return {
        "id": trace.trace_id,
        "category": trace.category,
        "prompt_ids": trace.prompt_ids.tolist(),
        "output_ids": output.sequences[0, prompt.shape[1] :].tolist(),
        "top8_ids": logits.topk(SUCCESSORS).indices.tolist(),
        "seed": seed,
        "vocabulary_size": logits.shape[1],
    }


@app.command()
def record(
    traces: Annotated[Path, typer.Argument(help="Traces whose prompts are answered.")],
    out: Annotated[Path, typer.Argument(help="The file to write, .jsonl.gz.")],
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the sampling.")] = 1.0,
) -> None:
    """Record sampled answers."""
    chosen = [trace for trace in read_traces(traces)[::EVERY] if len(trace.prompt_ids) <= MAX_PROMPT_TOKENS]
    check_can_write(out)
    model, _ = load_embedded(dtype=torch.float32)
    lookahead = Lookahead(LookaheadConfig(decoding_length=8))
    with (
        notices.status("recording") as status,
        atomic_write(out) as partial,
        gzip.open(partial, "wt", encoding="utf-8") as file,
    ):
        for number, trace in enumerate(chosen):
            status.update(f"answer {number + 1} of {len(chosen)}")
            seed = 1000 + number
            answer = sampled_answer(model, lookahead, trace, temperature=temperature, seed=seed)
            file.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    run_command(app)
