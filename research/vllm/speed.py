"""Measure vLLM with our proposer beside vLLM without speculation and with its own suffix decoding.

    python -m research.vllm.speed ROWS.jsonl --environment .venv-vllm --model FOLDER --json RECORD.json

The engines stay alive, each in a process; only one works at a time. In each round every method answers the
same requests, in turns that change: first cold (a namespace that is new, a suffix cache that is empty), then
warm (the memory holds the answers to the same prompts). Ratios are of wall seconds within a round.
"""

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lookahead.bench.data.datasets import limit_rows, read_rows
from lookahead.bench.report.uncertainty import median_interval
from lookahead.bench.run.environment import describe_machine, load_average
from lookahead.files import write_json
from research.command import run_command
from research.vllm.client import VllmProcess

_METHODS = ("none", "lookahead", "suffix")
Rounds = dict[str, list[dict[str, Any]]]

app = typer.Typer(add_completion=False)


def _prompts(rows_file: Path, model: str, limit: int) -> list[list[int]]:
    from transformers import AutoTokenizer  # noqa: PLC0415  heavy

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    made = []
    for row in limit_rows(read_rows(rows_file), limit):
        messages = [{"role": "user", "content": row.prompt}]
        found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
        made.append(list(found if isinstance(found, list) else found["input_ids"]))
    return made


class Measurement:
    """The engines of one number of rows, and their rounds.

    Args:
        engines: By method.
        prompts: The prompts' tokens.
        max_tokens: Tokens of each answer.
    """

    def __init__(
        self, engines: dict[str, VllmProcess], prompts: Sequence[list[int]], max_tokens: int
    ) -> None:
        self._engines, self._prompts, self._max_tokens = engines, prompts, max_tokens
        self.rounds: Rounds = {}

    def warm_up(self) -> None:
        """Let each engine do every kind of step once, with prompts that are not measured."""
        for engine in self._engines.values():
            prompts = [prompt[: len(prompt) // 2] for prompt in self._prompts]
            engine.do("run", requests=self._requests(prompts, "warm up"))

    def round(self, number: int) -> None:
        """Do one round of all methods."""
        names = list(self._engines)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            engine = self._engines[name]
            engine.do("reset")
            for phase in ("cold", "warm") if name != "none" else ("cold",):
                told = engine.do("run", requests=self._requests(self._prompts, f"round {number}"))
                told["answers"] = [tuple(answer) for answer in told["answers"]]
                self.rounds.setdefault(f"{name} {phase}", []).append(told)

    def summary(self) -> dict[str, Any]:
        """Return the figures of each method and phase, and ratios with their 95% interval."""
        plain = self.rounds["none cold"]
        found: dict[str, Any] = {}
        for name, rounds in self.rounds.items():
            ratios = [base["seconds"] / own["seconds"] for base, own in zip(plain, rounds, strict=True)]
            found[name] = {
                "seconds": [round(one["seconds"], 3) for one in rounds],
                "cpu_seconds": [round(one["cpu_seconds"], 3) for one in rounds],
                "speedup": {"median": statistics.median(ratios), "interval": median_interval(ratios)},
                "tokens": sum(map(len, rounds[0]["answers"])),
                "drafted": statistics.median(one["drafted"] for one in rounds),
                "accepted": statistics.median(one["accepted"] for one in rounds),
                "same_texts_as_none": sum(
                    own == base for own, base in zip(rounds[0]["answers"], plain[0]["answers"], strict=True)
                ),
            }
        return found

    def _requests(self, prompts: Sequence[list[int]], namespace: str) -> list[dict[str, Any]]:
        return [
            {
                "prompt_ids": prompt,
                "max_tokens": self._max_tokens,
                "ignore_eos": True,
                "namespace": namespace,
            }
            for prompt in prompts
        ]


def show(summaries: dict[str, dict[str, Any]]) -> None:
    """Print a table of all figures."""
    table = Table("rows", "method", "seconds", "speedup", "95%", "drafted", "accepted", "same texts")
    for rows, summary in summaries.items():
        for name, figures in summary.items():
            speedup = figures["speedup"]
            low, high = speedup["interval"] or (float("nan"),) * 2
            table.add_row(
                rows,
                name,
                f"{statistics.median(figures['seconds']):.2f}",
                f"{speedup['median']:.3f}",
                f"{low:.3f} - {high:.3f}",
                str(figures["drafted"]),
                str(figures["accepted"]),
                str(figures["same_texts_as_none"]),
            )
    Console().print(table)


@app.command()
def speed(
    rows_file: Annotated[Path, typer.Argument(help="Prompts, one JSON object on each line.")],
    environment: Annotated[Path, typer.Option(help="A virtual environment with vLLM and Lookahead.")],
    model: Annotated[str, typer.Option(help="A folder with a model.")],
    rows: Annotated[str, typer.Option(help="Requests at once, separated by commas.")] = "1,8",
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    limit: Annotated[int, typer.Option(min=1, help="Prompts.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    methods: Annotated[str, typer.Option(help="Any of none, lookahead, suffix.")] = ",".join(_METHODS),
    dtype: str = "bfloat16",
    threads: Annotated[int, typer.Option(min=1)] = 2,
    json: Annotated[Path | None, typer.Option(help="Where to write the record.")] = None,
) -> None:
    """Measure vLLM with each method, and report speedups over vLLM without speculation."""
    load = load_average()
    prompts = _prompts(rows_file, model, limit)
    summaries = {}
    with tempfile.TemporaryDirectory() as logs:
        for count in map(int, rows.split(",")):
            with ExitStack() as stack:
                engines = {}
                for name in methods.split(","):
                    job = {"model": model, "dtype": dtype, "method": name, "rows": count}
                    log = Path(logs, f"{name}-{count}.log")
                    engine = VllmProcess(environment, job, threads=threads, log=log)
                    engines[name] = stack.enter_context(engine)
                measurement = Measurement(engines, prompts, max_new_tokens)
                measurement.warm_up()
                for number in range(rounds):
                    measurement.round(number)
                summaries[str(count)] = measurement.summary()
            show(summaries)
    if json is not None:
        report = {
            "kind": "vllm",
            "environment": describe_machine(load),
            "vllm": _version(environment),
            "model": Path(model).name,
            "dtype": dtype,
            "threads": threads,
            "prompts": len(prompts),
            "prompt_tokens": sum(map(len, prompts)),
            "max_new_tokens": max_new_tokens,
            "by_rows": summaries,
        }
        write_json(json, report)


def _version(environment: Path) -> str:
    """Return the version of vLLM in an environment."""
    found = sorted((environment / "lib").glob("python*/site-packages/vllm*.dist-info"))
    return found[0].name.removesuffix(".dist-info") if found else "unknown"


def main() -> None:
    """Run the command."""
    run_command(app)


if __name__ == "__main__":
    main()
