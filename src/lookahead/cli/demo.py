"""`lookahead demo`: the same questions answered by plain `generate` and by Lookahead, one after the other."""

from dataclasses import dataclass, field
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
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lookahead.bench.measuring import Run
    from lookahead.bench.methods import Method

QUESTIONS = (
    ("equipment.md", "How do I report a stolen device? List the steps."),
    ("leave.md", "How do I ask for annual leave? List the steps."),
    ("travel.md", "How do I claim my expenses? List the steps."),
    ("equipment.md", "What are the rules for passwords? List them."),
    ("leave.md", "How many days of annual leave do I have?"),
)
INSTRUCTION = "Read the document and answer the question by quoting it."


@dataclass
class Tally:
    """What one method did over all questions."""

    runs: "list[Run]" = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(run.tokens for run in self.runs)

    @property
    def total_s(self) -> float:
        """Seconds of all answers, prefill included."""
        return sum(run.total_s for run in self.runs)

    @property
    def tokens_per_second(self) -> float:
        """Σ tokens ÷ Σ seconds."""
        return self.tokens / self.total_s

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens after the first ÷ forwards after prefill."""
        steps = sum(run.steps for run in self.runs)
        return sum(run.decode_tokens for run in self.runs) / steps if steps else None


def demo(
    model: options.Model = "embedded",
    dtype: options.Dtype = options.DtypeName.BFLOAT16,
    device: options.Device = None,
    threads: options.Threads = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 128,
) -> None:
    """Answer questions about three documents, plainly and with Lookahead, and compare."""
    loaded, tokenizer = prepare_model(model, dtype.value, device, threads)

    from lookahead.bench.methods import LOOKAHEAD, make_methods
    from lookahead.bench.runner import warm_up

    methods = make_methods([LOOKAHEAD], LookaheadConfig())
    with notices.status("warming up"):
        warm_up(methods, loaded, tokenizer)
    tallies = {method.name: Tally() for method in methods}
    console = Console()
    for number, (document, question) in enumerate(QUESTIONS, start=1):
        title = f"question {number} of {len(QUESTIONS)}, about {document}"
        console.print(Panel(question, title=title, title_align="left"))
        for method in methods:
            prompt = _prompt(document, question)
            run = _answer(console, loaded, tokenizer, method, prompt, max_new_tokens)
            tallies[method.name].runs.append(run)
    console.print(_table(tallies))
    _explain(console, tallies, dtype.value)


def _prompt(document: str, question: str) -> str:
    text = files("lookahead.cli").joinpath("documents", document).read_text(encoding="utf-8")
    return f"{INSTRUCTION}\n\n{text}\n\nQuestion: {question}"


def _answer(
    console: Console,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    method: "Method",
    prompt: str,
    max_new_tokens: int,
) -> "Run":
    """Stream one method's answer under its label, then say how fast it was."""
    from transformers import TextStreamer

    from lookahead.bench.measuring import measure
    from lookahead.hf.prompts import encode_prompt

    console.print(f"[bold]{method.name}[/bold]")
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    inputs = encode_prompt(tokenizer, prompt, model)
    run = measure(method, model, inputs, max_new_tokens=max_new_tokens, listener=streamer)
    speed = run.tokens / run.total_s
    console.print(f"{run.tokens} tokens in {run.total_s:.1f} s: {speed:.1f} tokens/s\n", style="dim")
    return run


def _table(tallies: dict[str, Tally]) -> Table:
    from lookahead.bench.methods import BASELINE
    from lookahead.bench.tables import NOTHING, compact_table, number, times

    table = compact_table("All questions, prefill included", "method")
    for heading in ("tokens", "seconds", "tokens/s", "speedup", "mean acceptance\nlength", "identical"):
        table.add_column(heading, justify="right")
    plain = tallies[BASELINE]
    for name, tally in tallies.items():
        is_plain = name == BASELINE
        table.add_row(
            name,
            str(tally.tokens),
            number(tally.total_s, decimals=1),
            number(tally.tokens_per_second, decimals=1),
            times(None if is_plain else tally.tokens_per_second / plain.tokens_per_second),
            number(tally.mean_acceptance_length),
            NOTHING if is_plain else f"{_identical(tally, plain)} of {len(plain.runs)}",
        )
    return table


def _identical(tally: Tally, plain: Tally) -> int:
    pairs = zip(tally.runs, plain.runs, strict=True)
    return sum(run.output_ids == reference.output_ids for run, reference in pairs)


def _explain(console: Console, tallies: dict[str, Tally], dtype: str) -> None:
    """Where answers differ, say why; they do not in float32."""
    plain, *others = tallies.values()
    if all(_identical(tally, plain) == len(plain.runs) for tally in others):
        return
    console.print(
        f"Not all answers are identical: in {dtype} a forward of several tokens rounds differently from "
        "several forwards of one, so near ties between two tokens can fall the other way. Both answers are "
        "the model's own. With --dtype float32 they are identical, token for token.",
        style="dim",
    )
