"""`lookahead compile`: compile all kernels now instead of on first use."""

import typer

from lookahead.errors import NotFoundError


def compile_kernels() -> None:
    """Compile all kernels ahead of time: drafting, top-k and the CPU decoder. Takes about a minute, once."""
    from lookahead.jit import can_cache

    if not can_cache():
        message = (
            "compiled kernels cannot be kept: neither the package's folder nor the cache folder can be "
            "written; set NUMBA_CACHE_DIR to a folder that can"
        )
        raise NotFoundError(message)

    from lookahead.backends.cpu.kernels.attention.blocks import BLOCK
    from lookahead.backends.cpu.packed import compile_unpacking
    from lookahead.backends.cpu.step import attention_address, step_address
    from lookahead.decoding.attention.slots import slot_table
    from lookahead.decoding.sampling.topk import compile_topk
    from lookahead.drafting.memory.stores import compile_kernels as compile_draft_kernels
    from lookahead.drafting.tree import DraftTree

    compile_draft_kernels()
    for is_bfloat16 in (False, True):
        step_address(is_bfloat16=is_bfloat16)
        attention_address(is_bfloat16=is_bfloat16)
    compile_unpacking()
    compile_topk()
    slot_table([DraftTree.root_only(0)], [0], 1, BLOCK)
    typer.echo("all kernels are compiled")
