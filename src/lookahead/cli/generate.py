"""`lookahead generate`: answer one prompt and stream the text."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.cli import options
from lookahead.cli.progress import PromptProgress
from lookahead.cli.setup import check_can_write, notices, prepare_model
from lookahead.cli.streams import as_text, read_stdin
from lookahead.config import LookaheadConfig
from lookahead.errors import ConfigError

if TYPE_CHECKING:
    from lookahead.drafting.memory.draft_memory import DraftMemory
    from lookahead.stats import GenerationStats


Prompt = Annotated[
    str | None, typer.Argument(help="The prompt; without it and --file, read from stdin.", show_default=False)
]
PromptFile = Annotated[Path | None, typer.Option(help="Read the prompt from this file.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Maximum length of the answer, in tokens.")]
Raw = Annotated[bool, typer.Option("--raw", help="Use the prompt as it is, without the chat template.")]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, help="Sampling temperature; greedy if it is 0 or missing.")
]
TopP = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Sample from the smallest set of tokens with this probability."),
]
TopK = Annotated[int | None, typer.Option(min=1, help="Sample from the K most probable tokens.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1, tokens that occurred become less probable.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the sampling.")]
MemoryFile = Annotated[Path | None, typer.Option(help="Draft from this memory file.")]
SaveMemory = Annotated[
    bool,
    typer.Option("--save-memory", help="Save the memory with the answer to --memory; the file may be new."),
]
Namespace = Annotated[str, typer.Option(help="The namespace that the answer belongs to and is drafted from.")]
Reads = Annotated[
    list[str] | None, typer.Option(help="Also draft from this namespace; repeatable.", show_default="none")
]
Stats = Annotated[bool, typer.Option("--stats", help="Print counts and times to stderr.")]


def generate(
    prompt: Prompt = None,
    file: PromptFile = None,
    model: options.Model = "embedded",
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
    packed: options.Packed = False,
    max_new_tokens: MaxNewTokens = 256,
    raw: Raw = False,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = None,
    decoding_length: options.DecodingLength = options.AUTO,
    branch_length: options.BranchLength = options.DEFAULTS.branch_length,
    draft_mode: options.Mode = options.DEFAULTS.draft_mode,
    memory: MemoryFile = None,
    save_memory: SaveMemory = False,
    namespace: Namespace = "default",
    reads: Reads = None,
    stats: Stats = False,
) -> None:
    """Answer a prompt from the argument, a file or stdin; stream the text to stdout."""
    config = LookaheadConfig(
        decoding_length=options.decoding_length_in(decoding_length),
        branch_length=branch_length,
        draft_mode=draft_mode,
    )
    options.check_sampling(temperature, seed)
    sampling = _sampling_options(temperature, top_p, top_k, repetition_penalty)
    text = _read_prompt(prompt, file)
    remembered = _read_memory(memory, config, may_be_new=save_memory)
    loaded, tokenizer = prepare_model(model, dtype.value, device, threads, packed=packed)

    import torch
    from transformers import TextStreamer

    from lookahead.hf.lookahead import Lookahead
    from lookahead.hf.models.loading import encode_prompt

    if seed is not None:
        torch.manual_seed(seed)
    remembered.bind(tokenizer=tokenizer)
    inputs: dict[str, Any] = encode_prompt(tokenizer, text, loaded, raw=raw)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    in_namespace = Lookahead(config, memory=remembered).for_namespace(namespace, reads=reads or ())
    with PromptProgress(notices) as progress:
        in_namespace.generate(
            loaded,
            **inputs,
            **sampling,
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            on_stats=_print_stats if stats else None,
            on_progress=progress,
        )
    if memory is not None and save_memory:
        remembered.save(memory)


def _sampling_options(
    temperature: float | None, top_p: float | None, top_k: int | None, repetition_penalty: float | None
) -> dict[str, Any]:
    """Return the sampling arguments of `generate`; greedy without a temperature."""
    given = {"top_p": top_p, "top_k": top_k}
    narrowing = {name: value for name, value in given.items() if value is not None}
    penalty = {} if repetition_penalty is None else {"repetition_penalty": repetition_penalty}
    if repetition_penalty is not None and not 0 < repetition_penalty < math.inf:
        message = f"repetition_penalty={repetition_penalty} is not allowed; give a finite number above 0"
        raise ConfigError(message)
    if temperature:
        return {"do_sample": True, "temperature": temperature, **narrowing, **penalty}
    if narrowing:
        message = f"{' and '.join(narrowing)} needs a temperature above 0; add --temperature"
        raise ConfigError(message)
    return {"do_sample": False, **penalty}


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    """Return the prompt from the argument, the file or stdin."""
    from lookahead.bench.data.texts import read_whole

    if prompt is not None and file is not None:
        message = "both a prompt and --file were given; give one of them"
        raise ConfigError(message)
    if file is not None:
        text = read_whole(file, "a text file")
    elif prompt is not None:
        text = as_text(prompt)
    else:
        if sys.stdin is not None and sys.stdin.isatty():
            notices.print("reading the prompt from stdin; end it with Ctrl-D")
        text = read_stdin()
    if not text.strip():
        message = "the prompt is empty; give one as an argument, with --file, or on stdin"
        raise ConfigError(message)
    return text


def _read_memory(file: Path | None, config: LookaheadConfig, *, may_be_new: bool) -> "DraftMemory":
    """Return the memory in a file, or an empty one."""
    if file is None and may_be_new:
        message = "--save-memory needs a file to write to; add --memory FILE"
        raise ConfigError(message)

    from lookahead.drafting.memory.draft_memory import DraftMemory

    if file is None:
        return DraftMemory(max_bytes=config.max_bytes)
    if may_be_new:
        check_can_write(file)
        if not file.exists():
            return DraftMemory(max_bytes=config.max_bytes)
    return DraftMemory.load(file)


def _print_stats(stats: "GenerationStats") -> None:
    seconds = stats.prefill_s + stats.decode_s
    speed = stats.tokens / seconds if seconds else 0.0
    margin = "" if stats.smallest_margin is None else f"; smallest margin {stats.smallest_margin:.3g}"
    notices.print(
        f"{stats.tokens} tokens in {seconds:.2f} s ({speed:.1f} tokens/s); {stats.row_steps} steps, "
        f"mean acceptance length {stats.mean_acceptance_length:.2f}; drafted {stats.draft_tokens} tokens, "
        f"accepted {stats.accepted_tokens} ({stats.acceptance_rate:.0%}); prefill {stats.prefill_s:.2f} s, "
        f"model {stats.model_s:.2f} s, cache {stats.cache_s:.3f} s, drafting {stats.draft_s:.3f} s, "
        f"verifying {stats.verify_s:.3f} s{margin}",
        highlight=False,
    )
