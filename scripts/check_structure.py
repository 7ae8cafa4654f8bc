"""Check what `make lint` promises of the code's structure: sizes, folders, private names of transformers.

    python scripts/check_structure.py

A module has at most 400 lines, a function 60, a folder of src/lookahead 12 entries (its root excepted).
Private names of transformers are only in hf/compat/, as accesses and as strings.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "lookahead"
MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_FOLDER_ENTRIES = 400, 60, 12
PRIVATE_NAME = re.compile(
    r"noqa: SLF001|\b_(attn_implementation|supports_|compiled_call_impl|prefill|sample\b|pad_token_tensor|"
    r"update_model_kwargs|is_user_defined|(global_)?forward_(pre_)?hooks|parametrizations|buffers\b)"
)
OUR_OWN = {"jit.py": "numba's private names", "attachment.py": "our own other half"}
"""Files whose passed-over accesses are not of transformers."""


def too_long(path: Path) -> Iterator[str]:
    """Yield what of a module is too long."""
    source = path.read_text(encoding="utf-8")
    lines = source.count("\n")
    if lines > MAX_MODULE_LINES:
        yield f"{path.relative_to(ROOT)} has {lines} lines, more than {MAX_MODULE_LINES}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                where = f"{path.relative_to(ROOT)}: {node.name}"
                yield f"{where} has {length} lines, more than {MAX_FUNCTION_LINES}"


def too_full() -> Iterator[str]:
    """Yield the folders that have too many entries."""
    for folder in sorted(path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"):
        entries = [entry for entry in folder.iterdir() if entry.name != "__pycache__"]
        if len(entries) > MAX_FOLDER_ENTRIES:
            yield f"{folder.relative_to(ROOT)} has {len(entries)} entries, more than {MAX_FOLDER_ENTRIES}"


def private_names(path: Path) -> Iterator[str]:
    """Yield the private names of transformers in a module."""
    if "compat" in path.parts or path.name in OUR_OWN:
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        found = PRIVATE_NAME.search(line)
        if found:
            yield f"{path.relative_to(ROOT)}:{number}: {found.group()} belongs into hf/compat/"


def main() -> int:
    """Print every violation; return 1 if there is one."""
    modules = sorted(PACKAGE.rglob("*.py"))
    problems = [problem for path in modules for problem in (*too_long(path), *private_names(path))]
    problems += too_full()
    print("\n".join(problems) or f"{len(modules)} modules: sizes, folders and private names are as promised")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
