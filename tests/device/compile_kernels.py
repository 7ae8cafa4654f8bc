"""Compile the Triton kernels for cards that are not there: `python compile_kernels.py ARCHITECTURE...`.

Prints a line of JSON for each variant: its architecture, its shared memory, and the bytes of the cubin.
A process of its own, because Triton decides once per process whether it interprets or compiles.
"""

import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lookahead.backends.cuda import tree_kernel

_POINTERS = {"queries": "*{}", "keys": "*{}", "values": "*{}", "packed": "*i64", "row_table": "*i64"}
_POINTERS |= {"block_table": "*i64", "begins": "*i64", "sums": "*fp32", "tops": "*fp32", "weights": "*fp32"}
_FLOATS = ("scale", "softcap")
VARIANTS = [
    # dtype, nodes, group, width, and whether there are soft cap, window, chunk and tables
    ("bf16", 1, 4, 128, ()),
    ("bf16", 16, 4, 128, ()),
    ("bf16", 64, 8, 128, ("HAS_WINDOW",)),
    ("fp16", 16, 1, 256, ("HAS_SOFTCAP", "HAS_WINDOW")),
    ("fp16", 16, 8, 64, ("HAS_CHUNK", "HAS_ROW_TABLE", "HAS_BLOCK_TABLE")),
    ("fp32", 16, 4, 128, ("HAS_BEGINS",)),
]
_FLAGS = ("HAS_SOFTCAP", "HAS_WINDOW", "HAS_CHUNK", "HAS_ROW_TABLE", "HAS_BLOCK_TABLE", "HAS_BEGINS")


def _compiled(kernel, signature, constants, architecture):
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_stages": 2} if kernel is tree_kernel.attend_to_part else {}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def compiled_part(variant, architecture):
    dtype, nodes, group, width, flags = variant
    queries = min(64, max(16, triton.next_power_of_2(nodes * group)))
    constants = {
        **{"NODES": nodes, "GROUP": group, "KEY_WIDTH": width, "VALUE_WIDTH": width, "KEY_LANES": width},
        **{"VALUE_LANES": width, "QUERIES": queries, "ALL_QUERIES": -(-nodes * group // queries) * queries},
        **{"BLOCK": 32 if dtype == "fp32" or width > 128 else 64, "BLOCK_TOKENS": 16, "SPLITS": 8},
        **{flag: flag in flags for flag in _FLAGS},
    }
    kernel = tree_kernel.attend_to_part
    kinds = {name: kind.format(dtype) for name, kind in _POINTERS.items()} | dict.fromkeys(_FLOATS, "fp32")
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, "i32") for name in kernel.arg_names
    }
    return _compiled(kernel, signature, constants, architecture)


def compiled_join(dtype, architecture):
    constants = {"NODES": 16, "GROUP": 4, "VALUE_WIDTH": 128, "VALUE_LANES": 128, "ALL_QUERIES": 64}
    constants |= {"SPLITS": 8, "HAS_SINKS": True, "HAS_BEGINS": True}
    kernel = tree_kernel.join_parts
    kinds = {
        "sums": "*fp32",
        "tops": "*fp32",
        "weights": "*fp32",
        "sinks": f"*{dtype}",
        "begins": "*i64",
        "result": f"*{dtype}",
    }
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, "i32") for name in kernel.arg_names
    }
    return _compiled(kernel, signature, constants, architecture)


def main(architectures):
    for architecture in architectures:
        found = [(variant, compiled_part(variant, architecture)) for variant in VARIANTS]
        found.append((("join",), compiled_join("bf16", architecture)))
        for variant, kernel in found:
            line = {"architecture": architecture, "variant": variant, "shared": kernel.metadata.shared}
            print(json.dumps({**line, "cubin": len(kernel.asm["cubin"])}), flush=True)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
