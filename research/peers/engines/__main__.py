"""`python -m research.peers.engines ROWS.jsonl --model MODEL.gguf`: what a CPU user would take instead."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from lookahead.bench.data.datasets import limit_rows, read_rows
from lookahead.bench.run.environment import describe_machine, load_average
from lookahead.cli.setup import check_can_write, deliver, describe_call, describe_file, notices
from lookahead.errors import ConfigError
from lookahead.hf.models.loading import load_model, load_tokenizer
from research.command import run_command
from research.peers.engines.environments import SYSTEMS, environment_of, version_of
from research.peers.engines.files import FORMATS, converted_file
from research.peers.engines.measure import Worker, measured, summary
from research.peers.engines.settings import SETTINGS, Setting

_PROGRAM = "python -m research.peers.engines"
_CONTEXT = 4096
app = typer.Typer(add_completion=False)


def _file_of(setting: Setting, model: Path, folder: Path) -> str:
    """Return the file or folder that a setting loads."""
    if setting.file in FORMATS:
        return str(converted_file(model, setting.file, folder))
    if setting.file == "source":
        return str(model)
    target = folder / model.stem
    if not target.exists():
        loaded, tokenizer = load_model(str(model), "bfloat16", "cpu")
        loaded.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return str(target)


def _prompts(rows: Path, model: Path, limit: int) -> list[list[int]]:
    """Return the prompts as tokens, so that all systems read the same."""
    tokenizer: Any = load_tokenizer(str(model))
    chats = [[{"role": "user", "content": row.prompt}] for row in limit_rows(read_rows(rows), limit)]
    return [
        list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])
        for chat in chats
    ]


def _worker(setting: Setting, model: Path, folder: Path, threads: int) -> Worker:
    is_ours = setting.system == "ours"
    python = Path(sys.executable) if is_ours else environment_of(setting.system, folder)
    job = {"model": _file_of(setting, model, folder), "threads": threads, "context": _CONTEXT}
    return Worker(python, setting.system, {**job, **dict(setting.options)}, folder / "workers.log")


def _show(summaries: dict[str, dict[str, Any]]) -> None:
    notices.print(f"{'':32}{'decoding':>12}{'end to end':>12}{'prompts, s':>12}")
    for name, found in summaries.items():
        numbers = (found[key] for key in ("decoding_tokens_s", "end_to_end_tokens_s", "prompts_s"))
        notices.print(f"{name:32}" + "".join(f"{number:12}" for number in numbers), highlight=False)


@app.command()
def engines(
    rows: Annotated[Path, typer.Argument(help="Prompts as JSON lines.")],
    model: Annotated[Path, typer.Option(help="A GGUF file.")],
    folder: Annotated[Path, typer.Option(help="For environments, files and logs.")] = Path("build/peers"),
    system: Annotated[
        list[str] | None, typer.Option(help="Only this system; repeatable.", show_default="all")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Prompts.")] = 12,
    max_new_tokens: Annotated[int, typer.Option(min=2, help="Maximum length of an answer.")] = 96,
    rounds: Annotated[int, typer.Option(min=1, help="How often all prompts are answered.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each system.")] = 2,
    json: Annotated[Path | None, typer.Option(help="Write the record here.")] = None,
) -> None:
    """Set up other systems, make the files that they read, and measure all in turns."""
    known = ("ours", *SYSTEMS)
    wanted = list(system or known)
    if unknown := sorted(set(wanted) - set(known)):
        message = f"--system {unknown[0]} is not allowed; choose from {', '.join(known)}"
        raise ConfigError(message)
    if json is not None:
        check_can_write(json)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prompts, model = _prompts(rows, model, limit), model.resolve()
    machine = describe_machine(load_average())
    with ExitStack() as stack:
        workers = {}
        for setting in SETTINGS:
            if setting.system in wanted:
                with notices.status(f"loading {setting.name}"):
                    workers[setting.name] = stack.enter_context(_worker(setting, model, folder, threads))
        found = measured(workers, prompts, max_new_tokens, rounds)
        summaries = {
            name: {"load_s": round(workers[name].load_s, 2), **summary(answers)}
            for name, answers in found.items()
        }
    report = {
        **describe_call(_PROGRAM),
        **describe_file(rows),
        "machine": machine,
        "threads": threads,
        "model": model.name,
        "prompts": len(prompts),
        "max_new_tokens": max_new_tokens,
        "versions": {name: version_of(name, folder) for name in wanted if name != "ours"},
        "settings": summaries,
        "answers": {name: [answer["tokens"] for answer in turns[0]] for name, turns in found.items()},
    }
    deliver(json, report, lambda: _show(summaries))


if __name__ == "__main__":
    run_command(app)
