"""`lookahead compile`: compile all kernels now instead of on first use."""

import typer


def compile_kernels() -> None:
    """Compile all kernels ahead of time: drafting, top-k and the CPU decoder. Takes about a minute, once."""
    from lookahead.backends.cpu.kernels.blocks import BLOCK
    from lookahead.backends.cpu.step import attention_address, step_address
    from lookahead.decoding.attention.slots import slot_table
    from lookahead.drafting.log.entry_points import compile_log_kernels
    from lookahead.drafting.tree import DraftTree
    from lookahead.drafting.trie.token_trie import compile_kernels as compile_trie_kernels

    compile_trie_kernels()
    compile_log_kernels()
    for is_bfloat16 in (False, True):
        step_address(is_bfloat16=is_bfloat16)
        attention_address(is_bfloat16=is_bfloat16)
    slot_table([DraftTree.root_only(0)], [0], 1, BLOCK)
    typer.echo("all kernels are compiled")
