"""`lookahead demo`: answer the same questions with plain `generate` and with Lookahead."""

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from lookahead.cli import options
from lookahead.cli.setup import notices, prepare_model
from lookahead.config import LookaheadConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lookahead.bench.methods.method import Method
    from lookahead.bench.run.measuring import Run
    from lookahead.bench.run.results import PromptResult

QUESTIONS = (
    ("equipment.md", "How do I report a stolen device? List the steps."),
    ("leave.md", "How do I ask for annual leave? List the steps."),
    ("travel.md", "How do I claim my expenses? List the steps."),
    ("equipment.md", "What are the rules for passwords? List them."),
    ("leave.md", "How many days of annual leave do I have?"),
)
INSTRUCTION = "Read the document and answer the question by quoting it."


def demo(
    model: options.Model = "embedded",
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = 128,
) -> None:
    """Answer questions about three documents without and with Lookahead, and compare the speed."""
    loaded, tokenizer = prepare_model(model, dtype.value, device, threads)

    from lookahead.bench.methods.registry import LOOKAHEAD, make_methods
    from lookahead.bench.run.results import PromptResult
    from lookahead.bench.run.runner import warm_up
    from lookahead.hf.models.loading import encode_prompt

    methods = make_methods([LOOKAHEAD], LookaheadConfig())
    with notices.status("warming up"):
        warm_up(methods, loaded, tokenizer)
    results = []
    console = Console()
    for number, (document, question) in enumerate(QUESTIONS, start=1):
        title = f"question {number} of {len(QUESTIONS)}, about {document}"
        console.print(Panel(question, title=title, title_align="left"))
        inputs = encode_prompt(tokenizer, _prompt(document, question), loaded)
        runs = {
            method.name: _answer(console, loaded, tokenizer, method, inputs, max_new_tokens)
            for method in methods
        }
        prompt_tokens = inputs["input_ids"].shape[1]
        results.append(PromptResult(row_id=number, category="demo", prompt_tokens=prompt_tokens, runs=runs))
    console.print(_table(results))
    _explain(console, results, dtype.value)


def _prompt(document: str, question: str) -> str:
    text = files("lookahead.cli.demo").joinpath("documents", document).read_text(encoding="utf-8")
    return f"{INSTRUCTION}\n\n{text}\n\nQuestion: {question}"


def _answer(
    console: Console,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    method: "Method",
    inputs: "Mapping[str, Tensor]",
    max_new_tokens: int,
) -> "Run":
    """Stream the answer of a method, then print its speed."""
    from transformers import TextStreamer

    from lookahead.bench.run.measuring import greedy, measure

    console.print(f"[bold]{method.name}[/bold]")
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    run = measure(method, model, inputs, settings=greedy(max_new_tokens), listener=streamer)
    speed = run.tokens / run.total_s
    console.print(f"{run.tokens} tokens in {run.total_s:.1f} s: {speed:.1f} tokens/s\n", style="dim")
    return run


def _table(results: "list[PromptResult]") -> Table:
    from lookahead.bench.methods.registry import BASELINE
    from lookahead.bench.report.summary import identical_prompts, mean_acceptance_length, tokens_per_second
    from lookahead.bench.report.table_maker import NOTHING, figure_table, number, times

    headings = ("method", "tokens", "seconds", "tokens/s", "speedup", "mean acceptance\nlength", "identical")
    rows = []
    plain_speed = tokens_per_second(results, BASELINE)
    for name in results[0].runs:
        is_plain = name == BASELINE
        runs = [result.runs[name] for result in results]
        speed = tokens_per_second(results, name)
        cells = (
            name,
            str(sum(run.tokens for run in runs)),
            number(sum(run.total_s for run in runs), decimals=1),
            number(speed, decimals=1),
            times(None if is_plain or not speed or not plain_speed else speed / plain_speed),
            number(mean_acceptance_length(results, name)),
            NOTHING if is_plain else f"{identical_prompts(results, name)} of {len(results)}",
        )
        rows.append(cells)
    return figure_table("All questions, prefill included", headings, rows).as_rich()


def _explain(console: Console, results: "list[PromptResult]", dtype: str) -> None:
    """If answers differ, print why; in float32 they do not."""
    from lookahead.bench.report.summary import identical_prompts

    if all(identical_prompts(results, name) == len(results) for name in results[0].runs):
        return
    console.print(
        f"Not all answers are identical: in {dtype} a forward pass over several tokens rounds differently "
        "from several passes over one, so near ties between two tokens can fall the other way. Both answers "
        "are the model's own. With --dtype float32 they are identical, token for token.",
        style="dim",
    )
