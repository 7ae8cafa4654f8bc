"""Check that an SGLang release still has what our plugin builds on, without importing it.

    pip download sglang --no-deps --dest somewhere
    python scripts/sglang_contract.py somewhere/sglang-0.5.23-….whl
    python scripts/sglang_contract.py folder-with-sglang-in-it --write

It reads signatures and names from the source and compares them with tests/integrations/sglang/contract.json,
which the tests check our side against. It prints what differs and returns 1 if anything does; with --write it
records the release instead.
"""

import argparse
import ast
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parents[1] / "tests" / "integrations" / "sglang" / "contract.json"
SPECULATIVE = "sglang/srt/speculative/"
ALGORITHMS = ("spec_algorithm", "spec_algo")
"""What SGLang calls its variables that hold an algorithm."""
REQUEST_FIELDS = (
    "rid",
    "origin_input_ids_unpadded",
    "output_ids",
    "output_ids_through_stop",
    "cache_salt",
    "extra_key",
    "lora_id",
    "sampling_params",
    "finished",
)
PARALLEL_FIELDS = ("tp_group", "dp_rank")
GROUP_FIELDS = ("world_size", "rank_in_group", "ranks", "cpu_group")
ARGUMENTS = (
    "device",
    "disable_overlap_schedule",
    "max_running_requests",
    "enable_mixed_chunk",
    "speculative_eagle_topk",
    "speculative_ngram_max_bfs_breadth",
    "speculative_num_draft_tokens",
    "speculative_num_steps",
    "page_size",
    "attention_backend",
    "attn_dp_size",
)

Read = Callable[[str], str]


def reader(source: Path) -> tuple[Read, list[str]]:
    """Return what reads a file of a wheel or an unpacked one, and the names of its Python files."""
    if source.is_dir():
        names = [path.relative_to(source).as_posix() for path in (source / "sglang/srt").rglob("*.py")]
        return lambda name: (source / name).read_text(encoding="utf-8"), sorted(names)
    wheel = zipfile.ZipFile(source)
    names = [name for name in wheel.namelist() if name.startswith("sglang/srt/") and name.endswith(".py")]
    return lambda name: wheel.read(name).decode(), sorted(names)


def signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the names of a function's arguments, those that may only be named with a star before."""
    positional = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return [*positional, *(f"*{argument.arg}" for argument in function.args.kwonlyargs)]


def methods(tree: ast.Module, name: str) -> dict[str, list[str]]:
    """Return the signatures of a class's methods, private ones left out except `__init__`."""
    return {
        node.name: signature(node)
        for found in tree.body
        if isinstance(found, ast.ClassDef) and found.name == name
        for node in found.body
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__")
    }


def calls(tree: ast.AST, receivers: tuple[str, ...]) -> Iterator[str]:
    """Yield the names of methods that are called on variables or attributes of these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            receiver = node.func.value
            name = receiver.attr if isinstance(receiver, ast.Attribute) else getattr(receiver, "id", "")
            if name in receivers:
                yield node.func.attr


def reads(tree: ast.AST, variable: str) -> set[str]:
    """Return the attributes that are read of a variable."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == variable
    }


def names_in(tree: ast.AST) -> set[str]:
    """Return the names that are defined anywhere: functions, variables, attributes and slots."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def constants_given(tree: ast.Module, function: str) -> dict[str, Any]:
    """Return the keyword arguments with constant values of all calls in a function."""
    return {
        keyword.arg: keyword.value.value
        for found in tree.body
        if isinstance(found, ast.FunctionDef) and found.name == function
        for node in ast.walk(found)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg is not None and isinstance(keyword.value, ast.Constant)
    }


def assigned(tree: ast.Module, name: str) -> str | None:
    """Return what a module assigns to a name, as it is written there."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return ast.unparse(node.value)
    return None


def extracted(source: Path) -> dict[str, Any]:
    """Return all that our plugin builds on, as it is in a release."""
    read, names = reader(source)

    def parsed(name: str) -> ast.Module:
        return ast.parse(read(name))

    worker = parsed(SPECULATIVE + "ngram_worker.py")
    registry, algorithms = parsed(SPECULATIVE + "spec_registry.py"), parsed(SPECULATIVE + "spec_info.py")
    called = {name for path in names for name in calls(parsed(path), ALGORITHMS)}
    defined = methods(algorithms, "SpeculativeAlgorithm")
    plugin_class = methods(registry, "CustomSpecAlgo")
    corpus = methods(parsed(SPECULATIVE + "cpp_ngram/ngram_corpus.py"), "NgramCorpus")
    used = sorted(set(calls(worker, ("ngram_corpus",))))
    worker_methods = methods(worker, "NGRAMWorker")
    base_methods = methods(parsed(SPECULATIVE + "base_spec_worker.py"), "BaseSpecWorker")
    fields = set()
    for path in names:
        if path.startswith("sglang/srt/arg_groups/fields/"):
            fields |= names_in(parsed(path))
    context = names_in(parsed("sglang/srt/runtime_context.py"))
    group = names_in(parsed("sglang/srt/distributed/parallel_state.py"))
    requests = names_in(parsed("sglang/srt/managers/schedule_batch.py"))
    return {
        "release": assigned(parsed("sglang/_version.py"), "__version__"),
        "entry_point_group": assigned(parsed("sglang/srt/plugins/__init__.py"), "GENERAL_PLUGINS_GROUP"),
        "separator_token": assigned(parsed(SPECULATIVE + "cpp_ngram/external_corpus.py"), "SEPARATOR_TOKEN"),
        "register": defined.get("register"),
        "plugin_class": plugin_class,
        "algorithm_methods_called": sorted(called & defined.keys()),
        "plugin_class_lacks": sorted((called & defined.keys()) - plugin_class.keys()),
        "corpus_used_by_worker": {name: corpus.get(name) for name in used},
        "worker": {name: worker_methods.get(name) for name in ("__init__", "forward_batch_generation")},
        "worker_attributes": sorted({"ngram_corpus", "max_trie_depth", "draft_token_num"} & names_in(worker)),
        "worker_reads_of_requests": sorted(reads(worker, "req")),
        "note_request_finished": base_methods.get("note_request_finished"),
        "ngram_defaults": constants_given(
            parsed("sglang/srt/arg_groups/speculative_hook.py"), "_handle_ngram"
        ),
        "arguments_missing": sorted(set(ARGUMENTS) - fields),
        "request_fields_missing": sorted(set(REQUEST_FIELDS) - requests),
        "parallel_fields_missing": sorted(set(PARALLEL_FIELDS) - context),
        "group_fields_missing": sorted(set(GROUP_FIELDS) - group),
    }


def differences(recorded: Any, found: Any, where: str = "") -> Iterator[str]:
    """Yield where two contracts differ, the release's number left out."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        for name in sorted((recorded.keys() | found.keys()) - {"release"}):
            yield from differences(recorded.get(name), found.get(name), f"{where}.{name}".lstrip("."))
    elif recorded != found:
        yield f"{where}: recorded {recorded}, found {found}"


def main() -> int:
    """Compare or record; return 1 if something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("source", type=Path, help="a wheel, or a folder with the package sglang in it")
    parser.add_argument("--write", action="store_true", help="record this release")
    given = parser.parse_args()
    found = extracted(given.source)
    if given.write:
        RECORD.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{given.source.name} is recorded in {RECORD.name}")
        return 0
    different = list(differences(json.loads(RECORD.read_text(encoding="utf-8")), found))
    print("\n".join(different) or f"{given.source.name} has all that the plugin builds on")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
