"""`lookahead memory`: create, inspect and merge memory files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookahead.cli import options
from lookahead.cli.setup import check_can_write, describe_call, notices
from lookahead.errors import ConfigError
from lookahead.files import write_json

if TYPE_CHECKING:
    from lookahead.drafting.memory.draft_memory import DraftMemory
    from lookahead.drafting.memory.file_format import SavedMemory

memory = typer.Typer(
    name="memory",
    no_args_is_help=True,
    help="Create, inspect and merge memory files, which `lookahead generate --memory` drafts from.",
)

Texts = Annotated[
    list[Path],
    typer.Argument(help="Files of one text each, or .jsonl and .jsonl.gz files of rows with answers."),
]
Out = Annotated[Path, typer.Option("--memory", help="Write the memory to this file.")]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        help="Cap of the memory in bytes; the oldest text is dropped first.",
        show_default="the cap of the file, or 256 MiB",
    ),
]
Field = Annotated[
    str | None,
    typer.Option(
        help="The field of a row to read: a text, a list of texts, or token ids.",
        show_default="the first of output_ids, answer, reference",
    ),
]
Namespace = Annotated[
    str, typer.Option(help="The namespace of the texts: only its requests draft from them.")
]


@memory.command()
def warm(
    files: Texts,
    out: Out,
    model: options.Model = "embedded",
    namespace: Namespace = "default",
    field: Field = None,
    into: Annotated[Path | None, typer.Option(help="Start from this memory file.")] = None,
    max_bytes: MaxBytes = None,
) -> None:
    """Write texts to a memory as if they were answers. Needs the model's tokenizer only."""
    from lookahead.bench.data.texts import read_texts
    from lookahead.drafting.memory.draft_memory import DraftMemory

    check_can_write(out)
    texts = [text for file in files for text in read_texts(file, field)]
    with notices.status(f"loading the tokenizer of {model}"):
        from lookahead.hf.models.loading import load_tokenizer

        tokenizer = load_tokenizer(model)
    made = (
        DraftMemory(max_bytes=max_bytes)
        if into is None
        else DraftMemory.load(into, tokenizer=tokenizer, max_bytes=max_bytes)
    )
    with notices.status("warming"):
        tokens = made.warm(texts, tokenizer=tokenizer, namespace=namespace)
    made.save(out)
    typer.echo(f"remembered {tokens:,} tokens of {len(texts):,} texts in {namespace!r}; {_summary(made)}")


@memory.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A memory file.")],
    json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
) -> None:
    """Show the contents of a memory file: tokens per namespace, vocabulary and tokenizer."""
    from lookahead.drafting.memory.file_format import read_memory

    if json is not None:
        check_can_write(json)
    figures = _figures(file, read_memory(file))
    _print(figures)
    if json is not None:
        write_json(json, {**describe_call(), **figures})


@memory.command()
def merge(
    files: Annotated[
        list[Path], typer.Argument(help="Two or more memory files; the last counts as the newest.")
    ],
    out: Out,
    max_bytes: MaxBytes = None,
) -> None:
    """Merge memory files of one model into one file, namespace by namespace."""
    from lookahead.drafting.memory.draft_memory import DraftMemory

    if len(files) < 2:
        message = "one file was given; give two or more to merge"
        raise ConfigError(message)
    check_can_write(out)
    merged = DraftMemory.load(files[0], max_bytes=max_bytes)
    for file in files[1:]:
        merged.merge(DraftMemory.load(file))
    merged.save(out)
    typer.echo(f"merged {len(files)} memories; {_summary(merged)}")


def _summary(made: "DraftMemory") -> str:
    held = made.namespaces
    plural = "" if len(held) == 1 else "s"
    return f"the memory holds {sum(held.values()):,} tokens in {len(held)} namespace{plural}"


def _figures(file: Path, saved: "SavedMemory") -> dict[str, Any]:
    from lookahead.drafting.memory.file_format import FORMAT_VERSION
    from lookahead.drafting.memory.snapshots import tokens_by_namespace

    held = tokens_by_namespace(saved.snapshot)
    return {
        "file": file.name,
        "file_bytes": file.stat().st_size,
        "format_version": FORMAT_VERSION,
        "lookahead_version": saved.lookahead_version,
        "tokens": sum(held.values()),
        "namespaces": held,
        "recycled_entries": len(saved.snapshot["keys"]),
        "max_bytes": saved.max_bytes,
        "vocabulary_size": saved.vocabulary_size,
        "tokenizer_fingerprint": saved.tokenizer,
    }


def _print(figures: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(
        f"{figures['file']}: {figures['tokens']:,} tokens, {figures['file_bytes']:,} bytes",
        highlight=False,
        markup=False,
    )
    table = Table("namespace", box=box.SIMPLE)
    table.add_column("tokens", justify="right")
    for name, tokens in figures["namespaces"].items():
        table.add_row(Text(name), f"{tokens:,}")
    console.print(table)
    unknown = "not known yet"
    fingerprint = figures["tokenizer_fingerprint"]
    console.print(
        f"cap {figures['max_bytes']:,} bytes; {figures['recycled_entries']:,} recycled predictions; "
        f"vocabulary {figures['vocabulary_size'] or unknown}; "
        f"tokenizer {fingerprint[:12] if fingerprint else unknown}; "
        f"format {figures['format_version']}, lookahead {figures['lookahead_version']}",
        highlight=False,
        markup=False,
    )
