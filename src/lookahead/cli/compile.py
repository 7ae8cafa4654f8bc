"""`lookahead compile`: compile all kernels now instead of on first use."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

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
    typer.echo("compiling all kernels; this takes about a minute")
    workers = min(os.cpu_count() or 1, len(PARTS))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_be_quiet) as pool:
        for part in [pool.submit(part) for part in PARTS]:
            part.result()
    typer.echo("all kernels are compiled")


def _be_quiet() -> None:
    """Do not say in each process what the command has said."""
    import logging

    logging.getLogger("lookahead").setLevel(logging.ERROR)


def _compile_decoder() -> None:
    from lookahead.backends.cpu.step import attention_address, step_address

    for is_bfloat16 in (False, True):
        step_address(is_bfloat16=is_bfloat16)
        attention_address(is_bfloat16=is_bfloat16)


def _compile_drafting() -> None:
    from lookahead.drafting.memory.stores import compile_kernels

    compile_kernels()


def _compile_small_parts() -> None:
    from lookahead.backends.cpu.kernels.attention.blocks import BLOCK
    from lookahead.backends.cpu.packed import compile_unpacking
    from lookahead.decoding.attention.slots import slot_table
    from lookahead.decoding.sampling.topk import compile_topk
    from lookahead.drafting.tree import DraftTree

    compile_unpacking()
    compile_topk()
    slot_table([DraftTree.root_only(0)], [0], 1, BLOCK)


PARTS: tuple[Callable[[], None], ...] = (_compile_decoder, _compile_drafting, _compile_small_parts)
"""What processes of their own compile at once, the longest first; no kernel is in two of them."""
